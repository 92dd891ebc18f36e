//! What ADD makes, CHECK sees and DEL takes away.

use std::collections::HashSet;

use super::checks::{DUAL, OVERLAY, expected};
use super::fixture::{Container, Node, on_a_node};
use crate::host::link;
use crate::host::rtnl::Rtnl;
use crate::pods::{AddRequest, Attachment, Expected, NodeFacts, Phase, PodError, Pods};

#[test]
fn an_attachment_is_complete_and_goes_completely() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(DUAL);
        let pods = node.agent().await;
        let container = Container::new("c1");
        let attachment = pods.add(container.request()).await.unwrap();
        assert_eq!(attachment.phase, Phase::Ready);
        let addresses = attachment.addresses.clone();
        let wanted: [std::net::IpAddr; 2] =
            ["10.244.1.2", "fd00:244:1::2"].map(|a| a.parse().unwrap());
        assert_eq!(addresses, wanted);
        let inside = container.run("ip -br address show eth0; ip route; ip -6 route; ip neigh");
        for expected in [
            "10.244.1.2/32",
            "fd00:244:1::2/128",
            "default via 169.254.1.1 dev eth0",
            "default via fe80::1 dev eth0",
            "169.254.1.1 dev eth0 lladdr 0e:6f:78:6c:61:6e PERMANENT",
            "fe80::1 dev eth0 lladdr 0e:6f:78:6c:61:6e PERMANENT",
        ] {
            assert!(
                inside.contains(expected),
                "{expected} is missing in\n{inside}"
            );
        }
        assert_eq!(node.datapath.pods.lock().unwrap().len(), 2);
        let expected = Expected {
            netns: container.netns(),
            addresses,
            mac: Some(attachment.mac),
        };
        pods.check(container.key(), expected).await.unwrap();

        pods.del(container.key()).await.unwrap();
        assert_eq!(node.leftovers(), Vec::<String>::new());
        assert!(node.datapath.is_empty());
        assert!(!container.has("eth0"));
        pods.del(container.key()).await.unwrap();
    });
}

#[test]
fn gc_takes_what_is_not_listed_of_its_own_network() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(DUAL);
        let pods = node.agent().await;
        let containers = ["listed", "stale", "foreign"].map(Container::new);
        for container in &containers {
            let network = if container.id == "foreign" {
                "other"
            } else {
                "oxlan"
            };
            let request = AddRequest {
                network: network.into(),
                ..container.request()
            };
            pods.add(request).await.unwrap();
        }
        let valid = HashSet::from([containers[0].key()]);
        let gone = pods.gc("oxlan".into(), valid).await.unwrap();
        assert_eq!(gone, [containers[1].key()]);
        let left: Vec<String> = pods.list().into_iter().map(|a| a.container_id).collect();
        assert_eq!(left, ["foreign", "listed"]);
        for network in ["oxlan", "other"] {
            pods.gc(network.into(), HashSet::new()).await.unwrap();
        }
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn the_mtu_follows_the_node_and_never_exceeds_the_configuration() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(DUAL);
        let pods = node.agent().await;
        let (free, limited) = (Container::new("free"), Container::new("limited"));
        let too_large = AddRequest {
            mtu: Some(1451),
            ..free.request()
        };
        let error = pods.add(too_large).await.unwrap_err();
        assert!(
            matches!(error, PodError::MtuTooLarge { limit: 1450, .. }),
            "{error}"
        );

        pods.add(free.request()).await.unwrap();
        let request = AddRequest {
            mtu: Some(1400),
            ..limited.request()
        };
        pods.add(request).await.unwrap();
        for (mtu, for_free, for_limited) in [(8950, 8950, 1400), (1300, 1300, 1300)] {
            let facts = NodeFacts {
                mtu,
                ..pods.facts()
            };
            assert_eq!(pods.set_facts(facts).await.unwrap(), Vec::<String>::new());
            for (container, mtu) in [(&free, for_free), (&limited, for_limited)] {
                let attachment = find(&pods, container);
                assert_eq!(attachment.mtu, mtu);
                pods.check(container.key(), expected(&attachment))
                    .await
                    .unwrap();
            }
        }
        pods.del(free.key()).await.unwrap();
        pods.del(limited.key()).await.unwrap();
    });
}

