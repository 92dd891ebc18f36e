//! The loads: sockperf for latency, iperf3 for streams and packet rates, redis-benchmark for
//! connections. Each is a program of Debian's, as it is.

mod connect;
mod cpu;
mod iperf;
mod server;
mod sockperf;

use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};

use super::effort::Effort;
use super::figures::Measure;
use super::systems::Path;

/// What runs between a client and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    PathLength,
    RoundTrip,
    Stream,
    Streams,
    PacketRate,
    ConnectRate,
}

impl Load {
    pub(super) const ALL: &[Self] = &[
        Self::PathLength,
        Self::RoundTrip,
        Self::Stream,
        Self::Streams,
        Self::PacketRate,
        Self::ConnectRate,
    ];

    /// Runs it once over a system, and returns what was measured.
    pub(super) fn run(self, path: &Path, effort: Effort) -> Result<Vec<(Measure, f64)>> {
        let seconds = effort.seconds();
        match self {
            Self::PathLength => {
                sockperf::median(path, seconds, Some(0)).map(|us| vec![(Measure::PathLength, us)])
            }
            Self::RoundTrip => {
                sockperf::median(path, seconds, None).map(|us| vec![(Measure::RoundTrip, us)])
            }
            Self::Stream => iperf::tcp(path, seconds, 1).map(|stream| {
                vec![
                    (Measure::Stream, stream.gbit_s),
                    (Measure::StreamCpu, stream.cpu_per_gb),
                ]
            }),
            Self::Streams => {
                iperf::tcp(path, seconds, 8).map(|stream| vec![(Measure::Streams, stream.gbit_s)])
            }
            Self::PacketRate => iperf::udp(path, seconds).map(|packets| {
                vec![
                    (Measure::PacketRate, packets.kpps),
                    (Measure::PacketCpu, packets.cpu_per_million),
                ]
            }),
            Self::ConnectRate => connect::rate(path, effort.connections())
                .map(|rate| vec![(Measure::ConnectRate, rate)]),
        }
        .with_context(|| format!("{self:?} over {}", path.system.title()))
    }
}

/// A port of its own for every measurement: the connections of the last one linger (TIME_WAIT), and
/// sockperf does not take a port where they do.
fn new_port() -> u16 {
    static LAST: AtomicU16 = AtomicU16::new(5200);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}
