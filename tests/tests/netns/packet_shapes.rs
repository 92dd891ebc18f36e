//! Packets that a fast path is tempted to get wrong: aggregates, fragments, sizes at the limit, and
//! what a pod forwards.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use oxlan_tests::capture::Capture;
use oxlan_tests::cluster::{Cluster, Families, Shape, with_cluster};
use oxlan_tests::netns::Netns;
use oxlan_tests::pod::Pod;
use oxlan_tests::traffic::{End, tcp, udp};

const BULK: usize = 8 << 20;

/// Two pods, on one node and on two; both families.
fn pairs(cluster: &Cluster) -> Result<Vec<(Pod, Pod)>> {
    let a = cluster.nodes[0].add_pod("a")?;
    let b = cluster.nodes[0].add_pod("b")?;
    let c = cluster.nodes[1].add_pod("c")?;
    Ok(vec![(a.clone(), b), (a, c)])
}

/// Calls `check` for each pair and family, both ways.
fn for_all(cluster: &Cluster, check: impl Fn(End<'_>, End<'_>) -> Result<()>) -> Result<()> {
    for (a, b) in pairs(cluster)? {
        for (from, to) in a.addresses().zip(b.addresses()) {
            let (a, b) = (End::new(&a.netns, from), End::new(&b.netns, to));
            check(a, b).with_context(|| format!("{from} to {to}"))?;
            check(b, a).with_context(|| format!("{to} to {from}"))?;
        }
    }
    Ok(())
}

/// A QUIC sender's way: one buffer, cut as late as possible.
#[test]
fn segmented_udp_arrives() {
    with_cluster(Shape::nodes(2), |cluster| {
        for_all(cluster, |client, server| {
            for size in [100, 1200, 1400] {
                udp::segmented(client, server, size, 40)?;
            }
            Ok(())
        })
    });
}

#[test]
fn fragments_arrive() {
    with_cluster(Shape::nodes(2), |cluster| {
        for_all(cluster, |client, server| {
            for size in [1500, 4000, 20_000] {
                udp::exchange(client, server, size, 3)?;
            }
            Ok(())
        })
    });
}

/// The largest packet that fits arrives whole; one byte more is refused where it is sent.
#[test]
fn the_mtu_is_usable_to_its_last_byte() {
    with_cluster(Shape::nodes(2), |cluster| fits_exactly(cluster, 50));
}

/// Packets of what these outer headers leave of the underlay's MTU arrive, and larger ones do not.
pub(crate) fn fits_exactly(cluster: &Cluster, overhead: u32) -> Result<()> {
    let a = cluster.nodes[0].add_pod("a")?;
    let b = cluster.nodes[1].add_pod("b")?;
    let ping = |payload: u32, to: IpAddr| {
        let line = format!("ping -n -q -c 2 -i 0.05 -W 1 -M do -s {payload} {to}");
        a.netns.run(&line)
    };
    let mtu = cluster.shape.mtu - overhead;
    ping(mtu - 28, b.ipv4()?.into())?;
    ping(mtu - 48, b.ipv6()?.into())?;
    ensure!(ping(mtu - 27, b.ipv4()?.into()).is_err());
    ensure!(ping(mtu - 47, b.ipv6()?.into()).is_err());
    Ok(())
}

/// Jumbo frames on the underlay are there for the pods, too.
#[test]
fn a_large_underlay_mtu_is_used() {
    with_cluster(
        Shape {
            mtu: 9000,
            ..Shape::nodes(2)
        },
        |cluster| {
            let a = cluster.nodes[0].add_pod("a")?;
            let b = cluster.nodes[1].add_pod("b")?;
            a.netns.run(&format!(
                "ping -n -q -c 2 -i 0.05 -W 1 -M do -s 8922 {}",
                b.ipv4()?
            ))?;
            tcp::transfer(
                End::new(&a.netns, a.ipv4()?),
                End::new(&b.netns, b.ipv4()?),
                BULK,
            )?;
            Ok(())
        },
    );
}