/// Where a pod's side cannot be changed, the host's side takes what the pod goes on to send, and the
/// next attempt changes both.
#[test]
fn an_mtu_that_could_not_be_changed_is_changed_later() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(DUAL);
        let pods = node.agent().await;
        let container = Container::new("c1");
        let attachment = pods.add(container.request()).await.unwrap();
        let outside = || {
            let mut rtnl = Rtnl::open().unwrap();
            link::find(&mut rtnl, &attachment.host_ifname)
                .unwrap()
                .unwrap()
                .mtu
        };
        let lowered = NodeFacts {
            mtu: 1350,
            ..pods.facts()
        };
        container.hide();
        let problems = pods.set_facts(lowered.clone()).await.unwrap();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!((outside(), find(&pods, &container).mtu), (1450, 1450));

        container.show();
        assert_eq!(pods.set_facts(lowered).await.unwrap(), Vec::<String>::new());
        assert_eq!((outside(), find(&pods, &container).mtu), (1350, 1350));
        assert!(container.run("ip link show dev eth0").contains("mtu 1350 "));
        pods.del(container.key()).await.unwrap();
    });
}

#[test]
fn ipv6_works_where_the_container_has_it_switched_off() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(DUAL);
        let pods = node.agent().await;
        let container = Container::new("c1");
        let off = "for c in all default; do echo 1 > /proc/sys/net/ipv6/conf/$c/disable_ipv6; done";
        assert_eq!(container.run(off), "");
        let attachment = pods.add(container.request()).await.unwrap();
        pods.check(container.key(), expected(&attachment))
            .await
            .unwrap();
        pods.del(container.key()).await.unwrap();
    });
}

#[test]
fn ipv6_needs_its_mtu() {
    on_a_node(OVERLAY, async || {
        let mut node = Node::new(DUAL);
        node.facts.mtu = 1279;
        let pods = node.agent().await;
        let container = Container::new("c1");
        let error = pods.add(container.request()).await.unwrap_err();
        assert!(
            matches!(error, PodError::MtuTooSmall { mtu: 1279 }),
            "{error}"
        );
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn one_family_alone_works() {
    for (cidr, overlay) in [
        ("10.244.1.0/24", OVERLAY[0]),
        ("fd00:244:1::/64", OVERLAY[1]),
    ] {
        on_a_node(&[overlay], async || {
            let node = Node::new(&[cidr]);
            let pods = node.agent().await;
            let container = Container::new("c1");
            let attachment = pods.add(container.request()).await.unwrap();
            assert_eq!(attachment.addresses.len(), 1);
            pods.check(container.key(), expected(&attachment))
                .await
                .unwrap();
            pods.del(container.key()).await.unwrap();
        });
    }
}

#[test]
fn a_hundred_at_once() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(DUAL);
        let pods = std::sync::Arc::new(node.agent().await);
        let containers: Vec<_> = (0..100).map(|n| Container::new(&format!("c{n}"))).collect();
        let begun = std::time::Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for container in &containers {
            let (pods, request) = (pods.clone(), container.request());
            tasks.spawn(async move { pods.add(request).await.unwrap().addresses });
        }
        let addresses: HashSet<_> = tasks.join_all().await.into_iter().flatten().collect();
        println!("100 ADDs at once took {:?}", begun.elapsed());
        assert_eq!(addresses.len(), 200);
        for container in &containers {
            pods.del(container.key()).await.unwrap();
        }
        assert_eq!(node.leftovers(), Vec::<String>::new());
        assert!(node.datapath.is_empty());
    });
}

fn find(pods: &Pods, container: &Container) -> Attachment {
    let mut all = pods.list().into_iter();
    all.find(|a| a.container_id == container.id).unwrap()
}
