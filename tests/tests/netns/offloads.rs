//! Aggregates and checksums: what a sender leaves to devices has to be done by somebody, and only once.

use anyhow::{Context, Result, ensure};
use aya::util::KernelVersion;
use oxlan_tests::aggregates::{Family, set_aggregate_size};
use oxlan_tests::capture::Capture;
use oxlan_tests::cluster::{Cluster, Families, Shape, with_cluster};
use oxlan_tests::netns::Netns;
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::skip::skip;
use oxlan_tests::traffic::{End, tcp, udp};
use oxlan_tests::underlay::UPLINK;
use oxlan_tests::wait::{SOON, until_true};
use oxlan_tests::xdp;

const BULK: usize = 8 << 20;

/// An aggregate's size that 16 bits cannot tell.
const BEYOND: u32 = 128 << 10;

/// The offloads that a device can do without: then the kernel does their work before it.
const OFFLOADS: &str = "tx off tso off gso off gro off";

/// Two pods, on one node and on two, and their addresses of each family.
fn for_all(cluster: &Cluster, check: impl Fn(End<'_>, End<'_>) -> Result<()>) -> Result<()> {
    let a = cluster.nodes[0].add_pod("a")?;
    let others = [
        cluster.nodes[0].add_pod("b")?,
        cluster.nodes[1].add_pod("c")?,
    ];
    for other in &others {
        for (from, to) in a.addresses().zip(other.addresses()) {
            let (near, far) = (End::new(&a.netns, from), End::new(&other.netns, to));
            check(near, far).with_context(|| format!("{from} to {to}"))?;
        }
    }
    Ok(())
}

/// What ends in a pod's TCP socket is not worth the way by the overlay device.
#[test]
fn streams_to_a_pod_stay_in_the_fast_path() {
    with_cluster(Shape::nodes(2), |cluster| {
        let nodes = [&cluster.nodes[0], &cluster.nodes[1]];
        let (a, b) = (nodes[0].add_pod("a")?, nodes[1].add_pod("b")?);
        for (from, to) in a.addresses().zip(b.addresses()) {
            let aside = || -> Result<[u64; 2]> {
                let [first, second] = nodes.map(|node| node.verdicts("to-overlay"));
                Ok([first?, second?])
            };
            let before = aside()?;
            tcp::transfer(End::new(&a.netns, from), End::new(&b.netns, to), BULK)?;
            let after = aside()?;
            ensure!(
                before == after,
                "{from} to {to} by the overlay device: {before:?} packets, then {after:?}"
            );
        }
        Ok(())
    });
}

/// A QUIC receiver's way: datagrams of one flow in one buffer. Not one by one, which would be right, too, but slow.
#[test]
fn datagrams_arrive_coalesced() {
    with_cluster(Shape::nodes(2), |cluster| {
        for_all(cluster, |client, server| {
            let most = udp::coalesced(client, server, 1200, 40)?;
            println!("at most {most} of 40 datagrams in one buffer");
            // Frames are put together again in the pod, as many as its interface finds at once: by chance, one.
            let is_sure = !xdp::is_demanded();
            ensure!(
                most > 1 || !is_sure,
                "each datagram came in a buffer of its own"
            );
            Ok(())
        })
    });
}

/// Sends on, under its own address, what one pod sends to it to another pod.
fn forward(router: &Pod, from: &Pod, to: &Pod) -> Result<()> {
    router.netns.run_all(&[
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        "nft add table inet proxy",
        "nft flush table inet proxy",
        "nft add chain inet proxy pre { type nat hook prerouting priority -100 ; }",
        "nft add chain inet proxy post { type nat hook postrouting priority 100 ; }",
        "nft add rule inet proxy post oifname eth0 masquerade",
    ])?;
    from.addresses()
        .zip(to.addresses())
        .try_for_each(|(from, to)| {
            let ip = if to.is_ipv4() { "ip" } else { "ip6" };
            let rule = format!("{ip} saddr {from} meta l4proto {{ tcp, udp }} dnat {ip} to {to}");
            let line = format!("nft add rule inet proxy pre {rule}");
            router.netns.run(&line).map(drop)
        })
}

