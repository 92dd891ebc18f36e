//! Nodes behind several equal next hops: flows are spread over them, and each stays where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use oxlan_tests::bird::{self, Bird};
use oxlan_tests::capture::Capture;
use oxlan_tests::fabric::{Fabric, router_v4, router_v6, uplink_v4, uplink_v6, with_fabric};
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::run::host;
use oxlan_tests::traffic::flows::Flows;
use oxlan_tests::traffic::{End, tcp, udp};
use oxlan_tests::underlay::{node_v4, node_v6};
use oxlan_tests::wait::{SOON, until, until_true};
use serde_json::Value;

/// So many flows that all of them by one of two ways is as good as impossible: once in 2^63 runs.
const FLOWS: usize = 64;

/// Bytes of a transfer: more than all buffers on the way.
const BULK: usize = 4 << 20;

/// The router by which each flow, named by its source port, leaves the first node; only these routers are watched.
fn spread(fabric: &Fabric, watched: &[usize], flows: &mut Flows) -> Result<BTreeMap<u16, usize>> {
    let (ports, to) = (flows.ports()?, flows.to()?);
    // A neighbour that nobody has talked to yet is asked for first, and only a few packets wait meanwhile.
    flows.send(1)?;
    let capture = |at: &usize| {
        let router = &fabric.routers[*at];
        // With whole packets the ring has room for a few only.
        let options = "-t -Q in -s 200 -B 8192";
        let capture = Capture::start(fabric.scope(), router, "node1", options, "udp");
        Ok((*at, capture?))
    };
    let captures: Vec<_> = watched.iter().map(capture).collect::<Result<_>>()?;
    flows.send(8)?;
    let seen = || {
        let mut seen: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (at, capture) in &captures {
            let text = capture.text()?;
            let sources = text.lines().filter_map(|line| source_port(line, to));
            for port in sources.filter(|port| ports.contains(port)) {
                seen.entry(port).or_default().push(*at);
            }
        }
        Ok::<_, anyhow::Error>(seen)
    };
    until(SOON, "capture of all datagrams", || {
        let count: usize = seen()?.values().map(Vec::len).sum();
        let last = |(_, capture): &(usize, Capture)| {
            let text = capture.text().unwrap_or_default();
            text.lines().last().unwrap_or_default().to_owned()
        };
        let last: Vec<String> = captures.iter().map(last).collect();
        ensure!(
            count >= ports.len() * 8,
            "{count} were captured, at last {last:?}"
        );
        Ok(())
    })?;
    let one = |(port, mut routers): (u16, Vec<usize>)| {
        routers.dedup();
        ensure!(
            routers.len() == 1,
            "port {port} went by the routers {routers:?}"
        );
        Ok((port, routers[0]))
    };
    seen()?.into_iter().map(one).collect()
}

/// The source port of a datagram to this port, as tcpdump shows it, be it in VXLAN or not. What tcpdump takes the
/// datagram for follows: it knows some protocols by their ports, and these are any.
fn source_port(line: &str, to: u16) -> Option<u16> {
    let mut words = line.split_whitespace().skip(1);
    let (source, destination) = (words.next()?, words.nth(1)?);
    if !destination.ends_with(&format!(".{to}:")) {
        return None;
    }
    source.rsplit_once('.')?.1.parse().ok()
}

/// Waits until flows to all pods of other nodes are spread over so many next hops.
fn wait_for_next_hops(node: &Node, count: usize) -> Result<()> {
    until_true(SOON, &format!("{count} next hops"), || {
        let routes = node.oxlan_json("routes")?;
        let rows = routes.as_array().context("no routes")?;
        let mut others = rows.iter().filter(|row| row["local"] == false);
        Ok(others.all(|row| {
            let hops = row["next_hops"].as_array().map_or(0, Vec::len);
            row["reachable"] == true && hops.max(1) == count
        }))
    })
}

fn used(routers: &BTreeMap<u16, usize>) -> Vec<usize> {
    let used: BTreeSet<usize> = routers.values().copied().collect();
    used.into_iter().collect()
}

