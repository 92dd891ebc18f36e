//! An underlay of IPv6, alone and beside IPv4: everything that works over IPv4, and what is different.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use oxlan_tests::capture::{Capture, each_family_over_its_own};
use oxlan_tests::cluster::{Cluster, Families, Shape, with_cluster};
use oxlan_tests::pod::Pod;
use oxlan_tests::traffic::{End, tcp, udp};
use oxlan_tests::underlay::{UPLINK, node_v6};
use oxlan_tests::wait::{SOON, until_true};

use crate::offloads::checksums_are_right;
use crate::packet_shapes::fits_exactly;

/// Larger than all buffers on the way.
const BULK: usize = 2 << 20;

/// Pings, datagrams of every size, aggregates and a stream, which must come from where they say.
fn talk(client: End<'_>, server: End<'_>) -> Result<()> {
    let ping = format!("ping -n -q -c 2 -i 0.05 -W 2 -I {}", client.address);
    client.netns.run(&format!("{ping} {}", server.address))?;
    for size in [1, 100, 1300, 5000] {
        assert_eq!(udp::exchange(client, server, size, 3)?, client.address);
    }
    udp::segmented(client, server, 1200, 40)?;
    udp::mixed(client, server, 60)?;
    assert_eq!(tcp::transfer(client, server, BULK)?, client.address);
    Ok(())
}

/// Two pods in both families, both ways.
fn pods_talk(a: &Pod, b: &Pod) -> Result<()> {
    for (from, to) in a.addresses().zip(b.addresses()) {
        let (a, b) = (End::new(&a.netns, from), End::new(&b.netns, to));
        talk(a, b)?;
        talk(b, a)?;
    }
    Ok(())
}

fn two_pods(cluster: &Cluster) -> Result<(Pod, Pod)> {
    let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
    Ok((first.add_pod("a")?, second.add_pod("b")?))
}

#[test]
fn pods_and_hosts_reach_each_other() {
    with_cluster(Shape::nodes(2).over(Families::V6), |cluster| {
        let (a, b) = two_pods(cluster)?;
        pods_talk(&a, &b)?;
        for (cidr, address) in cluster.nodes[0].pod_cidrs.iter().zip(b.addresses()) {
            let host: IpAddr = cidr.split('/').next().unwrap_or_default().parse()?;
            let (host, pod) = (
                End::new(&cluster.nodes[0].netns, host),
                End::new(&b.netns, address),
            );
            talk(host, pod)?;
            talk(pod, host)?;
        }
        for node in &cluster.nodes {
            for reason in ["unknown-vtep", "foreign-inner-source", "no-udp-checksum"] {
                assert_eq!(node.drops(reason)?, 0, "{reason} on {}", node.name);
            }
        }
        Ok(())
    });
}

/// Each family of pods goes over the underlay of its own family.
#[test]
fn both_families_below() {
    with_cluster(Shape::nodes(2).over(Families::Both), |cluster| {
        let (a, b) = two_pods(cluster)?;
        let switch = &cluster.underlay.switch;
        let options = "-t";
        let capture = Capture::start(cluster.scope(), switch, "br0", options, "udp port 8472")?;
        pods_talk(&a, &b)?;
        each_family_over_its_own(&capture.finish()?)
    });
}

/// With the devices' help switched off, every checksum on the wire is there to be seen, the outer one
/// too: of single packets, and of what the kernel cuts from aggregates.
#[test]
fn every_checksum_on_the_wire_is_right() {
    with_cluster(Shape::nodes(2).over(Families::V6), |cluster| {
        let (a, b) = two_pods(cluster)?;
        for node in &cluster.nodes {
            node.netns.run(&format!("ethtool -K {UPLINK} tx off"))?;
        }
        let (scope, switch) = (cluster.scope(), &cluster.underlay.switch);
        let capture = Capture::start(scope, switch, "br0", "-vv -B 65536", "udp port 8472")?;
        pods_talk(&a, &b)?;
        let text = capture.finish()?;
        let right = text.matches("[udp sum ok]").count();
        ensure!(right > 1000, "{right} packets were seen");
        checksums_are_right(&text)?;
        let none = text.lines().find(|line| line.contains("8472: [no cksum]"));
        ensure!(none.is_none(), "no checksum: {none:?}");
        Ok(())
    });
}

/// The largest packet that fits arrives whole; one byte more is refused where it is sent.
#[test]
fn the_mtu_leaves_room_for_larger_headers() {
    let shape = Shape::nodes(2).over(Families::V6);
    with_cluster(shape, |cluster| fits_exactly(cluster, 70));
}

/// A router on the link is known by a link-local address, as router advertisements tell it.
#[test]
fn the_next_hop_may_be_link_local() {
    with_cluster(Shape::nodes(2).over(Families::V6), |cluster| {
        let (a, b) = two_pods(cluster)?;
        let first = &cluster.nodes[0];
        cluster
            .underlay
            .switch
            .run("ip address add fe80::fe/64 dev br0 nodad")?;
        let second = node_v6(2);
        let detour = format!("{second}/128 via fe80::fe dev {UPLINK}");
        first.netns.run(&format!("ip -6 route add {detour}"))?;
        until_true(SOON, "next hop", || {
            let routes = first.oxlan_json("routes")?;
            let rows = routes.as_array().map(Vec::as_slice).unwrap_or_default();
            let mut far = rows
                .iter()
                .filter(|row| row["underlay"] == second.to_string().as_str());
            Ok(far.all(|row| row["next_hop"] == "fe80::fe"))
        })?;
        pods_talk(&a, &b)
    });
}

/// ECN goes with the packet (RFC 6040), DSCP by the configuration; in the fast path, and by the
/// overlay device, which carries what hosts send.
fn outer_traffic_classes(underlay: Families) {
    with_cluster(Shape::nodes(2).over(underlay), |cluster| {
        let (a, b) = two_pods(cluster)?;
        let node = &cluster.nodes[0];
        for (dscp, wanted) in [("0", 0x01), ("46", 0xb9), ("\"copy\"", 0x29)] {
            let network = format!("[network]\ndscp = {dscp}\n");
            cluster.write_file(&cluster.file_text().replace("[network]\n", &network))?;
            until_true(SOON, "DSCP", || {
                Ok(node.oxlan_json("status")?["dscp"] == dscp.trim_matches('"'))
            })?;
            for to in b.addresses() {
                for sender in [&a.netns, &node.netns] {
                    let class = match underlay {
                        Families::V4 => format!("(tos 0x{wanted:x}"),
                        Families::V6 | Families::Both => format!("(class 0x{wanted:02x}"),
                    };
                    let (scope, switch) = (cluster.scope(), &cluster.underlay.switch);
                    let capture =
                        Capture::start(scope, switch, "node1", "-v -Q in", "udp port 8472")?;
                    sender.run(&format!("ping -n -q -c 1 -W 2 -Q 0x29 {to}"))?;
                    capture.wait_for(&class)?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn the_outer_traffic_class_over_ipv4() {
    outer_traffic_classes(Families::V4);
}

#[test]
fn the_outer_traffic_class_over_ipv6() {
    outer_traffic_classes(Families::V6);
}
