use kube::runtime::watcher::Event;
use oxlan_common::addr::Mac;
use serde_json::{Value, json};

use super::super::node::Node;
use super::super::translate::Keys;
use super::*;
use crate::cluster::{Mode, Vni, Vtep};

fn network() -> Network {
    Network {
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        vni: Vni::DEFAULT,
        port: 8472,
        dscp: crate::cluster::Dscp::default(),
        mode: Mode::Vxlan,
    }
}

fn own() -> NodeSpec {
    NodeSpec {
        name: "own".into(),
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        vteps: vec![Vtep {
            underlay: "192.0.2.1".parse().unwrap(),
            mac: Mac::new([2, 0, 0, 0, 0, 1]),
        }],
    }
}

/// A node of the year `made` with this third byte of its prefix.
fn node(name: &str, made: u32, third: u8) -> Node {
    node_of(name, format!("{made}-01-01T00:00:00Z").into(), third)
}

/// A node that says this of when it was made.
fn node_of(name: &str, made: Value, third: u8) -> Node {
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "creationTimestamp": made,
            "annotations": {
                "flannel.alpha.coreos.com/kube-subnet-manager": "true",
                "flannel.alpha.coreos.com/backend-type": "vxlan",
                "flannel.alpha.coreos.com/public-ip": format!("192.0.2.{}", name.len()),
                "flannel.alpha.coreos.com/backend-data":
                    format!("{{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:00:{:02x}\"}}", name.len()),
            },
        },
        "spec": {"podCIDR": format!("10.244.{third}.0/24")},
    }))
    .unwrap()
}

fn table(nodes: Vec<Node>) -> Table {
    let mut table = Table::new("own".into(), Keys::new("flannel.alpha.coreos.com"));
    table.apply(Event::Init);
    for node in nodes {
        table.apply(Event::InitApply(node));
    }
    table.apply(Event::InitDone);
    table
}

#[test]
fn of_two_with_one_prefix_the_older_keeps_it_and_both_are_named() {
    let young = || node("aaaa", 2026, 5);
    let old = || node("bbbbb", 2025, 5);
    for nodes in [vec![young(), old()], vec![old(), young()]] {
        let made = version(&table(nodes), &network(), own()).unwrap();
        let names: Vec<&str> = made.nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["bbbbb", "own"]);
        let told = &made.remarks.problems[0];
        assert!(
            told.contains("\"aaaa\"") && told.contains("\"bbbbb\""),
            "{told}"
        );
    }
}

/// The times of the API server are compared with each other, and with no clock of this machine.
#[test]
fn who_was_made_in_the_future_is_younger_and_who_does_not_say_the_youngest() {
    let future = "2999-01-01T00:00:00Z";
    for (keeps, other) in [
        (json!("2025-01-01T00:00:00Z"), json!(future)),
        (json!(future), json!("2999-01-01T00:00:01Z")),
        (json!(future), Value::Null),
        (json!(future), json!("yesterday")),
        (json!(future), json!(7)),
        // By name, which is the same for all.
        (Value::Null, Value::Null),
    ] {
        // The names are in the other order wherever times decide.
        let [old, young] = if keeps == other {
            ["aaaa", "bbbbb"]
        } else {
            ["bbbbb", "aaaa"]
        };
        let nodes = || {
            [
                node_of(old, keeps.clone(), 5),
                node_of(young, other.clone(), 5),
            ]
        };
        let [first, second] = nodes();
        for nodes in [nodes().into(), vec![second, first]] {
            let made = version(&table(nodes), &network(), own()).unwrap();
            let names: Vec<&str> = made.nodes.iter().map(|n| n.name.as_str()).collect();
            assert_eq!(names, [old, "own"], "{keeps} and {other}");
        }
    }
    let alone = version(
        &table(vec![node_of("aaaa", Value::Null, 5)]),
        &network(),
        own(),
    );
    assert_eq!(alone.unwrap().nodes.len(), 2);
}

#[test]
fn nobody_takes_the_own_prefix() {
    let made = version(&table(vec![node("aaaa", 1999, 1)]), &network(), own()).unwrap();
    assert_eq!(made.nodes.len(), 1);
    assert!(
        made.remarks.problems[0].contains("\"own\""),
        "{:?}",
        made.remarks
    );
}

#[test]
fn nodes_that_are_left_out_are_notes_in_groups() {
    let bare = |name: String| serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    let mut nodes: Vec<Node> = (0..7).map(|i| bare(format!("bare-{i}"))).collect();
    nodes.push(node("good", 2025, 2));
    let made = version(&table(nodes), &network(), own()).unwrap();
    assert_eq!(made.nodes.len(), 2);
    assert_eq!(made.remarks.problems, Vec::<String>::new());
    let expected = "7 nodes are left out, without annotations of Oxlan or Flannel: bare-0, bare-1, bare-2, bare-3, bare-4, ...";
    assert_eq!(made.remarks.notes, [expected]);
}

#[test]
fn a_wrong_own_node_is_an_error() {
    let mut outside = own();
    outside.pod_cidrs = vec!["10.9.0.0/24".parse().unwrap()];
    let error = version(&table(vec![]), &network(), outside).unwrap_err();
    assert!(error.to_string().contains("10.9.0.0/24"), "{error}");
}
