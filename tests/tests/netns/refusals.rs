//! What nodes refuse, each visible in `oxlan drops` under its reason.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, socket,
};
use oxlan_tests::cluster::{Cluster, Shape, with_cluster};
use oxlan_tests::netns::Netns;
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::traffic::{End, UdpSocket};
use oxlan_tests::wait::{SOON, until_true};

use crate::forgery::Forgery;

const VXLAN_PORT: u16 = 8472;

/// Sends a datagram from an address that was added to a pod, which Oxlan did not give it.
fn send_as(pod: &Netns, source: IpAddr, to: SocketAddr) -> Result<()> {
    let socket = End::new(pod, source).udp()?;
    socket.send_to(b"forged", to)?;
    Ok(())
}

/// Expects `act` to be counted under a reason and the socket, if any, to receive nothing.
fn expect_drop(
    node: &Node,
    reason: &str,
    witness: Option<&UdpSocket>,
    act: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = node.drops(reason)?;
    act().with_context(|| format!("provoking {reason}"))?;
    until_true(SOON, &format!("drop for {reason}"), || {
        Ok(node.drops(reason)? > before)
    })?;
    if let Some(socket) = witness {
        let mut buffer = [0; 2048];
        ensure!(
            socket.recv(&mut buffer).is_err(),
            "{reason} was counted and yet it arrived"
        );
    }
    Ok(())
}

/// A receiver that waits only a moment.
fn witness(pod: &Pod, address: IpAddr) -> Result<(UdpSocket, SocketAddr)> {
    let socket = End::new(&pod.netns, address).udp()?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let to = socket.local_addr()?;
    Ok((socket, to))
}

#[test]
fn a_foreign_source_address() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        let (liar, local) = (node.add_pod("liar")?, node.add_pod("local")?);
        let remote = cluster.nodes[1].add_pod("remote")?;
        let robbed = cluster.nodes[1].add_pod("robbed")?;
        // An address nobody has, and one that another pod has.
        liar.netns.run("ip address add 10.244.1.200/32 dev eth0")?;
        liar.netns
            .run("ip -6 address add fd00:244:0:1::ffff/128 dev eth0 nodad")?;
        liar.netns
            .run(&format!("ip address add {}/32 dev eth0", robbed.ipv4()?))?;
        for target in [&local, &remote] {
            let (v4, to_v4) = witness(target, target.ipv4()?.into())?;
            expect_drop(node, "foreign-source", Some(&v4), || {
                send_as(&liar.netns, Ipv4Addr::new(10, 244, 1, 200).into(), to_v4)
            })?;
            let (v6, to_v6) = witness(target, target.ipv6()?.into())?;
            expect_drop(node, "foreign-source", Some(&v6), || {
                send_as(&liar.netns, "fd00:244:0:1::ffff".parse()?, to_v6)
            })?;
        }
        let (v4, to_v4) = witness(&local, local.ipv4()?.into())?;
        expect_drop(node, "foreign-source", Some(&v4), || {
            send_as(&liar.netns, robbed.ipv4()?.into(), to_v4)
        })
    });
}

#[test]
fn a_foreign_mac() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let (liar, other) = (node.add_pod("liar")?, node.add_pod("other")?);
        liar.netns
            .run("ip link set eth0 address 02:00:00:00:00:77")?;
        let (socket, to) = witness(&other, other.ipv4()?.into())?;
        expect_drop(node, "foreign-mac", Some(&socket), || {
            send_as(&liar.netns, liar.ipv4()?.into(), to)
        })
    });
}

#[test]
fn a_router_advertisement() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let pod = node.add_pod("router")?;
        let device = pod.netns.ifindex("eth0")?;
        // Type 134, hop limit 64, no flags, lifetime 1800 s, no timers (RFC 4861, section 4.2).
        let mut advertisement = [0; 16];
        advertisement[..8].copy_from_slice(&[134, 0, 0, 0, 64, 0, 0x07, 0x08]);
        expect_drop(node, "router-advertisement", None, || {
            pod.netns.inside(|| {
                let raw = SockType::Raw;
                let flags = SockFlag::empty();
                let socket = socket(AddressFamily::Inet6, raw, flags, SockProtocol::IcmpV6)?;
                let to = SocketAddrV6::new("ff02::1".parse()?, 0, 0, device);
                let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
                sendto(
                    fd,
                    &advertisement,
                    &SockaddrIn6::from(to),
                    MsgFlags::empty(),
                )?;
                Ok(())
            })
        })
    });
}

