//! What ADD makes, CHECK sees and DEL takes away.

use super::fixture::{Container, Node, on_a_node};
use crate::pods::{Expected, Phase};

const DUAL: &[&str] = &["10.244.1.0/24", "fd00:244:1::/64"];
const OVERLAY: &[&str] = &["10.244.1.0/32", "fd00:244:1::/128"];

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
