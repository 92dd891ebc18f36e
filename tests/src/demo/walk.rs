//! The way of one packet, hop by hop, from what is really there: devices, attached programs, map
//! entries, and the packet as tcpdump saw it.

use anyhow::{Context, Result, bail};
use oxlan_common::addr::Addr;
use oxlan_common::counters::Verdict;

use super::echo::{self, Counting, Echo};
use super::facts;
use super::hops::{action, arrow, detail, ethernet, hop, layers};
use super::interrupt;
use super::packet::{Packet, Payload};
use super::screen::Screen;
use super::stage::{Actor, Stage};
use crate::node::Node;
use crate::pod::IFNAME;
use crate::underlay::UPLINK;

/// TTL with which pods send, Linux's default.
const TTL: u8 = 64;

/// The way to a pod of the same node.
pub(super) fn local(screen: &mut Screen, stage: &Stage<'_>) -> Result<()> {
    interrupt::check()?;
    let (from, to) = (stage.actor("client")?, stage.actor("cache")?);
    let node = stage.node(from.node)?;
    screen.section("The way of a packet to a pod of the same node");
    screen.say(
        "One ping from client to cache. Devices, programs and map entries are what the kernel holds now; \
         addresses and TTL are what tcpdump saw in the two pods.",
    );
    screen.gap();
    let counting = [Counting::start(node, Verdict::LocalPod.name())?];
    let echo = echo::capture(stage, from, to)?;
    leave(screen, node, from, &echo.sent)?;
    let entry = facts::pod(node, to.pod.ipv4()?)?;
    let found = format!("→ ifindex {}, MAC {}", entry.ifindex, entry.mac);
    detail(screen, "pods", &to.pod.ipv4()?.to_string(), &found);
    action(
        screen,
        "bpf_redirect_peer: no bridge, no routing, no netfilter",
    );
    arrive(screen, to, &echo, TTL - 1)?;
    counted(screen, &counting, 2)
}

/// The way to a pod of another node.
pub(super) fn remote(screen: &mut Screen, stage: &Stage<'_>) -> Result<()> {
    interrupt::check()?;
    let (from, to) = (stage.actor("client")?, stage.actor("web")?);
    let (near, far) = (stage.node(from.node)?, stage.node(to.node)?);
    screen.section("The way of a packet to a pod of another node");
    screen.say(
        "One ping from client to web. Between the nodes it travels in VXLAN; the bytes are what tcpdump saw \
         on the underlay. It is Flannel's form, so that a node with Flannel would understand it.",
    );
    screen.gap();
    let counting = [
        Counting::start(near, Verdict::ToVtep.name())?,
        Counting::start(near, Verdict::FromVtep.name())?,
        Counting::start(far, Verdict::FromVtep.name())?,
        Counting::start(far, Verdict::ToVtep.name())?,
    ];
    let echo = echo::capture(stage, from, to)?;
    leave(screen, near, from, &echo.sent)?;
    let outer = echo.outer.as_ref().context("nothing on the underlay")?;
    encapsulate(screen, near, to, outer)?;
    layers(screen, outer);
    arrow(screen);
    decapsulate(screen, far, near, to)?;
    arrive(screen, to, &echo, TTL - 2)?;
    counted(screen, &counting, 1)
}

/// The sender's device, and the program at its other end.
fn leave(screen: &mut Screen, node: &Node, from: &Actor, sent: &Packet) -> Result<()> {
    let (own, veth) = (from.pod.ipv4()?, from.pod.host_ifname()?);
    let inside = from.pod.netns.ifindex(IFNAME)?;
    let place = format!("pod {}", from.name);
    hop(screen, &place, (IFNAME, inside), &ethernet(sent));
    arrow(screen);
    let index = at_program(screen, node, &veth, "from_pod")?;
    let entry = facts::pod(node, own)?;
    let genuine = entry.ifindex == index && entry.mac == sent.from;
    let verdict = if genuine { "genuine" } else { "forged" };
    let found = format!(
        "→ ifindex {}, MAC {}: {verdict} source",
        entry.ifindex, entry.mac
    );
    detail(screen, "pods", &own.to_string(), &found);
    screen.check(genuine, || {
        format!("the map entry of {own} does not fit its packets: {entry:?}")
    });
    Ok(())
}

