//! Whatever goes wrong in an ADD leaves nothing; whatever is missing does not hinder a DEL.

use std::collections::HashSet;

use super::fixture::{Container, Node, on_a_node, remove_link, shell};
use crate::host::netns::NetnsError;
use crate::host::veth::VethError;
use crate::pods::{AddRequest, PodError};

const CIDRS: &[&str] = &["10.244.1.0/24", "fd00:244:1::/64"];
const OVERLAY: &[&str] = &["10.244.1.0/32", "fd00:244:1::/128"];

#[test]
fn a_refusal_of_the_datapath_is_rolled_back() {
    on_a_node(OVERLAY, async || {
        for refused in ["attach", "set"] {
            let node = Node::new(CIDRS);
            let pods = node.agent().await;
            let container = Container::new("c1");
            *node.datapath.refuse.lock().unwrap() = Some(refused);
            let error = pods.add(container.request()).await.unwrap_err();
            assert!(matches!(error, PodError::Datapath { .. }), "{error}");
            assert!(
                error.chain().contains("refused by the test"),
                "{}",
                error.chain()
            );
            assert_eq!(node.leftovers(), Vec::<String>::new(), "{refused}");
            assert!(
                node.datapath.is_empty() && !container.has("eth0"),
                "{refused}"
            );
        }
    });
}

#[test]
fn a_refusal_of_the_kernel_is_rolled_back() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(CIDRS);
        let pods = node.agent().await;
        let container = Container::new("c1");

        assert_eq!(
            container.run("ip link add eth0 type veth peer name other"),
            ""
        );
        let error = pods.add(container.request()).await.unwrap_err();
        assert!(
            matches!(error, PodError::Veth(VethError::InterfaceExists { .. })),
            "{error}"
        );
        assert!(container.has("eth0"), "it is not ours to remove");
        container.run("ip link del eth0");

        // Somebody else has a route to the next address: it is not given away a second time.
        shell("ip route add 10.244.1.3/32 dev lo");
        let error = pods.add(container.request()).await.unwrap_err();
        assert!(
            error.chain().contains("make the route to 10.244.1.3"),
            "{}",
            error.chain()
        );
        shell("ip route del 10.244.1.3/32 dev lo");

        assert_eq!(node.leftovers(), Vec::<String>::new());
        assert!(node.datapath.is_empty() && !container.has("eth0"));
        pods.add(container.request()).await.unwrap();
        pods.del(container.key()).await.unwrap();
    });
}

