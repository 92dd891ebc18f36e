//! What a pod is told: ARP and neighbour discovery answers, and errors for packets whose time is over.

use anyhow::{Result, ensure};
use oxlan_tests::binaries::unpacked;
use oxlan_tests::cluster::{Shape, with_cluster};
use oxlan_tests::netns::Netns;

const GATEWAY_MAC: &str = "0e:6f:78:6c:61:6e";

#[test]
fn arp_for_the_gateway_is_answered() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let (pod, other) = (node.add_pod("a")?, node.add_pod("b")?);
        pod.netns.run("ip neighbour del 169.254.1.1 dev eth0")?;
        pod.ping(other.ipv4()?.into())?;
        ensure!(node.verdicts("arp-reply")? > 0, "nobody answered");
        let entry = pod.netns.run("ip neighbour show 169.254.1.1")?;
        ensure!(entry.contains(GATEWAY_MAC), "{entry}");
        Ok(())
    });
}

#[test]
fn neighbour_solicitations_for_the_gateway_are_answered() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let (pod, other) = (node.add_pod("a")?, node.add_pod("b")?);
        pod.netns.run("ip -6 neighbour del fe80::1 dev eth0")?;
        pod.ping(other.ipv6()?.into())?;
        ensure!(node.verdicts("nd-reply")? > 0, "nobody answered");
        let entry = pod.netns.run("ip -6 neighbour show fe80::1")?;
        ensure!(entry.contains(GATEWAY_MAC), "{entry}");
        Ok(())
    });
}

/// A program that asks for the gateway itself (as keepalived and some service meshes do).
#[test]
fn arping_gets_the_gateways_mac() {
    with_cluster(Shape::nodes(1), |cluster| {
        let pod = cluster.nodes[0].add_pod("a")?;
        let busybox = unpacked("bin/busybox")?;
        let line = format!("{} arping -c 1 -w 2 -I eth0 169.254.1.1", busybox.display());
        let text = pod.netns.run(&line)?;
        ensure!(text.to_lowercase().contains(GATEWAY_MAC), "{text}");
        Ok(())
    });
}

/// Replies to one echo request with this hop limit; ping fails then, so its status says nothing.
fn ping_with_ttl(netns: &Netns, ttl: u8, to: std::net::IpAddr) -> Result<String> {
    let mut ping = netns.command("ping");
    ping.args([
        "-n",
        "-c",
        "1",
        "-W",
        "2",
        "-t",
        &ttl.to_string(),
        &to.to_string(),
    ]);
    Ok(String::from_utf8_lossy(&ping.output()?.stdout).into_owned())
}

#[test]
fn time_exceeded_reaches_the_pod() {
    with_cluster(Shape::nodes(2), |cluster| {
        let a = cluster.nodes[0].add_pod("a")?;
        let b = cluster.nodes[0].add_pod("b")?;
        let c = cluster.nodes[1].add_pod("c")?;
        for to in b.addresses().chain(c.addresses()) {
            let text = ping_with_ttl(&a.netns, 1, to)?;
            let exceeded = text.contains("Time to live exceeded") || text.contains("Hop limit");
            ensure!(exceeded, "hop limit 1 to {to}: {text}");
        }
        // The second router is the other node.
        for to in c.addresses() {
            let text = ping_with_ttl(&a.netns, 2, to)?;
            let exceeded = text.contains("Time to live exceeded") || text.contains("Hop limit");
            ensure!(exceeded, "hop limit 2 to {to}: {text}");
        }
        Ok(())
    });
}

/// traceroute shows each router once and ends at the pod.
#[test]
fn traceroute_shows_the_way() {
    with_cluster(Shape::nodes(2), |cluster| {
        let a = cluster.nodes[0].add_pod("a")?;
        let b = cluster.nodes[0].add_pod("b")?;
        let c = cluster.nodes[1].add_pod("c")?;
        for (to, routers) in [(&b, 1), (&c, 2)] {
            for address in to.addresses() {
                let text = a
                    .netns
                    .run(&format!("traceroute -n -q 1 -w 2 -m 5 {address}"))?;
                let hops: Vec<&str> = text.lines().skip(1).collect();
                ensure!(hops.len() == routers + 1, "to {address}: {text}");
                ensure!(!text.contains('*'), "a router is silent: {text}");
                let end = hops.last().copied().unwrap_or_default();
                ensure!(end.contains(&address.to_string()), "{text}");
            }
        }
        Ok(())
    });
}
