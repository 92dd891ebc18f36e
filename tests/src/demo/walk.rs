//! The way of one packet, hop by hop, from what is really there: devices, attached programs, map
//! entries, and the packet as tcpdump saw it.

use anyhow::{Context, Result};
use oxlan_common::counters::Verdict;

use super::echo::{self, Counting, Echo};
use super::facts;
use super::interrupt;
use super::packet::{Packet, Payload};
use super::screen::{Cell, Screen, Style};
use super::stage::{Actor, Stage};
use crate::node::Node;
use crate::pod::IFNAME;
use crate::underlay::UPLINK;

/// Where the packet is, at which device, what is there.
const HOP: [usize; 2] = [13, 27];

/// Blanks, then a map or a layer of the packet, what is looked up there, and what is found.
const DETAIL: [usize; 3] = [13, 10, 17];

/// TTL with which pods send, Linux's default.
const TTL: u8 = 64;

/// The way to a pod of the same node.
pub(super) fn local(screen: &mut Screen, stage: &Stage<'_>) -> Result<()> {
    interrupt::check()?;
    let (from, to) = (stage.actor("client")?, stage.actor("cache")?);
    let node = stage.node(from.node)?;
    screen.section("The way of a packet to a pod of the same node");
    screen.say(
        "One ping from client to cache. Devices, programs and map entries are what `ip` and `bpftool` show \
         now; addresses and TTL are what tcpdump saw in the two pods.",
    );
    screen.gap();
    let counting = [Counting::start(node, Verdict::LocalPod.name())?];
    let echo = echo::capture(stage, from, to)?;
    leave(screen, node, from, &echo.sent)?;
    let entry = facts::pod(node, to.pod.ipv4()?)?;
    let found = format!("→ device {}, pod {}", entry.ifindex, entry.mac);
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
        Counting::start(far, Verdict::FromVtep.name())?,
    ];
    let echo = echo::capture(stage, from, to)?;
    leave(screen, near, from, &echo.sent)?;
    encapsulate(screen, near, to)?;
    wire(
        screen,
        echo.outer.as_ref().context("no packet on the underlay")?,
    );
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
    let verdict = if genuine {
        "the source is genuine"
    } else {
        "the source is forged"
    };
    let found = format!("→ device {}, pod {}: {verdict}", entry.ifindex, entry.mac);
    detail(screen, "pods", &own.to_string(), &found);
    screen.check(genuine, || {
        format!("the map entry of {own} does not fit its packets: {entry:?}")
    });
    Ok(())
}

fn encapsulate(screen: &Screen, node: &Node, to: &Actor) -> Result<()> {
    let (key, route) = facts::route(node, to.pod.ipv4()?)?;
    // The prefix length counts in the v4-mapped form.
    let prefix = format!("{}/{}", key.prefix, key.prefix_len.saturating_sub(96));
    let found = format!(
        "→ VTEP {}, {}, VNI {}",
        route.underlay, route.mac, route.vni
    );
    detail(screen, "routes", &prefix, &found);
    let next = format!("→ next hop {} at device {}", route.next_hop, route.ifindex);
    detail(screen, "", "", &next);
    action(screen, "push 50 bytes of headers, bpf_redirect_neigh");
    arrow(screen);
    Ok(())
}

/// The layers of the packet between the nodes.
fn wire(screen: &Screen, outer: &Packet) {
    let size = format!("{} bytes, from the outside in", outer.length);
    screen.row(&HOP, &[Cell::new("underlay", Style::Strong), size.into()]);
    detail(
        screen,
        "Ethernet",
        "14 bytes",
        &format!("{} → {}", outer.from, outer.to),
    );
    detail(screen, "IPv4", "20 bytes", &ip(outer));
    if let Payload::Vxlan {
        source_port,
        port,
        checksum,
        flags,
        vni,
        inner,
    } = &outer.payload
    {
        let udp = format!("port {source_port} → {port}, checksum {checksum}");
        detail(screen, "UDP", "8 bytes", &udp);
        let vxlan = format!("VNI {vni}, flags {flags:#04x}");
        detail(screen, "VXLAN", "8 bytes", &vxlan);
        let between = format!("{} → {}, from VTEP to VTEP", inner.from, inner.to);
        detail(screen, "Ethernet", "14 bytes", &between);
        detail(screen, "IPv4", "20 bytes", &ip(inner));
        if let Payload::EchoRequest { length } = inner.payload {
            detail(screen, "ICMP", &format!("{length} bytes"), "echo request");
        }
    }
    arrow(screen);
}

fn decapsulate(screen: &Screen, node: &Node, sender: &Node, to: &Actor) -> Result<()> {
    at_program(screen, node, UPLINK, "from_uplink")?;
    let vtep = facts::vtep(node, sender.underlay)?;
    let known = format!("→ {}: the sender is known", vtep.mac);
    detail(screen, "vteps", &sender.underlay.to_string(), &known);
    let own = facts::pod(node, to.pod.ipv4()?)?;
    let found = format!("→ device {}, pod {}", own.ifindex, own.mac);
    detail(screen, "pods", &to.pod.ipv4()?.to_string(), &found);
    action(screen, "strip the 50 bytes, bpf_redirect_peer");
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

fn hop(screen: &Screen, place: &str, (device, index): (&str, u32), what: &str) {
    let device = format!("{device}, device {index}");
    screen.row(
        &HOP,
        &[Cell::new(place, Style::Strong), device.into(), what.into()],
    );
}

fn detail(screen: &Screen, map: &str, key: &str, found: &str) {
    let map = Cell::new(map, Style::Dim);
    screen.row(&DETAIL, &["".into(), map, key.into(), found.into()]);
}

fn action(screen: &Screen, text: &str) {
    screen.row(
        &DETAIL,
        &["".into(), Cell::new("then", Style::Dim), text.into()],
    );
}

fn arrow(screen: &Screen) {
    screen.row(&[], &[Cell::new("   ↓", Style::Dim)]);
}

fn ethernet(packet: &Packet) -> String {
    format!("{} → {}, TTL {}", packet.from, packet.to, packet.ttl)
}

fn ip(packet: &Packet) -> String {
    format!(
        "{} → {}, TTL {}",
        packet.source, packet.destination, packet.ttl
    )
}

/// What the programs counted meanwhile: at least this many packets each.
fn counted(screen: &mut Screen, all: &[Counting<'_>], least: u64) -> Result<()> {
    let mut texts = Vec::new();
    for counting in all {
        let (node, verdict, packets) = counting.finish()?;
        screen.check(packets >= least, || {
            format!("{node} counted {packets} packets as {verdict}, not {least}")
        });
        texts.push(format!("{node} {verdict} +{packets}"));
    }
    screen.gap();
    screen.say(&format!(
        "Counted meanwhile, there and back: {}.",
        texts.join(", ")
    ));
    Ok(())
}
