//! What does not fit: what pods are told, and that traffic goes on.

mod learned;

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};
use oxlan_tests::capture::Capture;
use oxlan_tests::cluster::{Cluster, Families, Shape, with_cluster};
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::traffic::{End, tcp, udp};
use oxlan_tests::underlay::UPLINK;
use oxlan_tests::wait::{SOON, until, until_true};
use serde_json::Value;

const BULK: usize = 4 << 20;

sockopt_impl!(
    /// What a socket does about the path's MTU, for IPv4.
    MtuDiscovery,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    i32
);
sockopt_impl!(
    /// The same for IPv6.
    MtuDiscovery6,
    SetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU_DISCOVER,
    i32
);

/// Pings that must not be fragmented, of this IP packet length.
fn ping(pod: &Pod, to: IpAddr, len: u32) -> Result<String> {
    let payload = len - if to.is_ipv4() { 28 } else { 48 };
    pod.netns
        .run(&format!("ping -n -c 1 -W 1 -M do -s {payload} {to}"))
}

/// What the pod has learned about the way to an address.
fn learned(pod: &Pod, to: IpAddr) -> Result<Option<u32>> {
    let family = if to.is_ipv4() { "-4" } else { "-6" };
    let route = pod.netns.run(&format!("ip {family} route get {to}"))?;
    let mut words = route.split_whitespace();
    match words.find(|word| *word == "mtu") {
        Some(_) => Ok(Some(words.next().context("no number behind mtu")?.parse()?)),
        None => Ok(None),
    }
}

/// MTU towards the prefix of an address, as `oxlan routes` tells.
fn route_mtu(node: &Node, prefix: &str) -> Result<u64> {
    let routes = node.oxlan_json("routes")?;
    let rows = routes.as_array().map(Vec::as_slice).unwrap_or_default();
    let row = rows.iter().find(|row| row["prefix"] == prefix);
    row.and_then(|row| row["mtu"].as_u64())
        .with_context(|| format!("no route to {prefix}: {routes}"))
}

fn wait_for_route_mtu(node: &Node, prefix: &str, mtu: u64) -> Result<()> {
    until(SOON, &format!("MTU {mtu} towards {prefix}"), || {
        let now = route_mtu(node, prefix)?;
        ensure!(now == mtu, "it is {now}");
        Ok(())
    })
}

fn device_mtu(netns: &oxlan_tests::netns::Netns, device: &str) -> Result<u64> {
    let text = netns.run(&format!("ip -j link show dev {device}"))?;
    let links: Value = serde_json::from_str(&text)?;
    links[0]["mtu"]
        .as_u64()
        .with_context(|| format!("no MTU: {text}"))
}

fn bulk_both_ways(a: &Pod, b: &Pod) -> Result<()> {
    for (from, to) in a.addresses().zip(b.addresses()) {
        let (from, to) = (End::new(&a.netns, from), End::new(&b.netns, to));
        tcp::transfer(from, to, BULK)
            .with_context(|| format!("{} to {}", from.address, to.address))?;
    }
    Ok(())
}

/// The way from node 1 to node 2 gets narrower than the pods' MTU, as an administrator or a smaller
/// device makes it.
fn narrow(cluster: &Cluster, mtu: u32) -> Result<()> {
    let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
    for (node, peer) in [(first, second), (second, first)] {
        let route = format!("{}/32 dev {UPLINK} mtu {mtu}", peer.underlay);
        node.netns.run(&format!("ip route replace {route}"))?;
    }
    Ok(())
}

/// A route's metric says that less fits than the pods' MTU: pods learn it, and everything goes on.
#[test]
fn a_narrow_way_is_learned_by_pods() {
    with_cluster(Shape::nodes(3), |cluster| {
        let [first, second, third] = [&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[2]];
        let (a, b, c) = (
            first.add_pod("a")?,
            second.add_pod("b")?,
            third.add_pod("c")?,
        );
        bulk_both_ways(&a, &b)?;
        narrow(cluster, 1400)?;
        wait_for_route_mtu(first, "10.244.2.0/24", 1350)?;
        wait_for_route_mtu(second, "fd00:244:0:1::/64", 1350)?;
        let before = first.verdicts("too-big")?;
        for to in b.addresses() {
            ensure!(ping(&a, to, 1450).is_err(), "1450 bytes reached {to}");
            until_true(SOON, "path MTU in the pod", || {
                Ok(learned(&a, to)? == Some(1350))
            })?;
            ping(&a, to, 1350)?;
            let refused = ping(&a, to, 1351);
            ensure!(refused.is_err(), "1351 bytes reached {to}");
        }
        ensure!(first.verdicts("too-big")? > before, "nobody was told");
        // Another node's pods are not concerned.
        c.addresses()
            .try_for_each(|to| ping(&a, to, 1450).map(drop))?;
        bulk_both_ways(&a, &b)?;
        bulk_both_ways(&b, &a)
    });
}

