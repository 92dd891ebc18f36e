//! Packets that a fast path is tempted to get wrong: aggregates, fragments, sizes at the limit, and
//! what a pod forwards.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use oxlan_tests::capture::Capture;
use oxlan_tests::cluster::{Cluster, Shape, with_cluster};
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
/// pod does.
fn nest(cluster: &Cluster, pod: &Pod) -> Result<(Netns, Ipv4Addr)> {
    let inner = cluster.scope().netns("nested")?;
    pod.netns.run_all(&[
        "sysctl -qw net.ipv4.ip_forward=1",
        &format!(
            "ip link add in0 type veth peer name eth0 netns {}",
            inner.name()
        ),
        "ip link set in0 up",
        "ip address add 172.30.0.1/24 dev in0",
        "nft add table ip nat",
        "nft add chain ip nat pre { type nat hook prerouting priority -100 ; }",
        "nft add chain ip nat post { type nat hook postrouting priority 100 ; }",
        "nft add rule ip nat pre iifname eth0 ip protocol { tcp, udp } dnat to 172.30.0.2",
        "nft add rule ip nat post oifname eth0 ip saddr 172.30.0.0/24 masquerade",
    ])?;
    inner.run_all(&[
        "ip link set eth0 mtu 1450 up",
        "ip address add 172.30.0.2/24 dev eth0",
        "ip route add default via 172.30.0.1",
    ])?;
    Ok((inner, Ipv4Addr::new(172, 30, 0, 2)))
}

/// What a pod receives as an aggregate it must be able to send on: hazard of a GSO packet that was
/// decapsulated but still looks tunnelled.
#[test]
fn a_pod_forwards_what_it_receives() {
    with_cluster(Shape::nodes(2), |cluster| {
        let router = cluster.nodes[0].add_pod("router")?;
        let local = cluster.nodes[0].add_pod("local")?;
        let remote = cluster.nodes[1].add_pod("remote")?;
        let (netns, address) = nest(cluster, &router)?;
        let nested = End::new(&netns, address);
        let published = nested.reached_at(router.ipv4()?);
        for pod in [&local, &remote] {
            let end = End::new(&pod.netns, pod.ipv4()?);
            let seen = tcp::transfer(nested, end, BULK)?;
            ensure!(seen == IpAddr::from(router.ipv4()?), "seen as {seen}");
            assert_eq!(tcp::transfer(end, published, BULK)?, end.address);
            udp::exchange(end, published, 1400, 5)?;
            udp::exchange(end, published, 5000, 5)?;
            udp::segmented(end, published, 1200, 40)?;
            udp::segmented(nested, end, 1200, 40)?;
        }
        Ok(())
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