/// An aggregate that was decapsulated, and is encapsulated again or goes to a pod of the same node.
fn send_on(cluster: &Cluster) -> Result<()> {
    let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
    let router = first.add_pod("router")?;
    let client = second.add_pod("client")?;
    for server in [first.add_pod("near")?, second.add_pod("far")?] {
        forward(&router, &client, &server)?;
        for ((from, to), via) in client
            .addresses()
            .zip(server.addresses())
            .zip(router.addresses())
        {
            let from = End::new(&client.netns, from);
            let to = End::new(&server.netns, to).reached_at(via);
            let seen = tcp::transfer(from, to, BULK).with_context(|| format!("by {via}"))?;
            ensure!(seen == via, "seen as {seen}");
            udp::segmented(from, to, 1200, 40).with_context(|| format!("by {via}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_pod_sends_on_to_other_pods() {
    with_cluster(Shape::nodes(2), send_on);
}

#[test]
fn a_pod_sends_on_to_other_pods_over_ipv6() {
    with_cluster(Shape::nodes(2).over(Families::V6), send_on);
}

/// What comes without a tunnel is sent on without one.
#[test]
fn a_pod_sends_on_without_encapsulation() {
    with_cluster(Shape::nodes(2), |cluster| {
        cluster.go_without_encapsulation()?;
        send_on(cluster)
    });
}

/// The same where uplinks cannot cut aggregates: the kernel has to, by what is noted in the packet.
#[test]
fn a_pod_sends_on_over_plain_uplinks() {
    with_cluster(Shape::nodes(2), |cluster| {
        switch_off(cluster)?;
        send_on(cluster)
    });
}

#[test]
fn a_pod_sends_on_over_plain_ipv6_uplinks() {
    with_cluster(Shape::nodes(2).over(Families::V6), |cluster| {
        switch_off(cluster)?;
        send_on(cluster)
    });
}

/// Uplinks, and the switch's ports, without offloads.
fn switch_off(cluster: &Cluster) -> Result<()> {
    let off = |netns: &Netns, device: &str| netns.run(&format!("ethtool -K {device} {OFFLOADS}"));
    for node in &cluster.nodes {
        off(&node.netns, UPLINK)?;
        off(&cluster.underlay.switch, &format!("node{}", node.number))?;
    }
    Ok(())
}

/// Without offloads every checksum is on the wire, and has to be right: the outer headers' and the inner ones'.
#[test]
fn checksums_are_right_on_the_wire() {
    with_cluster(Shape::nodes(2), |cluster| {
        switch_off(cluster)?;
        let (a, b) = (
            cluster.nodes[0].add_pod("a")?,
            cluster.nodes[1].add_pod("b")?,
        );
        for (from, to) in a.addresses().zip(b.addresses()) {
            // The port makes tcpdump take VXLAN for OTV, whose header has the same form, and look inside.
            let capture = Capture::start(
                cluster.scope(),
                &cluster.underlay.switch,
                "br0",
                "-vv",
                "udp port 8472",
            )?;
            let (near, far) = (End::new(&a.netns, from), End::new(&b.netns, to));
            tcp::transfer(near, far, 1 << 18)?;
            udp::segmented(near, far, 1200, 10)?;
            udp::exchange(near, far, 1000, 3)?;
            // Of the ten and the two times three datagrams.
            until_true(SOON, "end of the capture", || {
                Ok(capture.text()?.matches(UDP_SUM_OK).count() == 16)
            })
            .with_context(|| capture.text().unwrap_or_default())?;
            checksums_are_right(&capture.finish()?).with_context(|| format!("{from} to {to}"))?;
        }
        Ok(())
    });
}

/// What tcpdump says of a datagram.
const UDP_SUM_OK: &str = "[udp sum ok]";

/// What tcpdump, with `-vv`, says about each checksum that it has computed again, of outer and inner headers.
pub(crate) fn checksums_are_right(text: &str) -> Result<()> {
    // Not "bad" alone: a right checksum may end in these digits, and a first fragment has a "bad length".
    let words = [
        "(incorrect",
        "bad udp cksum",
        "bad icmp6 cksum",
        "wrong icmp cksum",
        ", bad cksum",
    ];
    let wrong = |line: &&str| words.iter().any(|word| line.contains(word));
    let wrong: Vec<&str> = text.lines().filter(wrong).take(3).collect();
    ensure!(wrong.is_empty(), "wrong checksums: {wrong:#?}");
    let tcp = text.matches("(correct)").count();
    ensure!(
        tcp > 100,
        "only {tcp} segments with a right checksum:\n{text}"
    );
    Ok(())
}

/// Aggregates beyond 64 KiB (BIG TCP): the outer headers cannot tell their length.
#[test]
fn aggregates_beyond_64_kib_arrive() {
    with_cluster(Shape::nodes(2), |cluster| {
        for (family, since) in [(Family::Ipv6, (5, 19)), (Family::Ipv4, (6, 3))] {
            let needed = KernelVersion::new(since.0, since.1, 0);
            if KernelVersion::current().is_ok_and(|now| now < needed) {
                let commit = family.commit();
                skip(&format!(
                    "aggregates of {family:?} beyond 64 KiB need Linux {since:?}, {commit}"
                ));
                continue;
            }
            enlarge(cluster, family)?;
        }
        Ok(())
    });
}

fn enlarge(cluster: &Cluster, family: Family) -> Result<()> {
    for node in &cluster.nodes {
        set_aggregate_size(&node.netns, UPLINK, family, BEYOND)?;
        let port = format!("node{}", node.number);
        set_aggregate_size(&cluster.underlay.switch, &port, family, BEYOND)?;
    }
    set_aggregate_size(&cluster.underlay.switch, "br0", family, BEYOND)?;
    let pod = |node: &Node, role| -> Result<Pod> {
        let name = format!("{role}-{family:?}").to_lowercase();
        let pod = node.add_pod(&name)?;
        set_aggregate_size(&pod.netns, "eth0", family, BEYOND)?;
        set_aggregate_size(&node.netns, &pod.host_ifname()?, family, BEYOND)?;
        Ok(pod)
    };
    let a = pod(&cluster.nodes[0], "a")?;
    for other in [pod(&cluster.nodes[0], "b")?, pod(&cluster.nodes[1], "c")?] {
        for (from, to) in a.addresses().zip(other.addresses()) {
            let (near, far) = (End::new(&a.netns, from), End::new(&other.netns, to));
            transfer_in_large_aggregates(cluster, near, far, family)
                .with_context(|| format!("{from} to {to}, large {family:?}"))?;
        }
    }
    // A length of 0 is none that is wrong.
    for node in &cluster.nodes {
        let refused = [node.drops("malformed")?, node.drops("truncated")?];
        ensure!(refused == [0; 2], "{}, {family:?}: {refused:?}", node.name);
    }
    Ok(())
}

/// A stream, of which the pod has sent packets beyond 64 KiB if it is of the family that may.
fn transfer_in_large_aggregates(
    cluster: &Cluster,
    near: End<'_>,
    far: End<'_>,
    family: Family,
) -> Result<()> {
    let is_large = near.address.is_ipv4() == (family == Family::Ipv4);
    // 65535 bytes and an Ethernet header are what other aggregates have at most.
    let filter = "greater 65550";
    let capture = Capture::start(cluster.scope(), near.netns, "eth0", "-e -s 128", filter)?;
    tcp::transfer(near, far, BULK)?;
    if is_large {
        capture.wait_for("ethertype")?;
    }
    Ok(())
}