#[test]
fn a_wrong_namespace_is_named() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(CIDRS);
        let pods = node.agent().await;
        let container = Container::new("c1");
        let with = |netns: &str| AddRequest {
            netns: netns.into(),
            ..container.request()
        };
        let add = async |netns: &str| {
            let error = pods.add(with(netns)).await.unwrap_err();
            let PodError::Netns(error) = error else {
                panic!("{netns}: {error}");
            };
            error
        };
        assert!(matches!(
            add("/run/netns/nowhere").await,
            NetnsError::Gone { .. }
        ));
        assert!(matches!(
            add("/etc/passwd").await,
            NetnsError::NotANamespace { .. }
        ));
        assert!(matches!(
            add("/proc/thread-self/ns/net").await,
            NetnsError::Own { .. }
        ));
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn a_second_add_is_refused_while_the_first_is_alive() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(CIDRS);
        let pods = node.agent().await;
        let container = Container::new("c1");
        let first = pods.add(container.request()).await.unwrap();
        let error = pods.add(container.request()).await.unwrap_err();
        assert!(matches!(error, PodError::Duplicate { .. }), "{error}");
        assert_eq!(pods.list(), std::slice::from_ref(&first), "it is untouched");

        // The container ended without a DEL and came back under its name.
        drop(container);
        remove_link(&first.host_ifname);
        let reborn = Container::new("c1");
        let second = pods.add(reborn.request()).await.unwrap();
        assert_ne!(second.addresses, first.addresses);
        assert_eq!(node.datapath.pods.lock().unwrap().len(), 2);
        pods.del(reborn.key()).await.unwrap();
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn del_needs_nothing_to_be_there() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(CIDRS);
        let pods = node.agent().await;
        let container = Container::new("c1");
        pods.del(container.key()).await.unwrap();
        let attachment = pods.add(container.request()).await.unwrap();
        let key = container.key();
        drop(container);
        remove_link(&attachment.host_ifname);
        node.datapath.pods.lock().unwrap().clear();
        pods.del(key).await.unwrap();
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn what_del_cannot_take_away_is_tried_again() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(&["10.244.1.0/29"]);
        let pods = node.agent().await;
        let container = Container::new("c1");
        pods.add(container.request()).await.unwrap();
        *node.datapath.refuse.lock().unwrap() = Some("detach");
        let error = pods.del(container.key()).await.unwrap_err();
        assert!(
            matches!(&error, PodError::Leftovers(left) if left.len() == 1),
            "{error}"
        );
        assert_eq!(pods.desired(), [], "nobody repairs what is to go");
        *node.datapath.refuse.lock().unwrap() = None;
        let gone = pods.gc("oxlan".into(), HashSet::new()).await.unwrap();
        assert_eq!(gone, [container.key()]);
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn an_agent_drops_what_ended_while_it_was_away() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(CIDRS);
        let pods = node.agent().await;
        let (gone, kept) = (Container::new("gone"), Container::new("kept"));
        let ended = pods.add(gone.request()).await.unwrap();
        let alive = pods.add(kept.request()).await.unwrap();
        drop(pods);
        drop(gone);
        remove_link(&ended.host_ifname);
        let record = node.state.path().join("attachments/torn@eth0.tmp");
        std::fs::write(record, "{\"container").unwrap();

        let pods = node.agent().await;
        assert_eq!(pods.list(), std::slice::from_ref(&alive));
        assert_eq!(pods.desired(), [alive.desired()]);
        assert_eq!(node.datapath.pods.lock().unwrap().len(), 2);
        pods.del(kept.key()).await.unwrap();
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn what_ended_without_del_is_dropped() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(CIDRS);
        let pods = node.agent().await;
        let (ended, cut_off) = (Container::new("ended"), Container::new("cut-off"));
        let gone = pods.add(ended.request()).await.unwrap();
        let left = pods.add(cut_off.request()).await.unwrap();
        let none = pods.drop_ended().await.unwrap();
        assert_eq!((none.kept, none.removed.len()), (2, 0));
        for pod in [&gone, &left] {
            shell(&format!("ip link del {}", pod.host_ifname));
        }
        drop(ended);
        let report = pods.drop_ended().await.unwrap();
        assert_eq!((report.kept, report.problems.len()), (1, 0));
        assert!(report.removed[0].contains("ended"), "{report:?}");
        assert_eq!(pods.list(), [left], "its runtime has to say that it goes");
        assert_eq!(node.datapath.pods.lock().unwrap().len(), 2);
        pods.del(cut_off.key()).await.unwrap();
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

/// A later version may have written what this one does not know.
#[test]
fn an_unreadable_record_keeps_its_addresses_until_del() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(&["10.244.1.0/29"]);
        let pods = node.agent().await;
        let (strange, other) = (Container::new("strange"), Container::new("other"));
        let attachment = pods.add(strange.request()).await.unwrap();
        drop(pods);
        let record = node.state.path().join("attachments/strange@eth0.json");
        let text = std::fs::read_to_string(&record).unwrap();
        std::fs::write(&record, text.replace("\"ready\"", "\"moving\"")).unwrap();
        std::fs::remove_file(node.state.path().join("ipam.json")).unwrap();

        let pods = node.unready_agent(|_| {});
        let report = pods.restore().await.unwrap();
        assert!(
            matches!(&report.problems[..], [problem] if problem.contains("strange@eth0.json")),
            "{report:?}"
        );
        let fresh = pods.add(other.request()).await.unwrap();
        assert_ne!(fresh.addresses, attachment.addresses);
        assert!(record.exists() && strange.has("eth0"), "it is left alone");
        pods.del(strange.key()).await.unwrap();
        assert!(!record.exists() && !strange.has("eth0"));
        pods.del(other.key()).await.unwrap();
        assert_eq!(pods.exhausted(), None);
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn exhaustion_is_an_error_that_passes() {
    on_a_node(OVERLAY, async || {
        // .2 to .6: eight addresses without overlay, former bridge and broadcast.
        let node = Node::new(&["10.244.1.0/29"]);
        let pods = node.agent().await;
        let containers: Vec<Container> = (0..6).map(|n| Container::new(&format!("c{n}"))).collect();
        for container in &containers[..5] {
            pods.add(container.request()).await.unwrap();
        }
        assert_eq!(pods.exhausted().unwrap().to_string(), "10.244.1.0/29");
        let error = pods.add(containers[5].request()).await.unwrap_err();
        assert!(
            matches!(error, PodError::Exhausted { in_use: 5, .. }),
            "{error}"
        );
        pods.del(containers[3].key()).await.unwrap();
        let last = pods.add(containers[5].request()).await.unwrap();
        assert_eq!(last.addresses[0].to_string(), "10.244.1.5");
        for container in &containers {
            pods.del(container.key()).await.unwrap();
        }
    });
}