/// A pod that speaks VXLAN to a node could forge any pod of the cluster.
#[test]
fn a_pods_own_tunnel() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let liar = first.add_pod("liar")?;
        let victim = second.add_pod("victim")?;
        let (socket, to) = witness(&victim, victim.ipv4()?.into())?;
        for node in [first, second] {
            let frame = Forgery::between(first, second, &victim, to.port())?.bytes();
            expect_drop(first, "tunnel-port", Some(&socket), || {
                let client = End::new(&liar.netns, liar.ipv4()?).udp()?;
                client.send_to(&frame, (node.underlay, VXLAN_PORT))?;
                Ok(())
            })?;
        }
        // Pods may use the port among themselves.
        let server = victim
            .netns
            .inside(|| Ok(UdpSocket::bind((victim.ipv4()?, VXLAN_PORT))?))?;
        server.set_read_timeout(Some(Duration::from_secs(2)))?;
        let client = End::new(&liar.netns, liar.ipv4()?).udp()?;
        client.send_to(b"hello", server.local_addr()?)?;
        ensure!(server.recv(&mut [0; 16])? == 5, "a pod's port was refused");
        Ok(())
    });
}

/// Sends a VXLAN packet from a host.
fn send_vxlan(from: &Netns, address: Ipv4Addr, to: &Node, payload: &[u8]) -> Result<()> {
    End::new(from, address)
        .udp()?
        .send_to(payload, (to.underlay, VXLAN_PORT))?;
    Ok(())
}

type Change = fn(&mut Forgery);

#[test]
fn forged_vxlan() {
    let forgeries: [(&str, Change); 8] = [
        ("wrong-vni", |f| f.vni = 2),
        ("wrong-vxlan-flags", |f| f.flags = 0),
        ("wrong-vxlan-flags", |f| f.flags = 0x0c),
        ("wrong-inner-mac", |f| f.inner_destination_mac[5] ^= 1),
        ("inner-not-ip", |f| f.ether_type = 0x0806),
        ("foreign-inner-source", |f| {
            f.source = Ipv4Addr::new(10, 244, 1, 50)
        }),
        ("not-our-pod", |f| {
            f.destination = Ipv4Addr::new(10, 99, 0, 1)
        }),
        ("truncated", |f| f.keep = 30),
    ];
    with_cluster(Shape::nodes(2), |cluster| {
        let [victim_node, sender] = [&cluster.nodes[0], &cluster.nodes[1]];
        let victim = victim_node.add_pod("victim")?;
        let (socket, to) = witness(&victim, victim.ipv4()?.into())?;
        let genuine = Forgery::between(sender, victim_node, &victim, to.port())?;
        send_vxlan(
            &sender.netns,
            sender.underlay,
            victim_node,
            &genuine.bytes(),
        )?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket
            .recv(&mut [0; 64])
            .context("even a right packet did not arrive")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        for (reason, change) in forgeries {
            let mut forgery = genuine.clone();
            change(&mut forgery);
            expect_drop(victim_node, reason, Some(&socket), || {
                send_vxlan(
                    &sender.netns,
                    sender.underlay,
                    victim_node,
                    &forgery.bytes(),
                )
            })?;
        }
        stranger(cluster, victim_node, &socket, &genuine)
    });
}

/// The switch has an address on the underlay but is no node.
fn stranger(cluster: &Cluster, node: &Node, socket: &UdpSocket, genuine: &Forgery) -> Result<()> {
    expect_drop(node, "unknown-vtep", Some(socket), || {
        let switch = Ipv4Addr::new(192, 168, 50, 254);
        send_vxlan(&cluster.underlay.switch, switch, node, &genuine.bytes())
    })
}