/// Datagrams larger than the way, of pods that do without path MTU discovery, arrive whole.
#[test]
fn without_df_packets_are_fragmented() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        narrow(cluster, 1400)?;
        wait_for_route_mtu(first, "10.244.2.0/24", 1350)?;
        wait_for_route_mtu(second, "10.244.1.0/24", 1350)?;
        for pod in [&a, &b] {
            pod.netns.run("sysctl -qw net.ipv4.ip_no_pmtu_disc=1")?;
        }
        let (from, to) = (End::new(&a.netns, a.ipv4()?), End::new(&b.netns, b.ipv4()?));
        for size in [1380, 1422, 4000] {
            udp::exchange(from, to, size, 2)?;
        }
        for pod in [&a, &b] {
            for other in [&a, &b] {
                ensure!(
                    learned(pod, other.ipv4()?.into())?.is_none(),
                    "a pod was told"
                );
            }
        }
        Ok(())
    });
}

/// The error is from the node's overlay address, and quotes the packet; UDP senders get EMSGSIZE.
#[test]
fn the_error_is_from_the_node() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        narrow(cluster, 1400)?;
        wait_for_route_mtu(first, "10.244.2.0/24", 1350)?;
        wait_for_route_mtu(first, "fd00:244:0:2::/64", 1350)?;
        let capture = Capture::start(
            cluster.scope(),
            &a.netns,
            "eth0",
            "-v",
            "icmp[icmptype] == icmp-unreach or icmp6[icmp6type] == icmp6-packettoobig",
        )?;
        for to in b.addresses() {
            let from = a.addresses().find(|from| from.is_ipv4() == to.is_ipv4());
            let socket = End::new(&a.netns, from.context("no source")?).udp()?;
            if to.is_ipv4() {
                setsockopt(&socket, MtuDiscovery, &libc::IP_PMTUDISC_DO)?;
            } else {
                setsockopt(&socket, MtuDiscovery6, &libc::IPV6_PMTUDISC_DO)?;
            }
            let datagram = [7; 1380];
            until(SOON, "EMSGSIZE", || {
                match socket.send_to(&datagram, (to, 9)) {
                    Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Ok(()),
                    other => bail!("sending said {other:?}"),
                }
            })?;
        }
        capture.wait_for(
            "10.244.1.0 > 10.244.1.2: ICMP 10.244.2.2 unreachable - need to frag (mtu 1350)",
        )?;
        capture.wait_for(
            "fd00:244:0:1:: > fd00:244:0:1::2: [icmp6 sum ok] ICMP6, packet too big, mtu 1350",
        )?;
        Ok(())
    });
}

/// The uplink's MTU is lowered and raised again while pods talk.
#[test]
fn the_underlay_gets_narrower_and_wider_under_traffic() {
    with_cluster(Shape::nodes(2), |cluster| {
        follows_the_underlay(cluster, 50, &[1400, 1500, 1300, 1500])
    });
}

/// The same down to what IPv6 pods need at least, with headers of 70 bytes around their packets.
#[test]
fn an_ipv6_underlay_gets_narrower_and_wider_under_traffic() {
    with_cluster(Shape::nodes(2).over(Families::V6), |cluster| {
        follows_the_underlay(cluster, 70, &[1400, 1500, 1350, 1500])
    });
}

