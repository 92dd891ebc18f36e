//! The modes of the network: with and without encapsulation.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oxlan_tests::bird::{self, Bird};
use oxlan_tests::cluster::{Cluster, Families, Shape, with_cluster};
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::traffic::udp_stream::UdpStream;
use oxlan_tests::traffic::{End, tcp, udp};
use oxlan_tests::underlay::{node_v4, node_v6};
use oxlan_tests::wait::{SOON, until_true};

/// Larger than all buffers on the way.
const BULK: usize = 4 << 20;

/// Waits until `node` says so of a prefix of another node that begins with `prefix`.
pub(super) fn wait_for_route(
    node: &Node,
    prefix: &str,
    direct: bool,
    reachable: bool,
) -> Result<()> {
    let what = format!("way to {prefix}, direct {direct}, reachable {reachable}");
    until_true(SOON, &what, || {
        let routes = node.oxlan_json("routes")?;
        let rows = routes.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut rows = rows
            .iter()
            .filter(|r| r["prefix"].as_str().is_some_and(|p| p.starts_with(prefix)));
        Ok(rows
            .next()
            .is_some_and(|row| row["direct"] == direct && row["reachable"] == reachable))
    })
}

/// Datagrams small, at the MTU and in fragments, and a stream of bytes, both ways.
fn talk(a: End<'_>, b: End<'_>) -> Result<()> {
    for (client, server) in [(a, b), (b, a)] {
        ensure!(udp::exchange(client, server, 32, 3)? == client.address);
        ensure!(udp::exchange(client, server, 4000, 3)? == client.address);
        ensure!(tcp::transfer(client, server, BULK)? == client.address);
    }
    Ok(())
}

fn ends<'a>(a: &'a Pod, b: &'a Pod) -> Result<[[End<'a>; 2]; 2]> {
    let v4 = [End::new(&a.netns, a.ipv4()?), End::new(&b.netns, b.ipv4()?)];
    let v6 = [End::new(&a.netns, a.ipv6()?), End::new(&b.netns, b.ipv6()?)];
    Ok([v4, v6])
}

/// What was counted on a node while something was done.
fn counted(
    node: &Node,
    verdicts: [&str; 2],
    work: impl FnOnce() -> Result<()>,
) -> Result<[u64; 2]> {
    let now = || Ok::<_, anyhow::Error>([node.verdicts(verdicts[0])?, node.verdicts(verdicts[1])?]);
    let before = now()?;
    work()?;
    let after = now()?;
    Ok([after[0] - before[0], after[1] - before[1]])
}

#[test]
fn automatic_means_as_it_is_on_the_link_and_vxlan_behind_a_router() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        let [[a4, b4], [a6, b6]] = ends(&a, &b)?;
        cluster.set_mode("auto")?;
        wait_for_route(first, "10.244.2.", true, true)?;
        wait_for_route(second, "10.244.1.", true, true)?;
        let plain = ["to-peer", "from-peer"];
        let tunnel = ["to-vtep", "from-vtep"];
        let [sent, received] = counted(first, plain, || talk(a4, b4))?;
        ensure!(sent > 10 && received > 10, "{sent} {received}");
        // The underlay addresses are IPv4: an IPv6 packet has no next hop there.
        let [sent, _] = counted(first, tunnel, || talk(a6, b6))?;
        ensure!(sent > 10, "{sent}");
        hosts_reach_pods(first, &b)?;
        let status = first.oxlan_json("status")?;
        ensure!(
            status["pod_mtu"] == 1450 && status["mode"] == "auto",
            "{status}"
        );

        let detour = format!("{}/32 via 192.168.50.254", second.underlay);
        first.netns.run(&format!("ip route add {detour}"))?;
        wait_for_route(first, "10.244.2.", false, true)?;
        // One sends VXLAN, the other as it is; both are taken.
        talk(a4, b4)?;
        hosts_reach_pods(first, &b)?;
        first.netns.run(&format!("ip route del {detour}"))?;
        wait_for_route(first, "10.244.2.", true, true)?;
        talk(a4, b4)
    });
}

/// From the host's own stack; its answers come back to it.
fn hosts_reach_pods(node: &Node, pod: &Pod) -> Result<()> {
    pod.addresses().try_for_each(|to| {
        node.netns
            .run(&format!("ping -n -q -c 2 -i 0.05 -W 2 {to}"))
            .map(drop)
    })
}