fn encapsulate(screen: &mut Screen, node: &Node, to: &Actor, outer: &Packet) -> Result<()> {
    let (key, route) = facts::route(node, to.pod.ipv4()?)?;
    // The prefix length counts in the v4-mapped form.
    let prefix = format!("{}/{}", key.prefix, key.prefix_len.saturating_sub(96));
    let found = format!(
        "→ VTEP {}, MAC {}, VNI {}",
        route.underlay, route.mac, route.vni
    );
    detail(screen, "routes", &prefix, &found);
    let next = format!("→ next hop {}, ifindex {}", route.next_hop, route.ifindex);
    detail(screen, "", "", &next);
    action(screen, "push VXLAN, bpf_redirect_neigh");
    arrow(screen);
    let Payload::Vxlan(vxlan) = &outer.payload else {
        bail!("no VXLAN on the underlay: {outer:?}");
    };
    let by_route = Addr::from(outer.destination) == route.underlay
        && (vxlan.inner.to, vxlan.vni) == (route.mac, route.vni);
    screen.check(by_route, || {
        format!("the packet on the underlay does not follow its route {route:?}: {outer:?}")
    });
    Ok(())
}

fn decapsulate(screen: &Screen, node: &Node, sender: &Node, to: &Actor) -> Result<()> {
    at_program(screen, node, UPLINK, "from_uplink")?;
    let vtep = facts::vtep(node, sender.underlay)?;
    let known = format!("→ {}: the sender is known", vtep.mac);
    detail(screen, "vteps", &sender.underlay.to_string(), &known);
    let own = facts::pod(node, to.pod.ipv4()?)?;
    let found = format!("→ ifindex {}, MAC {}", own.ifindex, own.mac);
    detail(screen, "pods", &to.pod.ipv4()?.to_string(), &found);
    action(screen, "strip VXLAN, bpf_redirect_peer");
    Ok(())
}

/// The receiver's device, and whether the packet is what it should be.
fn arrive(screen: &mut Screen, to: &Actor, echo: &Echo, ttl: u8) -> Result<()> {
    arrow(screen);
    let received = &echo.received;
    let inside = to.pod.netns.ifindex(IFNAME)?;
    hop(
        screen,
        &format!("pod {}", to.name),
        (IFNAME, inside),
        &ethernet(received),
    );
    screen.check(received.ttl == ttl, || {
        format!(
            "{} got the packet with TTL {} instead of {ttl}",
            to.name, received.ttl
        )
    });
    Ok(())
}

/// A device of a node and the program there; returns the device's index.
fn at_program(screen: &Screen, node: &Node, device: &str, name: &str) -> Result<u32> {
    let program = facts::program(node, device, name)?;
    let text = format!("program {name}, id {}, at {}", program.id, program.hook);
    hop(screen, &node.name, (device, program.ifindex), &text);
    Ok(program.ifindex)
}

/// What the programs counted meanwhile: at least this many packets each.
fn counted(screen: &mut Screen, all: &[Counting<'_>], least: u64) -> Result<()> {
    let mut text = String::new();
    let mut shown = "";
    for counting in all {
        let (node, verdict, packets) = counting.finish()?;
        screen.check(packets >= least, || {
            format!("{node} counted {packets} packets as {verdict}, not {least}")
        });
        text.push_str(if shown.is_empty() { "" } else { ", " });
        if node != shown {
            text.push_str(&format!("{node} "));
            shown = node;
        }
        text.push_str(&format!("{verdict} +{packets}"));
    }
    screen.gap();
    screen.say(&format!("Counted there and back: {text}."));
    Ok(())
}
