//! Streams and packet rates, and the CPU time that they take.

use anyhow::{Context, Result};
use serde_json::Value;

use super::new_port;
use super::{cpu, server::Server};
use crate::bench::systems::Path;

pub(super) struct Stream {
    pub(super) gbit_s: f64,
    /// CPU seconds per 10^9 bytes that arrived.
    pub(super) cpu_per_gb: f64,
}

pub(super) struct Packets {
    /// Thousand datagrams per second that arrived.
    pub(super) kpps: f64,
    /// CPU seconds per 10^6 datagrams that arrived.
    pub(super) cpu_per_million: f64,
}

/// The congestion control of streams, on every machine the same. BBR paces them, so that they would not
/// show what a path can do.
const CONGESTION_CONTROL: &str = "cubic";

/// TCP in this many flows.
pub(super) fn tcp(path: &Path, seconds: u32, flows: u32) -> Result<Stream> {
    let amount = amount(seconds, "-n 4M");
    let (report, cpu) = run(
        path,
        &format!("-C {CONGESTION_CONTROL} -P {flows} {amount}"),
    )?;
    let received = |field| number(&report, &format!("/end/sum_received/{field}"));
    Ok(Stream {
        gbit_s: received("bits_per_second")? / 1e9,
        cpu_per_gb: cpu / (received("bytes")? / 1e9),
    })
}

/// UDP datagrams of 64 bytes, as many as the sender can.
pub(super) fn udp(path: &Path, seconds: u32) -> Result<Packets> {
    let amount = amount(seconds, "-n 256K");
    let (report, cpu) = run(path, &format!("-u -b 0 -l 64 {amount}"))?;
    let [sent, lost, seconds] = ["packets", "lost_packets", "seconds"]
        .map(|field| number(&report, &format!("/end/sum/{field}")));
    let arrived = sent? - lost?;
    Ok(Packets {
        kpps: arrived / seconds? / 1e3,
        cpu_per_million: cpu / (arrived / 1e6),
    })
}

fn amount(seconds: u32, least: &str) -> String {
    if seconds == 0 {
        least.to_owned()
    } else {
        format!("-t {seconds}")
    }
}

fn run(path: &Path, arguments: &str) -> Result<(Value, f64)> {
    let port = new_port();
    let _server = Server::start(&path.server, port, &format!("iperf3 -s -p {port}"))?;
    let line = format!("iperf3 -J -c {} -p {port} {arguments}", path.address);
    let (text, cpu) = cpu::busy(|| path.client.run(&line))?;
    let report = serde_json::from_str(&text).context("iperf3's report")?;
    Ok((report, cpu))
}

fn number(report: &Value, pointer: &str) -> Result<f64> {
    report
        .pointer(pointer)
        .and_then(Value::as_f64)
        .with_context(|| format!("iperf3 reports no {pointer}: {}", report["error"]))
}
