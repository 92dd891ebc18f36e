//! Traffic that leaves the cluster: masqueraded, and only that.

use std::net::IpAddr;

use anyhow::Result;
use oxlan_tests::cluster::{Shape, with_cluster};
use oxlan_tests::traffic::{End, tcp, udp};
use oxlan_tests::underlay::{INTERNET_V4, INTERNET_V6, node_v6};

const BULK: usize = 1 << 20;

/// The internet knows no pod, so only masqueraded packets can be answered.
#[test]
fn pods_reach_the_internet_as_their_node() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let pod = node.add_pod("a")?;
        let internet = &cluster.underlay.internet;
        let ways: [(IpAddr, IpAddr, IpAddr); 2] = [
            (pod.ipv4()?.into(), INTERNET_V4.into(), node.underlay.into()),
            (
                pod.ipv6()?.into(),
                INTERNET_V6.into(),
                node_v6(node.number).into(),
            ),
        ];
        for (from, to, seen) in ways {
            pod.ping(to)?;
            let (client, server) = (End::new(&pod.netns, from), End::new(internet, to));
            assert_eq!(udp::exchange(client, server, 100, 3)?, seen);
            assert_eq!(tcp::transfer(client, server, BULK)?, seen);
        }
        Ok(())
    });
}

/// Ports are chosen at random, so that two pods' equal source ports do not meet.
#[test]
fn many_flows_leave_at_once() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let pods = (0..4)
            .map(|n| node.add_pod(&format!("p{n}")))
            .collect::<Result<Vec<_>>>()?;
        let server = End::new(&cluster.underlay.internet, INTERNET_V4);
        std::thread::scope(|scope| {
            let threads: Vec<_> = pods
                .iter()
                .map(|pod| {
                    scope.spawn(|| {
                        let client = End::new(&pod.netns, pod.ipv4()?);
                        (0..10).try_for_each(|_| tcp::transfer(client, server, 1000).map(drop))
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|t| t.join().unwrap())
        })
    });
}

/// What the node itself sends and receives beside the overlay is not Oxlan's business.
#[test]
fn the_node_reaches_the_internet() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let client = End::new(&node.netns, node.underlay);
        let server = End::new(&cluster.underlay.internet, INTERNET_V4);
        assert_eq!(tcp::transfer(client, server, BULK)?, client.address);
        assert_eq!(tcp::transfer(server, client, BULK)?, server.address);
        Ok(())
    });
}
