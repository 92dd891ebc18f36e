//! Addresses that nodes put in the place of others: which, and where not.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use oxlan_tests::capture::Capture;
use oxlan_tests::cluster::{Cluster, Shape, with_cluster};
use oxlan_tests::netns::Netns;
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::traffic::{End, tcp, udp};
use oxlan_tests::underlay::{UPLINK, internet, node_v4, node_v6};
use oxlan_tests::wait::{SOON, until, until_true};

use crate::modes::wait_for_route;
use crate::reach::overlay_addresses;

/// Larger than all buffers on the way.
const BULK: usize = 4 << 20;

/// Addresses of a node on the underlay, by family.
fn underlay_addresses(number: u8) -> [IpAddr; 2] {
    [node_v4(number).into(), node_v6(number).into()]
}

/// Checks, for each family, as whom a pod sees somebody with these addresses.
fn expect_seen(client: &Netns, addresses: &[IpAddr], pod: &Pod, as_whom: &[IpAddr]) -> Result<()> {
    for ((own, to), wanted) in addresses.iter().zip(pod.addresses()).zip(as_whom) {
        let ends = (End::new(client, *own), End::new(&pod.netns, to));
        let what = || format!("{own} to {to}");
        let datagrams = udp::exchange(ends.0, ends.1, 100, 3).with_context(what)?;
        let stream = tcp::transfer(ends.0, ends.1, BULK).with_context(what)?;
        for seen in [datagrams, stream] {
            ensure!(seen == *wanted, "{own} is seen by {to} as {seen}");
        }
    }
    Ok(())
}

/// The internet and the switch send what is for pods to the first node, wherever the pods are.
fn lead_through_the_first_node(cluster: &Cluster) -> Result<()> {
    let [v4, v6] = underlay_addresses(1);
    cluster.underlay.internet.run_all(&[
        "ip route add 10.244.0.0/16 via 198.51.100.1",
        "ip -6 route add fd00:244::/48 via 2001:db8:ffff::1",
    ])?;
    cluster.underlay.switch.run_all(&[
        &format!("ip route add 10.244.0.0/16 via {v4}"),
        &format!("ip -6 route add fd00:244::/48 via {v6}"),
    ])
}

/// In the overlay a node has one address, to which answers come by the way of the questions.
#[test]
fn a_hosts_own_address_reaches_pods() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        let (near, far) = (node.add_pod("near")?, cluster.nodes[1].add_pod("far")?);
        let own = underlay_addresses(1);
        expect_seen(&node.netns, &own, &near, &own)?;
        expect_seen(&node.netns, &own, &far, &overlay_addresses(node)?)
    });
}

#[test]
fn somebody_outside_reaches_pods_through_a_node() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        let (near, far) = (node.add_pod("near")?, cluster.nodes[1].add_pod("far")?);
        lead_through_the_first_node(cluster)?;
        let outside = &cluster.underlay.internet;
        expect_seen(outside, &internet(), &near, &internet())?;
        expect_seen(outside, &internet(), &far, &overlay_addresses(node)?)
    });
}

/// The underlay is IPv4, so IPv6 pods stay in the overlay.
#[test]
fn somebody_outside_reaches_pods_of_a_neighbour() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [node, other] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (near, far) = (node.add_pod("near")?, other.add_pod("far")?);
        lead_through_the_first_node(cluster)?;
        cluster.set_mode("auto")?;
        wait_for_route(node, "10.244.2.", true, true)?;
        wait_for_route(other, "10.244.1.", true, true)?;
        let node_as = [underlay_addresses(1)[0], overlay_addresses(node)?[1]];
        let outside = &cluster.underlay.internet;
        expect_seen(outside, &internet(), &near, &internet())?;
        expect_seen(outside, &internet(), &far, &node_as)?;
        expect_seen(&node.netns, &underlay_addresses(1), &far, &node_as)
    });
}

