//! Agents that are killed while pods of all machines talk: their successors take over, and nothing is lost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::checks::Node;

/// How long datagrams are sent, on a machine that is not slow: longer than agents need to come back.
const STREAM: Duration = Duration::from_secs(30);

/// What became of a stream, as iperf3 tells.
#[derive(Debug, PartialEq, Eq)]
struct Stream {
    sent: u64,
    lost: u64,
    reordered: u64,
}

/// A stream from each machine to the next, by IPv4 and IPv6 in turn; meanwhile every agent is killed.
pub(super) fn see(nodes: &mut [Node], limit: Duration, slowness: u32) -> Result<()> {
    let targets: Vec<String> = targets(nodes).context("a pod has not two addresses")?;
    for (node, target) in nodes.iter_mut().zip(&targets) {
        let seconds = (STREAM * slowness).as_secs();
        let line = format!("stream pod-{} {target} {seconds}", node.number);
        node.channel.expect(&line)?;
    }
    for node in nodes.iter_mut() {
        let old = node.wait_ready(limit)?["pid"].clone();
        node.channel.expect(&format!("kill -KILL {old}"))?;
        let new = node.wait_ready(limit)?;
        ensure!(new["pid"] != old, "{} is not dead: {new}", node.name);
        ensure!(new["pods"] == 1, "{} has lost its pod: {new}", node.name);
        let report = node.channel.expect("streamed")?;
        ensure!(
            report.is_empty(),
            "the stream of {} ended before the agent was replaced: {report}",
            node.name
        );
    }
    for (node, target) in nodes.iter_mut().zip(&targets) {
        let stream = finished(node, limit + STREAM * slowness)?;
        println!(
            "{}  → {target}: {} datagrams, {} lost, {} reordered",
            node.name, stream.sent, stream.lost, stream.reordered
        );
        ensure!(
            stream.sent > 100 && stream.lost == 0 && stream.reordered == 0,
            "the agents' end was seen by pods"
        );
    }
    Ok(())
}

/// The address to which each machine's pod sends.
fn targets(nodes: &[Node]) -> Option<Vec<String>> {
    let mut targets = Vec::new();
    for number in 0..nodes.len() {
        let next = nodes.get((number + 1) % nodes.len())?;
        targets.push(next.pod.get(number % 2)?.clone());
    }
    Some(targets)
}

/// Waits for the end of a machine's stream.
fn finished(node: &mut Node, limit: Duration) -> Result<Stream> {
    let began = Instant::now();
    loop {
        let report = node.channel.expect("streamed")?;
        if !report.is_empty() {
            return read(&report).with_context(|| format!("iperf3 of {}: {report}", node.name));
        }
        ensure!(
            began.elapsed() < limit,
            "the stream of {} does not end",
            node.name
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Takes what counts out of iperf3's report.
fn read(report: &str) -> Result<Stream> {
    let report: Value = serde_json::from_str(report)?;
    let sum = &report["end"]["sum"];
    let number = |value: &Value, name: &str| {
        let number = value[name].as_u64();
        number.with_context(|| format!("no {name}"))
    };
    Ok(Stream {
        sent: number(sum, "packets")?,
        lost: number(sum, "lost_packets")?,
        reordered: number(&report["end"]["streams"][0]["udp"], "out_of_order")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_iperf3_are_read() {
        let report = r#"{"end":{"streams":[{"udp":{"packets":700,"lost_packets":2,"out_of_order":1}}],
            "sum":{"packets":700,"lost_packets":2,"lost_percent":0.28}}}"#;
        let expected = Stream {
            sent: 700,
            lost: 2,
            reordered: 1,
        };
        assert_eq!(read(report).unwrap(), expected);
        assert!(read(r#"{"end":{},"error":"unable to connect"}"#).is_err());
    }
}