/// A namespace behind a pod, which translates and forwards for it, as a container runtime inside a
/// pod does; and its addresses.
fn nest(cluster: &Cluster, pod: &Pod) -> Result<(Netns, [IpAddr; 2])> {
    let inner = cluster.scope().netns("nested")?;
    let mtu = cluster.nodes[0].oxlan_json("status")?["pod_mtu"].clone();
    let addresses: [IpAddr; 2] = ["172.30.0.2".parse()?, "fd00:30::2".parse()?];
    let [v4, v6] = addresses;
    pod.netns.run_all(&[
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        &format!(
            "ip link add in0 mtu {mtu} type veth peer name eth0 netns {}",
            inner.name()
        ),
        "ip link set in0 up",
        "ip address add 172.30.0.1/24 dev in0",
        "ip address add fd00:30::1/64 dev in0 nodad",
        "nft add table inet nat",
        "nft add chain inet nat pre { type nat hook prerouting priority -100 ; }",
        "nft add chain inet nat post { type nat hook postrouting priority 100 ; }",
        &format!("nft add rule inet nat pre iifname eth0 meta nfproto ipv4 meta l4proto {{ tcp, udp }} dnat ip to {v4}"),
        &format!("nft add rule inet nat pre iifname eth0 meta nfproto ipv6 meta l4proto {{ tcp, udp }} dnat ip6 to {v6}"),
        &format!("nft add rule inet nat post oifname eth0 ip saddr {v4} masquerade"),
        &format!("nft add rule inet nat post oifname eth0 ip6 saddr {v6} masquerade"),
    ])?;
    inner.run_all(&[
        &format!("ip link set eth0 mtu {mtu} up"),
        &format!("ip address add {v4}/24 dev eth0"),
        &format!("ip address add {v6}/64 dev eth0 nodad"),
        "ip route add default via 172.30.0.1",
        "ip -6 route add default via fd00:30::1",
    ])?;
    Ok((inner, addresses))
}

/// What a pod receives as an aggregate it must be able to send on: hazard of a GSO packet that was
/// decapsulated but still looks tunnelled.
fn forwards_what_it_receives(cluster: &Cluster) -> Result<()> {
    let router = cluster.nodes[0].add_pod("router")?;
    let local = cluster.nodes[0].add_pod("local")?;
    let remote = cluster.nodes[1].add_pod("remote")?;
    let (netns, addresses) = nest(cluster, &router)?;
    for (address, via) in addresses.into_iter().zip(router.addresses()) {
        let nested = End::new(&netns, address);
        let published = nested.reached_at(via);
        for pod in [&local, &remote] {
            let own = pod.addresses().find(|own| own.is_ipv4() == via.is_ipv4());
            let end = End::new(&pod.netns, own.context("no address of the family")?);
            sends_on(nested, published, end).with_context(|| format!("by {via}"))?;
        }
    }
    Ok(())
}

/// Streams, datagrams and aggregates there and back.
fn sends_on(nested: End<'_>, published: End<'_>, end: End<'_>) -> Result<()> {
    let seen = tcp::transfer(nested, end, BULK)?;
    ensure!(seen == published.address, "seen as {seen}");
    assert_eq!(tcp::transfer(end, published, BULK)?, end.address);
    udp::exchange(end, published, 1400, 5)?;
    udp::exchange(end, published, 5000, 5)?;
    udp::segmented(end, published, 1200, 40)?;
    udp::segmented(nested, end, 1200, 40)
}

#[test]
fn a_pod_forwards_what_it_receives() {
    with_cluster(Shape::nodes(2), forwards_what_it_receives);
}

#[test]
fn a_pod_forwards_what_it_receives_over_ipv6() {
    let shape = Shape::nodes(2).over(Families::V6);
    with_cluster(shape, forwards_what_it_receives);
}

#[test]
fn a_pod_forwards_what_it_receives_without_encapsulation() {
    with_cluster(Shape::nodes(2), |cluster| {
        cluster.go_without_encapsulation()?;
        forwards_what_it_receives(cluster)
    });
}

/// Aggregates and single packets of one flow take different ways at the receiver; their order must
/// stay.
#[test]
fn one_flow_keeps_its_order() {
    with_cluster(Shape::nodes(2), |cluster| {
        for_all(cluster, |client, server| udp::mixed(client, server, 300))
    });
}

/// ECN marks and the type of service survive the tunnel (RFC 6040).
#[test]
fn the_inner_type_of_service_survives() {
    with_cluster(Shape::nodes(2), |cluster| {
        let a = cluster.nodes[0].add_pod("a")?;
        let b = cluster.nodes[1].add_pod("b")?;
        let capture = Capture::start(
            cluster.scope(),
            &b.netns,
            "eth0",
            "-v",
            "icmp[icmptype] == icmp-echo",
        )?;
        a.netns
            .run(&format!("ping -n -q -c 1 -W 2 -Q 0xb9 {}", b.ipv4()?))?;
        capture.wait_for("tos 0xb9,ECT(1)").map(drop)
    });
}