#[test]
fn a_change_of_the_mode_loses_nothing() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        let [[a4, b4], _] = ends(&a, &b)?;
        let stream = UdpStream::start(a4, b4, Duration::from_millis(1))?;
        let back = UdpStream::start(b4, a4, Duration::from_millis(1))?;
        for (mode, direct) in [("auto", true), ("vxlan", false), ("auto", true)] {
            cluster.set_mode(mode)?;
            wait_for_route(first, "10.244.2.", direct, true)?;
            wait_for_route(second, "10.244.1.", direct, true)?;
            stream.wait_for_more(200)?;
        }
        for report in [stream.finish()?, back.finish()?] {
            ensure!(report.lost.is_empty() && report.doubled == 0, "{report:?}");
            ensure!(report.refused == 0 && report.sent > 600, "{report:?}");
        }
        Ok(())
    });
}

/// With encapsulation pods have less room than without: they are told under running streams, and told again.
#[test]
fn pods_get_smaller_packets_when_the_mode_is_direct_no_more() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        cluster.go_without_encapsulation()?;
        wait_for_mtu(cluster, [&a, &b], 1500)?;
        let mut streams = Vec::new();
        for [a, b] in ends(&a, &b)? {
            streams.push(UdpStream::start(a, b, Duration::from_millis(1))?);
            streams.push(UdpStream::start(b, a, Duration::from_millis(1))?);
        }
        for (mode, mtu) in [("vxlan", 1450), ("direct", 1500), ("auto", 1450)] {
            std::thread::scope(|scope| {
                // Segments of the larger MTU are on their way when the smaller one comes.
                let bulk = scope.spawn(|| bulk_both_ways(&a, &b));
                cluster.set_mode(mode)?;
                wait_for_mtu(cluster, [&a, &b], mtu)?;
                bulk.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?;
            for node in &cluster.nodes {
                let other = 3 - node.number;
                wait_for_route(node, &format!("10.244.{other}."), mode != "vxlan", true)?;
            }
            for to in b.addresses() {
                let payload = mtu - if to.is_ipv4() { 28 } else { 48 };
                let line = format!("ping -n -q -c 1 -W 2 -M do -s {payload} {to}");
                a.netns.run(&line).with_context(|| mode.to_owned())?;
            }
            streams.iter().try_for_each(|s| s.wait_for_more(200))?;
        }
        for stream in streams {
            let report = stream.finish()?;
            // With XDP a pod has a receive ring (drivers/net/veth.c, `VETH_RING_SIZE`), which the bulk may fill
            // up. Who lost packets by the change would lose more in a row.
            let most = if first.xdp { report.sent / 1000 } else { 0 };
            let lost = u64::try_from(report.lost.len())?;
            ensure!(lost <= most && report.doubled == 0, "{report:?}");
            ensure!(report.refused == 0 && report.sent > 600, "{report:?}");
        }
        Ok(())
    });
}

