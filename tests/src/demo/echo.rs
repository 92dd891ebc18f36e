//! One echo request, captured wherever it passes.

use anyhow::{Context, Result};

use super::packet::{self, Packet};
use super::stage::{Actor, Stage};
use crate::capture::Capture;
use crate::node::Node;
use crate::pod::IFNAME;
use crate::wait::{SOON, until};

/// The same packet at several places.
#[derive(Debug)]
pub(super) struct Echo {
    /// As it left the sender.
    pub(super) sent: Packet,
    /// As it crossed the underlay; none between pods of one node.
    pub(super) outer: Option<Packet>,
    /// As it reached the receiver.
    pub(super) received: Packet,
}

/// Sends one ping from a pod to another one.
pub(super) fn capture(stage: &Stage<'_>, from: &Actor, to: &Actor) -> Result<Echo> {
    let (source, destination) = (from.pod.ipv4()?, to.pod.ipv4()?);
    let scope = stage.cluster.scope();
    let at = |netns, device, filter| Capture::start(scope, netns, device, "-xx -T vxlan", filter);
    let near = at(&from.pod.netns, IFNAME, "icmp")?;
    let far = at(&to.pod.netns, IFNAME, "icmp")?;
    let between = if from.node == to.node {
        None
    } else {
        let switch = &stage.cluster.underlay.switch;
        Some(at(switch, "br0", "udp port 8472")?)
    };
    from.pod
        .netns
        .run(&format!("ping -n -q -c 1 -W 2 {destination}"))?;
    let is_it = |packet: &Packet| packet.is_echo(source, destination);
    let carries_it = |packet: &Packet| packet.carries_echo(source, destination);
    Ok(Echo {
        sent: take(near, is_it).context("tcpdump in the sending pod")?,
        outer: between
            .map(|capture| take(capture, carries_it))
            .transpose()
            .context("tcpdump on the underlay")?,
        received: take(far, is_it).context("tcpdump in the receiving pod")?,
    })
}

/// The packet that is looked for; it may take a moment to appear in tcpdump's output.
fn take(capture: Capture, wanted: impl Fn(&Packet) -> bool) -> Result<Packet> {
    let found = until(SOON, "captured echo request", || {
        let frames = packet::frames(&capture.text()?);
        let mut packets = frames.iter().filter_map(|frame| Packet::parse(frame));
        packets.find(&wanted).context("not yet")
    })?;
    capture.finish()?;
    Ok(found)
}

/// Counts a verdict of a node from now on.
#[derive(Debug)]
pub(super) struct Counting<'a> {
    node: &'a Node,
    verdict: &'static str,
    before: u64,
}

impl<'a> Counting<'a> {
    pub(super) fn start(node: &'a Node, verdict: &'static str) -> Result<Self> {
        let before = node.verdicts(verdict)?;
        Ok(Self {
            node,
            verdict,
            before,
        })
    }

    /// Node, verdict and packets since the start.
    pub(super) fn finish(&self) -> Result<(&str, &str, u64)> {
        let now = self.node.verdicts(self.verdict)?;
        Ok((
            &self.node.name,
            self.verdict,
            now.saturating_sub(self.before),
        ))
    }
}
