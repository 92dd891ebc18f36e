//! What a node's kernel learns of the way to another node counts for its pods, if it is true.

use anyhow::{Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use oxlan_tests::cluster::{Cluster, Shape, with_cluster};
use oxlan_tests::fabric::with_fabric;
use oxlan_tests::node::Node;
use oxlan_tests::underlay::{UPLINK, node_v6};
use oxlan_tests::wait::{SOON, until_true};

use super::{bulk_both_ways, device_mtu, learned, ping, route_mtu, wait_for_route_mtu};

/// Node 1 reaches node 2 by way of the switch, which routes and does not take more than `mtu` bytes for it.
fn route_by_the_switch(cluster: &Cluster, mtu: u32) -> Result<()> {
    let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
    cluster.underlay.switch.run_all(&[
        "sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.br0.send_redirects=0",
        &format!("ip route add {}/32 dev br0 mtu {mtu}", second.underlay),
    ])?;
    let detour = format!("{}/32 via 192.168.50.254", second.underlay);
    first.netns.run(&format!("ip route add {detour}")).map(drop)
}

/// What the host learns by path MTU discovery counts for pods, until the kernel forgets it.
#[test]
fn what_the_host_has_learned_counts_for_pods() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        route_by_the_switch(cluster, 1400)?;
        until_true(SOON, "way by the switch", || {
            let routes = first.oxlan_json("routes")?.to_string();
            Ok(routes.contains("\"192.168.50.254\""))
        })?;
        assert_eq!(route_mtu(first, "10.244.2.0/24")?, 1450);
        // The underlay fragments as long as nobody knows.
        b.addresses()
            .try_for_each(|to| ping(&a, to, 1450).map(drop))?;

        first.netns.run("sysctl -qw net.ipv4.route.mtu_expires=4")?;
        let discover = format!("ping -n -c 1 -W 1 -M do -s 1472 {}", second.underlay);
        ensure!(first.netns.run(&discover).is_err(), "1500 bytes fit");
        wait_for_route_mtu(first, "10.244.2.0/24", 1350)?;
        wait_for_route_mtu(first, "fd00:244:0:2::/64", 1350)?;
        let nodes = first.oxlan_json("nodes")?.to_string();
        ensure!(nodes.contains("\"path_mtu\":1400"), "{nodes}");
        wait_for_route_mtu(first, "10.244.2.0/24", 1450)?;
        wait_for_route_mtu(first, "fd00:244:0:2::/64", 1450)?;
        bulk_both_ways(&a, &b)
    });
}

/// An ICMP error that answers nothing of the node's own changes nothing, whatever it quotes.
#[test]
fn a_forged_error_is_not_believed() {
    with_cluster(Shape::nodes(3), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        bulk_both_ways(&a, &b)?;
        // As if node 1 had sent TCP to node 2, from the switch.
        let quote = forged_tcp(first, second);
        let error = [&[3, 4, 0, 0, 0, 0, 2, 88][..], &quote].concat();
        send_icmp(&cluster.underlay.switch, first, error)?;
        // One that is about another node, and believed: it comes after the forged one.
        let third = &cluster.nodes[2];
        first.netns.run(&format!(
            "ip route add {}/32 dev {UPLINK} mtu 1400",
            third.underlay
        ))?;
        wait_for_route_mtu(first, "10.244.3.0/24", 1350)?;
        assert_eq!(route_mtu(first, "10.244.2.0/24")?, 1450);
        Ok(())
    });
}

/// The start of a TCP packet between two nodes.
fn forged_tcp(from: &Node, to: &Node) -> Vec<u8> {
    let header = oxlan_tests::packet::Ip {
        fragment: 0x4000,
        ..oxlan_tests::packet::Ip::new(
            &from.underlay.to_string(),
            &to.underlay.to_string(),
            oxlan_tests::packet::TCP,
        )
    };
    header.with(&[0x30, 0x39, 0, 80, 1, 2, 3, 4])
}

/// Sends an ICMP message, whose checksum is set, to a node.
fn send_icmp(from: &oxlan_tests::netns::Netns, to: &Node, mut message: Vec<u8>) -> Result<()> {
    let check = oxlan_common::packet::checksum::of(&message, 0);
    message[2..4].copy_from_slice(&check);
    from.inside(|| {
        let flags = SockFlag::empty();
        let socket = socket(
            AddressFamily::Inet,
            SockType::Raw,
            flags,
            SockProtocol::Icmp,
        )?;
        let to = SockaddrIn::from(std::net::SocketAddrV4::new(to.underlay, 0));
        sendto(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            &message,
            &to,
            MsgFlags::empty(),
        )?;
        Ok(())
    })
}

/// A router with a smaller MTU between nodes with an IPv6 underlay, where routers do not fragment: it tells the
/// node, the agent hears of it, and pods are told at their next large packet.
#[test]
fn a_routers_smaller_mtu_is_learned_over_ipv6() {
    with_fabric(2, "", |fabric| {
        fabric.write_file_over("", |number| node_v6(number).into())?;
        let [first, second] = [&fabric.nodes[0], &fabric.nodes[1]];
        // Both sides of the narrow link, as on a real one.
        second.netns.run("ip link set eth0 mtu 1400")?;
        fabric.routers[0].run("ip link set node2 mtu 1400")?;
        fabric.start()?;
        // One way only, so that it is known which router is asked.
        [1, 2]
            .map(|node| fabric.unplug(1, node))
            .into_iter()
            .collect::<Result<()>>()?;
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        until_true(SOON, "way to the other node", || {
            Ok(b.addresses().all(|to| a.ping(to).is_ok()))
        })?;
        ensure!(
            route_mtu(first, "10.244.2.0/24")? == 1430,
            "known too early"
        );
        ensure!(device_mtu(&b.netns, "eth0")? == 1330);
        for (to, prefix) in b.addresses().zip(["10.244.2.0/24", "fd00:244:0:2::/64"]) {
            until_true(SOON, &format!("path MTU towards {to}"), || {
                ensure!(ping(&a, to, 1430).is_err(), "1430 bytes reached {to}");
                Ok(learned(&a, to)? == Some(1330))
            })?;
            wait_for_route_mtu(first, prefix, 1330)?;
            ping(&a, to, 1330)?;
        }
        bulk_both_ways(&a, &b)
    });
}