/// Waits until both sides of both pods' pairs have this MTU.
fn wait_for_mtu(cluster: &Cluster, pods: [&Pod; 2], mtu: u32) -> Result<()> {
    until_true(SOON, &format!("MTU {mtu} of pods"), || {
        for (node, pod) in cluster.nodes.iter().zip(pods) {
            let outside = node
                .netns
                .run(&format!("ip link show dev {}", pod.host_ifname()?))?;
            let inside = pod.netns.run("ip link show dev eth0")?;
            let wanted = format!(" mtu {mtu} ");
            if ![outside, inside].iter().all(|link| link.contains(&wanted)) {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// Some seconds' worth of bytes in both families, both ways.
fn bulk_both_ways(a: &Pod, b: &Pod) -> Result<()> {
    for [a, b] in ends(a, b)? {
        tcp::transfer(a, b, 4 * BULK)?;
        tcp::transfer(b, a, 4 * BULK)?;
    }
    Ok(())
}

/// Pods of the underlay's families go as they are, the others in VXLAN, which works over any.
fn automatic_over(underlay: Families, are_direct: [bool; 2]) {
    with_cluster(Shape::nodes(2).over(underlay), |cluster| {
        let first = &cluster.nodes[0];
        let (a, b) = (first.add_pod("a")?, cluster.nodes[1].add_pod("b")?);
        cluster.set_mode("auto")?;
        for node in &cluster.nodes {
            let other = 3 - node.number;
            let prefixes = [format!("10.244.{other}."), format!("fd00:244:0:{other}:")];
            for (prefix, is_direct) in prefixes.iter().zip(are_direct) {
                wait_for_route(node, prefix, is_direct, true)?;
            }
        }
        for ([a, b], is_direct) in ends(&a, &b)?.into_iter().zip(are_direct) {
            let verdicts = if is_direct {
                ["to-peer", "from-peer"]
            } else {
                ["to-vtep", "from-vtep"]
            };
            let [sent, _] = counted(first, verdicts, || talk(a, b))?;
            ensure!(sent > 10, "{sent} packets {verdicts:?} to {}", b.address);
        }
        hosts_reach_pods(first, &b)?;
        let status = first.oxlan_json("status")?;
        ensure!(
            status["pod_mtu"] == 1430 && status["problems"].as_array().is_some_and(Vec::is_empty),
            "{status}"
        );
        Ok(())
    });
}

#[test]
fn automatic_over_an_ipv6_underlay() {
    automatic_over(Families::V6, [false, true]);
}

#[test]
fn automatic_over_an_underlay_of_both_families() {
    automatic_over(Families::Both, [true, true]);
}

/// Flannel with `DirectRouting` sends from pod to pod without encapsulation, by the kernel's routes.
#[test]
fn a_flannel_node_with_direct_routing_is_a_neighbour() {
    let shape = Shape {
        plain_nodes: 1,
        v6: false,
        ..Shape::nodes(1)
    };
    with_cluster(shape, |cluster| {
        let (ours, theirs) = (&cluster.nodes[0], &cluster.plain[0]);
        let pod = ours.add_pod("a")?;
        let (other, address) = theirs.add_pod(7)?;
        let (a, b) = (End::new(&pod.netns, pod.ipv4()?), End::new(&other, address));
        theirs.route_to(1)?;
        cluster.set_mode("auto")?;
        wait_for_route(ours, "10.244.2.", true, true)?;
        let plain = ["to-peer", "from-peer"];
        let [sent, received] = counted(ours, plain, || talk(a, b))?;
        ensure!(sent > 10 && received > 10, "{sent} {received}");
        // Flannel's host comes from its own address, ours from the overlay's.
        let their_host = End::new(&theirs.netns, std::net::Ipv4Addr::new(192, 168, 50, 2));
        let our_host = End::new(&ours.netns, std::net::Ipv4Addr::new(10, 244, 1, 0));
        ensure!(udp::exchange(their_host, a, 32, 3)? == their_host.address);
        ensure!(udp::exchange(our_host, b, 32, 3)? == our_host.address);
        ensure!(tcp::transfer(their_host, a, BULK)? == their_host.address);
        Ok(())
    });
}

#[test]
fn a_routing_daemon_is_enough() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        cluster.set_mode("direct")?;
        wait_for_both(cluster, false)?;
        let problems = first.oxlan_json("status")?["problems"].to_string();
        ensure!(
            problems.contains("no route leads to the pods in 10.244.2.0/24"),
            "{problems}"
        );
        ensure!(a.ping(b.ipv4()?.into()).is_err(), "reached without a route");

        let start = |node: &Node, neighbour| {
            let neighbours = [(node_v4(neighbour), node_v6(neighbour))];
            Bird::start(cluster.scope(), &node.netns, &bird::node(&neighbours))
        };
        let near = start(first, 2)?;
        let far = start(second, 1)?;
        wait_for_both(cluster, true)?;
        let plain = ["to-peer", "from-peer"];
        for [a, b] in ends(&a, &b)? {
            let [sent, received] = counted(first, plain, || talk(a, b))?;
            ensure!(sent > 10 && received > 10, "{sent} {received}");
        }
        hosts_reach_pods(first, &b)?;
        // A whole packet of the underlay fits.
        a.netns.run(&format!(
            "ping -n -q -c 2 -i 0.05 -W 2 -M do -s 1472 {}",
            b.ipv4()?
        ))?;
        ensure!(first.oxlan_json("status")?["pod_mtu"] == 1500);
        // The daemons have told each other the pod CIDRs, and nothing else.
        let told = first.netns.run("ip route show proto bird")?;
        ensure!(
            told.lines().count() == 1 && told.starts_with("10.244.2.0/24 via"),
            "{told}"
        );

        far.stop()?;
        wait_for_both(cluster, false)?;
        ensure!(a.ping(b.ipv4()?.into()).is_err(), "reached without a route");
        let far = start(second, 1)?;
        wait_for_both(cluster, true)?;
        for [a, b] in ends(&a, &b)? {
            talk(a, b)?;
        }
        far.stop()?;
        near.stop()
    });
}

/// Waits until the two nodes have a route to each other's pods of both families, or none.
fn wait_for_both(cluster: &Cluster, reachable: bool) -> Result<()> {
    for (node, other) in cluster.nodes.iter().zip([2, 1]) {
        wait_for_route(node, &format!("10.244.{other}."), true, reachable)?;
        wait_for_route(node, &format!("fd00:244:0:{other}:"), true, reachable)?;
    }
    Ok(())
}
