//! Aggregates and checksums: what a sender leaves to devices has to be done by somebody, and only once.

use anyhow::{Context, Result, ensure};
use aya::util::KernelVersion;
use oxlan_tests::aggregates::{Family, set_aggregate_size};
use oxlan_tests::capture::Capture;
use oxlan_tests::cluster::{Cluster, Shape, with_cluster};
use oxlan_tests::netns::Netns;
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::skip::skip;
use oxlan_tests::traffic::{End, tcp, udp};
use oxlan_tests::underlay::UPLINK;
use oxlan_tests::wait::{SOON, until_true};

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

/// A QUIC receiver's way: datagrams of one flow in one buffer.
#[test]
fn datagrams_arrive_coalesced() {
    with_cluster(Shape::nodes(2), |cluster| {
        for_all(cluster, |client, server| {
            udp::coalesced(client, server, 1200, 40)
        })
    });
}

/// Sends on, under its own address, what one pod sends to it to another pod.
fn forward(router: &Pod, from: &Pod, to: &Pod) -> Result<()> {
    router.netns.run_all(&[
        "sysctl -qw net.ipv4.ip_forward=1",
        "nft add table ip proxy",
        "nft flush table ip proxy",
        "nft add chain ip proxy pre { type nat hook prerouting priority -100 ; }",
        "nft add chain ip proxy post { type nat hook postrouting priority 100 ; }",
        &format!(
            "nft add rule ip proxy pre ip saddr {} dnat to {}",
            from.ipv4()?,
            to.ipv4()?
        ),
        "nft add rule ip proxy post oifname eth0 masquerade",
    ])
}

/// An aggregate that was decapsulated, and is encapsulated again or goes to a pod of the same node.
fn send_on(cluster: &Cluster) -> Result<()> {
    let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
    let router = first.add_pod("router")?;
    let client = second.add_pod("client")?;
    for server in [first.add_pod("near")?, second.add_pod("far")?] {
        forward(&router, &client, &server)?;
        let from = End::new(&client.netns, client.ipv4()?);
        let to = End::new(&server.netns, server.ipv4()?).reached_at(router.ipv4()?);
        let seen = tcp::transfer(from, to, BULK)?;
        ensure!(seen == router.ipv4()?, "seen as {seen}");
        udp::segmented(from, to, 1200, 40)?;
    }
    Ok(())
}

#[test]
fn a_pod_sends_on_to_other_pods() {
    with_cluster(Shape::nodes(2), send_on);
}

/// The same where uplinks cannot cut aggregates: the kernel has to, by what is noted in the packet.
#[test]
fn a_pod_sends_on_over_plain_uplinks() {
    with_cluster(Shape::nodes(2), |cluster| {
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
            verify(&capture.finish()?).with_context(|| format!("{from} to {to}"))?;
        }
        Ok(())
    });
}

/// What tcpdump says of a datagram.
const UDP_SUM_OK: &str = "[udp sum ok]";

/// What tcpdump says about each checksum that it has computed again.
fn verify(text: &str) -> Result<()> {
    // Not "bad " alone: a right checksum may end in these digits.
    let words = ["(incorrect", " bad ", "[bad "];
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
    set_aggregate_size(&cluster.nodes[0].netns, UPLINK, family, BEYOND)?;
    let pod = |node: &Node, role| -> Result<Pod> {
        let name = format!("{role}-{family:?}").to_lowercase();
        let pod = node.add_pod(&name)?;
        set_aggregate_size(&pod.netns, "eth0", family, BEYOND)?;
        Ok(pod)
    };
    let a = pod(&cluster.nodes[0], "a")?;
    for other in [pod(&cluster.nodes[0], "b")?, pod(&cluster.nodes[1], "c")?] {
        for (from, to) in a.addresses().zip(other.addresses()) {
            let (near, far) = (End::new(&a.netns, from), End::new(&other.netns, to));
            tcp::transfer(near, far, BULK)
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