/// Both uplinks are used, one alone while the nodes' other ones are down, and then both as before.
fn survives_a_lost_uplink(fabric: &Fabric, [a, b]: [End<'_>; 2], is_direct: bool) -> Result<()> {
    let node = &fabric.nodes[0];
    wait_for_next_hops(node, 2)?;
    let mut flows = Flows::open(a, b, FLOWS)?;
    let before = spread(fabric, &[0, 1], &mut flows)?;
    ensure!(used(&before) == [0, 1], "{before:?}");
    for (lost, left) in [(0, 1), (1, 0)] {
        for node in &fabric.nodes {
            fabric.unplug(lost, node.number)?;
        }
        for node in &fabric.nodes {
            wait_for_next_hops(node, 1)?;
        }
        let meanwhile = spread(fabric, &[left], &mut flows)?;
        ensure!(meanwhile.len() == FLOWS, "{meanwhile:?}");
        // What the overlay device sends finds its way by the kernel's routes.
        tcp::transfer(a, b, BULK)?;
        tcp::transfer(overlay(node, a)?, b, BULK)?;
        for node in &fabric.nodes {
            fabric.plug(lost, node.number)?;
        }
        if is_direct {
            fabric.route_pods()?;
        }
        for node in &fabric.nodes {
            wait_for_next_hops(node, 2)?;
        }
    }
    let after = spread(fabric, &[0, 1], &mut flows)?;
    ensure!(after == before, "flows have moved: {before:?} {after:?}");
    Ok(())
}

/// The node's own end in the overlay, of the family of another end.
fn overlay<'a>(node: &'a Node, like: End<'_>) -> Result<End<'a>> {
    let at = usize::from(like.address.is_ipv6());
    let (address, _) = node.pod_cidrs[at].split_once('/').context("no prefix")?;
    Ok(End::new(&node.netns, address.parse::<IpAddr>()?))
}

/// All of it from a pod of the first node to one of the second; `network` are lines of the cluster file.
fn check(network: &str, underlay: fn(u8) -> IpAddr, rest: impl FnOnce([End<'_>; 4]) -> Result<()>) {
    with_fabric(2, network, |fabric| {
        fabric.write_file_over(network, underlay)?;
        let is_direct = network.contains("direct");
        if is_direct {
            fabric.route_pods()?;
        }
        fabric.start()?;
        let (a, b) = (fabric.nodes[0].add_pod("a")?, fabric.nodes[1].add_pod("b")?);
        let [a4, a6] = ends(&a)?;
        let [b4, b6] = ends(&b)?;
        for [a, b] in [[a4, b4], [a6, b6]] {
            survives_a_lost_uplink(fabric, [a, b], is_direct)?;
            for [client, server] in [[a, b], [b, a]] {
                tcp::transfer(client, server, BULK)?;
                udp::exchange(client, server, 4000, 3)?;
            }
        }
        rest([a4, b4, a6, b6])?;
        sets_are_put_back(&fabric.nodes[0])
    });
}

/// Whoever removes a set of next hops meets the agent.
fn sets_are_put_back(node: &Node) -> Result<()> {
    let pin = node.dirs.bpf.join("maps/hops").display().to_string();
    let look = || host(&format!("bpftool --json map dump pinned {pin}"));
    let entries = || Ok::<_, anyhow::Error>(serde_json::from_str::<Value>(&look()?)?);
    let before = entries()?;
    let key = before[0]["key"].as_array().context("no set of next hops")?;
    let key: Vec<&str> = key.iter().filter_map(Value::as_str).collect();
    let delete = format!("bpftool map delete pinned {pin} key {}", key.join(" "));
    host(&delete)?;
    until_true(SOON, "repair of the next hops", || Ok(entries()? == before))
}

fn ends(pod: &Pod) -> Result<[End<'_>; 2]> {
    Ok([
        End::new(&pod.netns, pod.ipv4()?),
        End::new(&pod.netns, pod.ipv6()?),
    ])
}

#[test]
fn flows_in_vxlan_over_ipv4_are_spread() {
    check("", |number| node_v4(number).into(), |_| Ok(()));
}

/// What headers do not tell goes by the overlay device, for which the kernel chooses: a flow that has such
/// packets among others must not use two ways at the same time.
#[test]
fn flows_in_vxlan_over_ipv6_are_spread() {
    let over_v6 = |number| node_v6(number).into();
    check("", over_v6, |[a4, b4, a6, b6]| {
        udp::mixed(a4, b4, 50)?;
        udp::mixed(a6, b6, 50)
    });
}

#[test]
fn flows_without_encapsulation_are_spread() {
    let network = "mode = \"direct\"";
    check(network, |number| node_v4(number).into(), |_| Ok(()));
}

/// BIRD on the nodes and on the routers between them: each node learns the other's pod CIDRs from both routers.
#[test]
fn routing_daemons_across_routers_are_enough() {
    with_fabric(2, "mode = \"direct\"", |fabric| {
        fabric.start()?;
        let [first, second] = [&fabric.nodes[0], &fabric.nodes[1]];
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        let (numbers, routers) = ([1, 2], [0, 1]);
        let start_router = |at: usize| {
            let clients = numbers.map(|node| (uplink_v4(at, node), uplink_v6(at, node)));
            Bird::start(
                fabric.scope(),
                &fabric.routers[at],
                &bird::reflector(&clients),
            )
        };
        let mut daemons = Vec::new();
        for node in &fabric.nodes {
            let neighbours =
                routers.map(|at| (router_v4(at, node.number), router_v6(at, node.number)));
            let text = bird::node(&neighbours);
            daemons.push(Bird::start(fabric.scope(), &node.netns, &text)?);
        }
        let near = start_router(0)?;
        let far = start_router(1)?;
        for node in &fabric.nodes {
            wait_for_next_hops(node, 2)?;
        }
        for (a, b) in ends(&a)?.into_iter().zip(ends(&b)?) {
            let mut flows = Flows::open(a, b, FLOWS)?;
            let routers = spread(fabric, &[0, 1], &mut flows)?;
            ensure!(used(&routers) == [0, 1], "{routers:?}");
            tcp::transfer(a, b, BULK)?;
        }
        // The daemon of a router ends: its neighbours lose its routes at once.
        near.stop()?;
        for node in &fabric.nodes {
            wait_for_next_hops(node, 1)?;
        }
        for (a, b) in ends(&a)?.into_iter().zip(ends(&b)?) {
            Flows::open(a, b, FLOWS)?.send(8)?;
            udp::exchange(b, a, 4000, 3)?;
            tcp::transfer(a, b, BULK)?;
        }
        far.stop()?;
        until_true(SOON, "loss of the last way", || {
            let status = first.oxlan_json("status")?["problems"].to_string();
            Ok(status.contains("no route leads to the pods in 10.244.2.0/24"))
        })?;
        ensure!(a.ping(b.ipv4()?.into()).is_err(), "reached without a route");
        daemons.into_iter().try_for_each(Bird::stop)
    });
}
