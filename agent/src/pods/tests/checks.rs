//! CHECK sees whatever is not as it was made.

use super::fixture::{Container, Node, on_a_node, shell};
use crate::pods::{Attachment, Expected, PodError};

pub(super) const DUAL: &[&str] = &["10.244.1.0/24", "fd00:244:1::/64"];
pub(super) const OVERLAY: &[&str] = &["10.244.1.0/32", "fd00:244:1::/128"];

/// What a runtime that was told the truth believes.
pub(super) fn expected(attachment: &Attachment) -> Expected {
    Expected {
        netns: attachment.netns.clone(),
        addresses: attachment.addresses.clone(),
        mac: Some(attachment.mac),
    }
}

#[test]
fn check_finds_each_thing_that_is_missing() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(DUAL);
        let pods = node.agent().await;
        let table: &[(&str, &str, &str)] = &[
            (
                "pod",
                "ip address del 10.244.1.{n}/32 dev eth0",
                "has lost its address 10.244.1.",
            ),
            (
                "pod",
                "ip -6 route del default",
                "no default route via fe80::1",
            ),
            (
                "pod",
                "ip neigh del 169.254.1.1 dev eth0",
                "no permanent neighbour 169.254.1.1",
            ),
            (
                "pod",
                "ip link set eth0 mtu 1400",
                "eth0 has the MTU 1400 instead of 1450",
            ),
            (
                "pod",
                "ip link set eth0 address 02:00:00:00:00:01",
                "eth0 has the MAC 02:",
            ),
            ("pod", "ip link set eth0 down", "eth0 is down"),
            (
                "pod",
                "ip link set eth0 name eth7",
                "the pod has no interface eth0",
            ),
            (
                "host",
                "ip route del 10.244.1.{n}/32",
                "the host has no route to 10.244.1.",
            ),
            (
                "host",
                "ip neigh del fd00:244:1::{n:x} dev HOST",
                "no permanent neighbour fd00:",
            ),
            (
                "host",
                "ip link set HOST address 02:00:00:00:00:01",
                "has the MAC 02:",
            ),
            (
                "host",
                "ip link set HOST mtu 1400",
                "has the MTU 1400 instead of 1450",
            ),
            ("host", "ip link set HOST down", "is down"),
        ];
        for (number, (side, command, difference)) in table.iter().enumerate() {
            let container = Container::new(&format!("c{number}"));
            let attachment = pods.add(container.request()).await.unwrap();
            pods.check(container.key(), expected(&attachment))
                .await
                .unwrap();
            let last = number + 2;
            let command = command
                .replace("{n}", &last.to_string())
                .replace("{n:x}", &format!("{last:x}"))
                .replace("HOST", &attachment.host_ifname);
            match *side {
                "pod" => assert_eq!(container.run(&command), "", "{command}"),
                _ => shell(&command),
            }
            let error = pods
                .check(container.key(), expected(&attachment))
                .await
                .unwrap_err();
            let named =
                matches!(&error, PodError::Differs(_)) && error.to_string().contains(difference);
            assert!(named, "{command}: {error}");
            pods.del(container.key()).await.unwrap();
        }
    });
}

#[test]
fn check_compares_with_the_datapath_and_the_runtime() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(DUAL);
        let pods = node.agent().await;
        let container = Container::new("c1");
        let unknown = pods
            .check(container.key(), Expected::default())
            .await
            .unwrap_err();
        assert!(matches!(unknown, PodError::Unknown { .. }), "{unknown}");

        let attachment = pods.add(container.request()).await.unwrap();
        let wrong = Expected {
            addresses: vec!["10.244.1.99".parse().unwrap()],
            mac: Some("02:00:00:00:00:01".parse().unwrap()),
            ..expected(&attachment)
        };
        let error = pods.check(container.key(), wrong).await.unwrap_err();
        assert!(
            matches!(&error, PodError::Differs(d) if d.len() == 2),
            "{error}"
        );

        node.datapath.pods.lock().unwrap().clear();
        node.datapath.attached.lock().unwrap().clear();
        let error = pods
            .check(container.key(), expected(&attachment))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, PodError::Differs(d) if d.len() == 3),
            "{error}"
        );
        pods.del(container.key()).await.unwrap();
    });
}