/// Nobody fragments VXLAN over IPv6: that IPv6 pods have no room is said, and what fits arrives.
#[test]
fn an_ipv6_underlay_that_is_too_narrow_for_ipv6_is_reported() {
    with_cluster(Shape::nodes(2).over(Families::V6), |cluster| {
        let (a, b) = two_pods(cluster)?;
        set_uplinks(cluster, 1300)?;
        for (at, pod) in [&a, &b].into_iter().enumerate() {
            let node = &cluster.nodes[at];
            wait_for_route_mtu(node, &format!("fd00:244:0:{:x}::/64", 2 - at), 1230)?;
            wait_for_device_mtus(node, pod, 1280)?;
            wait_until_too_narrow(node, true)?;
        }
        let [v4, v6] = [b.ipv4()?.into(), b.ipv6()?.into()];
        ping(&a, v6, 1230)?;
        ensure!(ping(&a, v6, 1231).is_err(), "it was fragmented: say so");
        // IPv4 pods learn what fits, and what may be fragmented is.
        let (from, to) = (End::new(&a.netns, a.ipv4()?), End::new(&b.netns, v4));
        tcp::transfer(from, to, BULK)?;
        udp::exchange(from, to, 4000, 3)?;

        set_uplinks(cluster, 1350)?;
        for node in &cluster.nodes {
            wait_until_too_narrow(node, false)?;
        }
        until_true(
            SOON,
            "1280 bytes of IPv6",
            || Ok(ping(&a, v6, 1280).is_ok()),
        )?;
        bulk_both_ways(&a, &b)
    });
}

/// Waits until the node says that an underlay of IPv6 is too narrow for IPv6, or does not say so.
fn wait_until_too_narrow(node: &Node, wanted: bool) -> Result<()> {
    until_true(SOON, "word of a way that is too narrow", || {
        let problems = node.oxlan_json("status")?["problems"].to_string();
        let told = problems.contains("is too narrow") && problems.contains("an MTU of 1350");
        Ok(told == wanted)
    })
}

/// Pods talk while the uplinks get these MTUs, one after the other, and have what `overhead` leaves of each.
fn follows_the_underlay(cluster: &Cluster, overhead: u64, mtus: &[u32]) -> Result<()> {
    let (a, b) = two_pods(cluster)?;
    for mtu in mtus {
        std::thread::scope(|scope| {
            let traffic = scope.spawn(|| bulk_both_ways(&a, &b));
            set_uplinks(cluster, *mtu)?;
            traffic
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        let fits = u64::from(*mtu) - overhead;
        // What IPv6 needs; beneath it, the packets around the pods' are fragmented.
        let pods = fits.max(1280);
        for (at, pod) in [&a, &b].into_iter().enumerate() {
            let node = &cluster.nodes[at];
            wait_for_route_mtu(node, &format!("10.244.{}.0/24", 2 - at), fits)?;
            wait_for_device_mtus(node, pod, pods)?;
        }
        b.addresses().try_for_each(|to| {
            let largest = u32::try_from(if to.is_ipv4() { fits } else { pods })?;
            // What a pod has learned meanwhile counts for some minutes.
            let fits = learned(&a, to)?.map_or(largest, |mtu| mtu.min(largest));
            ping(&a, to, fits).map(drop)
        })?;
    }
    Ok(())
}

fn two_pods(cluster: &Cluster) -> Result<(Pod, Pod)> {
    let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
    Ok((first.add_pod("a")?, second.add_pod("b")?))
}

fn set_uplinks(cluster: &Cluster, mtu: u32) -> Result<()> {
    let line = format!("ip link set {UPLINK} mtu {mtu}");
    let mut nodes = cluster.nodes.iter();
    nodes.try_for_each(|node| node.netns.run(&line).map(drop))
}

/// Waits until the overlay device and both sides of a pod's pair have this MTU.
fn wait_for_device_mtus(node: &Node, pod: &Pod, mtu: u64) -> Result<()> {
    until(SOON, "MTU of the devices", || {
        let host = pod.host_ifname()?;
        for (netns, device) in [
            (&node.netns, "oxlan0"),
            (&node.netns, &host),
            (&pod.netns, "eth0"),
        ] {
            let now = device_mtu(netns, device)?;
            ensure!(now == mtu, "{device} of {} has {now}", node.name);
        }
        Ok(())
    })
}

/// Local delivery asks nobody's MTU: what a pod of a larger one sends arrives whole.
#[test]
fn local_pods_of_different_mtu() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        let (large, remote) = (node.add_pod("large")?, cluster.nodes[1].add_pod("remote")?);
        let small = small_pod(node, "small", 1280)?;
        assert_eq!(device_mtu(&node.netns, &small.host_ifname()?)?, 1280);
        assert_eq!(device_mtu(&small.netns, "eth0")?, 1280);
        for peer in [&large, &remote] {
            for (from, to) in peer.addresses().zip(small.addresses()) {
                let (from, to) = (End::new(&peer.netns, from), End::new(&small.netns, to));
                // Both directions: the small pod's own packets are fragments.
                udp::exchange(from, to, 1380, 2)?;
                udp::segmented(from, to, 1380, 20)?;
            }
            bulk_both_ways(peer, &small)?;
            bulk_both_ways(&small, peer)?;
        }
        Ok(())
    });
}

