//! The loads: sockperf for latency, iperf3 for streams and packet rates.

use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};
use serde_json::Value;

use super::systems::Path;
use crate::netns::Netns;

use crate::wait::{SOON, until};

/// A port of its own for every measurement: the connections of the last one linger (TIME_WAIT), and
/// sockperf does not take a port where they do.
fn new_port() -> u16 {
    static LAST: AtomicU16 = AtomicU16::new(5200);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// TCP request and response of 64 bytes, one way, median, everything on one CPU: the length of the path.
    Latency,
    /// One TCP stream.
    Stream,
    /// UDP datagrams of 64 bytes that arrive.
    PacketRate,
}

impl Kind {
    /// All of them, in the order of the report.
    pub const ALL: &[Self] = &[Self::Latency, Self::Stream, Self::PacketRate];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Latency => "TCP request/response 64 B, one way p50, one CPU",
            Self::Stream => "TCP stream",
            Self::PacketRate => "UDP 64 B packet rate",
        }
    }

    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Latency => "tcp_rr_p50_us",
            Self::Stream => "tcp_stream_gbit_s",
            Self::PacketRate => "udp_64b_kpps",
        }
    }

    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::Latency => "us",
            Self::Stream => "Gbit/s",
            Self::PacketRate => "kpps",
        }
    }

    pub(super) fn shown(self, value: f64) -> String {
        match self {
            Self::Latency => format!("{value:.2}"),
            Self::Stream => format!("{value:.1}"),
            Self::PacketRate => format!("{value:.0}"),
        }
    }
}

/// One measurement.
pub(super) fn measure(kind: Kind, path: &Path, seconds: u32) -> Result<f64> {
    let measured = match kind {
        Kind::Latency => latency(path, seconds),
        Kind::Stream => iperf(path, seconds, "")
            .and_then(|r| number(&r, "/end/sum_received/bits_per_second").map(|b| b / 1e9)),
        Kind::PacketRate => iperf(path, seconds, "-u -b 0 -l 64").and_then(|r| arrived(&r)),
    };
    measured.with_context(|| format!("{} over {}", kind.title(), path.system.title()))
}

/// Client, server, and with them all softirq work, on CPU 0: then a ping-pong measures the path, not wake-ups of the other CPU.
fn latency(path: &Path, seconds: u32) -> Result<f64> {
    let (address, port) = (path.address, new_port());
    let _server = Server::start(
        path,
        port,
        &format!("taskset -c 0 sockperf server --tcp -i {address} -p {port}"),
    )?;
    let text = path.client.run(&format!(
        "taskset -c 0 sockperf ping-pong --tcp -i {address} -p {port} -m 64 -t {seconds}"
    ))?;
    let line = text.lines().find(|line| line.contains("percentile 50.000"));
    let value = line
        .and_then(|line| line.rsplit('=').next())
        .context("sockperf printed no median")?;
    value
        .trim()
        .parse()
        .with_context(|| format!("sockperf's median `{value}`"))
}

fn iperf(path: &Path, seconds: u32, more: &str) -> Result<Value> {
    let port = new_port();
    let _server = Server::start(path, port, &format!("iperf3 -s -p {port}"))?;
    let text = path.client.run(&format!(
        "iperf3 -J -c {} -p {port} -t {seconds} {more}",
        path.address
    ))?;
    serde_json::from_str(&text).context("iperf3's report")
}

/// Thousand datagrams per second that the receiver counted.
fn arrived(report: &Value) -> Result<f64> {
    let [sent, lost, seconds] = ["packets", "lost_packets", "seconds"]
        .map(|field| number(report, &format!("/end/sum/{field}")));
    Ok((sent? - lost?) / seconds? / 1e3)
}

fn number(report: &Value, pointer: &str) -> Result<f64> {
    report
        .pointer(pointer)
        .and_then(Value::as_f64)
        .with_context(|| format!("iperf3 reports no {pointer}"))
}

/// A server process that ends with this value.
struct Server(Child);

impl Server {
    fn start(path: &Path, port: u16, line: &str) -> Result<Self> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        let mut command = path.server.command(program);
        command
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Self(
            command
                .spawn()
                .with_context(|| format!("cannot run {line}"))?,
        );
        until(SOON, "the server's port", || listening(&path.server, port))?;
        Ok(server)
    }
}

/// Asks the kernel, because a test connection would confuse the server.
fn listening(netns: &Netns, port: u16) -> Result<()> {
    let sockets = netns.run(&format!("ss -Hltn sport = :{port}"))?;
    anyhow::ensure!(!sockets.trim().is_empty(), "nobody listens");
    Ok(())
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended by itself is as good as killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