#[test]
fn somebody_outside_reaches_pods_behind_a_route() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        let (near, far) = (node.add_pod("near")?, cluster.nodes[1].add_pod("far")?);
        lead_through_the_first_node(cluster)?;
        cluster.set_mode("direct")?;
        for (node, other) in cluster.nodes.iter().zip([2, 1]) {
            let [v4, v6] = underlay_addresses(other);
            node.netns.run_all(&[
                &format!("ip route add 10.244.{other}.0/24 via {v4}"),
                &format!("ip -6 route add fd00:244:0:{other}::/64 via {v6}"),
            ])?;
            wait_for_route(node, &format!("10.244.{other}."), true, true)?;
            wait_for_route(node, &format!("fd00:244:0:{other}:"), true, true)?;
        }
        // kube-proxy does so: half of a connection past this node would end there.
        node.netns.run_all(&[
            "nft add table inet strict",
            "nft add chain inet strict forward { type filter hook forward priority 0 ; }",
            "nft add rule inet strict forward ct state invalid drop",
        ])?;
        let own = underlay_addresses(1);
        let outside = &cluster.underlay.internet;
        expect_seen(outside, &internet(), &near, &internet())?;
        expect_seen(outside, &internet(), &far, &own)?;
        expect_seen(&node.netns, &own, &far, &own)
    });
}

/// Who sets the mark masquerades by himself, or has a reason not to.
#[test]
fn what_is_marked_for_kube_proxy_is_left_to_it() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let pod = node.add_pod("a")?;
        // Pods' own addresses can be answered to.
        lead_through_the_first_node(cluster)?;
        let seen = |to: IpAddr, own: IpAddr| {
            let client = End::new(&pod.netns, own);
            udp::exchange(client, End::new(&cluster.underlay.internet, to), 100, 1)
        };
        let ways = || internet().into_iter().zip(pod.addresses());
        for ((to, own), node_as) in ways().zip(underlay_addresses(1)) {
            ensure!(seen(to, own)? == node_as);
        }
        node.netns.run_all(&[
            "nft add table inet marks",
            "nft add chain inet marks forward { type filter hook forward priority 0 ; }",
            "nft add rule inet marks forward meta mark set 0x4001",
        ])?;
        for (to, own) in ways() {
            ensure!(seen(to, own)? == own, "marked, and masqueraded");
        }
        Ok(())
    });
}

/// A datagram from an address of the cluster to one that is not keeps its source only if it is multicast.
#[test]
fn multicast_keeps_its_source() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let uplink = node.netns.ifindex(UPLINK)?;
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x99);
        let groups: [SocketAddr; 2] = [
            SocketAddr::from(([239, 1, 1, 1], 7099)),
            SocketAddrV6::new(group, 7099, 0, uplink).into(),
        ];
        let switch = &cluster.underlay.switch;
        let capture = Capture::start(cluster.scope(), switch, "node1", "", "udp port 7099")?;
        for (from, group) in overlay_addresses(node)?.into_iter().zip(groups) {
            // Addresses of the underlay may be new, and a first packet may be lost for that.
            until(SOON, "masqueraded answer", || {
                expect_masqueraded_to_the_world(cluster, node, from)
            })?;
            let socket = node.netns.inside(|| Ok(UdpSocket::bind((from, 0))?))?;
            // The kernel would choose the device that has the source address.
            setsockopt(&socket, sockopt::BindToDevice, &UPLINK.into())?;
            let sender = format!("{from}.{}", socket.local_addr()?.port());
            until_true(SOON, &format!("datagram from {sender}"), || {
                socket.send_to(b"hello", group)?;
                Ok(capture.text()?.contains(&sender))
            })?;
        }
        Ok(())
    });
}

fn expect_masqueraded_to_the_world(cluster: &Cluster, node: &Node, from: IpAddr) -> Result<()> {
    let world = internet().into_iter().zip(underlay_addresses(node.number));
    for (to, wanted) in world.filter(|(to, _)| to.is_ipv4() == from.is_ipv4()) {
        let server = End::new(&cluster.underlay.internet, to);
        let seen = udp::exchange(End::new(&node.netns, from), server, 100, 1)?;
        ensure!(seen == wanted, "{from} is seen as {seen}");
    }
    Ok(())
}