/// A pod whose network configuration asks for a smaller MTU.
fn small_pod(node: &Node, name: &str, mtu: u16) -> Result<Pod> {
    let netns = node.pod_netns(name)?;
    let mut config = node.cni_config();
    config["mtu"] = mtu.into();
    let path = netns.path().to_string_lossy().into_owned();
    let call = oxlan_tests::cni::Call {
        verb: "ADD",
        container: netns.name(),
        netns: &path,
        ifname: "eth0",
        args: "",
        config,
    };
    let result = call.run(&node.netns)?.result()?;
    Pod::from_result(netns.clone(), netns.name(), result)
}

/// A pod that has raised its own MTU: the kernel drops what is too large for the host's side without a
/// word, but TCP goes by what its peers announce.
#[test]
fn a_pod_with_a_larger_mtu_than_its_node() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        let (a, b) = (node.add_pod("a")?, cluster.nodes[1].add_pod("b")?);
        a.netns.run("ip link set eth0 mtu 9000")?;
        bulk_both_ways(&a, &b)?;
        bulk_both_ways(&b, &a)?;
        b.addresses()
            .try_for_each(|to| ping(&a, to, 1450).map(drop))
    });
}

/// What arrives from a jumbo underlay for a pod of a small MTU.
#[test]
fn jumbo_packets_for_a_small_pod() {
    let shape = Shape {
        mtu: 9000,
        ..Shape::nodes(2)
    };
    with_cluster(shape, |cluster| {
        let node = &cluster.nodes[0];
        let (small, remote) = (
            small_pod(node, "small", 1400)?,
            cluster.nodes[1].add_pod("remote")?,
        );
        for (from, to) in remote.addresses().zip(small.addresses()) {
            let (from, to) = (End::new(&remote.netns, from), End::new(&small.netns, to));
            udp::exchange(from, to, 8000, 2)?;
            udp::segmented(from, to, 8000, 6)?;
        }
        bulk_both_ways(&remote, &small)?;
        bulk_both_ways(&small, &remote)
    });
}

/// The packet that is answered may have a checksum that a device was to fill in. The answer has none such, or
/// somebody would write into what it quotes.
#[test]
fn answers_have_right_checksums_whatever_devices_do() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let b = second.add_pod("b")?;
        narrow(cluster, 1400)?;
        wait_for_route_mtu(first, "10.244.2.0/24", 1350)?;
        wait_for_route_mtu(first, "fd00:244:0:2::/64", 1350)?;
        for (outside, inside) in [("on", "on"), ("off", "on"), ("on", "off"), ("off", "off")] {
            // One that has learned nothing yet. Whichever side sends the answer on, and whichever sent the packet.
            let a = first.add_pod(&format!("a-{outside}-{inside}"))?;
            let tx = format!("ethtool -K {} tx {outside}", a.host_ifname()?);
            first.netns.run(&tx)?;
            a.netns.run(&format!("ethtool -K eth0 tx {inside}"))?;
            for (from, to) in a.addresses().zip(b.addresses()) {
                let what = format!("{to}, checksums outside {outside}, inside {inside}");
                let filter = "(icmp and icmp[0] == 3) or (icmp6 and ip6[40] == 2)";
                let answers = Capture::start(cluster.scope(), &a.netns, "eth0", "-vv", filter)?;
                let before = first.verdicts("too-big")?;
                let (near, far) = (End::new(&a.netns, from), End::new(&b.netns, to));
                tcp::transfer(near, far, 1 << 18).context(what.clone())?;
                ensure!(first.verdicts("too-big")? > before, "{what}: no answer");
                let text = answers.wait_for("mtu 1350")?;
                let wrong = ["wrong icmp cksum", "bad icmp6 cksum"];
                ensure!(!wrong.iter().any(|w| text.contains(w)), "{what}: {text}");
                ensure!(
                    to.is_ipv4() || text.contains("[icmp6 sum ok]"),
                    "{what}: {text}"
                );
            }
        }
        Ok(())
    });
}
