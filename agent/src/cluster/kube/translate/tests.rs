use serde_json::json;

use super::*;
use crate::cluster::Mode;

fn keys() -> Keys {
    Keys::new("flannel.alpha.coreos.com")
}

/// A Node as Flannel leaves it, with one annotation or field changed.
fn node(change: impl FnOnce(&mut Value)) -> Node {
    let mut value = json!({
        "metadata": {"name": "b", "annotations": {
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/backend-type": "vxlan",
            "flannel.alpha.coreos.com/public-ip": "192.0.2.2",
            "flannel.alpha.coreos.com/backend-data": "{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:00:02\"}",
            "flannel.alpha.coreos.com/backend-v6-data": "null",
            "foreign.example.com/x": "y",
        }},
        "spec": {"podCIDR": "10.244.2.0/24", "podCIDRs": ["10.244.2.0/24"]},
        "status": {},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn annotate(what: &str, value: Value) -> Node {
    let key = keys().key(what);
    node(|n| n["metadata"]["annotations"][key] = value)
}

fn network() -> Network {
    Network {
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        vni: Vni::DEFAULT,
        port: 8472,
        dscp: crate::cluster::Dscp::default(),
        mode: Mode::Vxlan,
    }
}

#[test]
fn prefixes_of_keys_are_joined_as_flannel_does() {
    for (prefix, key) in [
        (
            "flannel.alpha.coreos.com",
            "flannel.alpha.coreos.com/public-ip",
        ),
        ("example.com/", "example.com/public-ip"),
        ("example.com/net", "example.com/net-public-ip"),
        ("example.com/net-", "example.com/net-public-ip"),
    ] {
        assert_eq!(Keys::new(prefix).key("public-ip"), key);
    }
}

#[test]
fn a_flannel_node_is_a_node() {
    let Peer::Node(announced) = peer(&node(|_| {}), &keys()) else {
        panic!("it is left out");
    };
    let spec = spec("b", &announced, &network()).unwrap();
    assert_eq!(spec.pod_cidrs, ["10.244.2.0/24".parse().unwrap()]);
    assert_eq!(
        spec.underlay().collect::<Vec<_>>(),
        ["192.0.2.2".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(spec.vtep_mac().to_string(), "02:00:00:00:00:02");
}

#[test]
fn both_families_are_read_ipv4_first() {
    let dual = node(|n| {
        n["spec"]["podCIDRs"] = json!(["fd00:244:0:2::/64", "10.244.2.0/24"]);
        let annotations = &mut n["metadata"]["annotations"];
        annotations[keys().key("public-ipv6")] = "fd00::2".into();
        annotations[keys().key("backend-v6-data")] =
            "{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:06:02\"}".into();
    });
    let Peer::Node(announced) = peer(&dual, &keys()) else {
        panic!("it is left out");
    };
    let mut dual_network = network();
    dual_network
        .pod_cidrs
        .push("fd00:244::/48".parse().unwrap());
    let both = spec("b", &announced, &dual_network).unwrap();
    assert_eq!(both.pod_cidrs[0].to_string(), "10.244.2.0/24");
    assert_eq!(both.pod_cidrs[1].to_string(), "fd00:244:0:2::/64");
    assert_eq!(both.vteps[1].underlay.to_string(), "fd00::2");
    assert_eq!(both.vteps[1].mac.to_string(), "02:00:00:00:06:02");
    let one = spec("b", &announced, &network()).unwrap();
    assert_eq!(one.pod_cidrs.len(), 1, "the network has no IPv6");
}

#[test]
fn who_is_none_of_ours_is_left_out_with_the_reason() {
    let v6_only = node(|n| n["spec"]["podCIDRs"] = json!(["fd00:244:0:2::/64"]));
    let Peer::Node(announced) = peer(&v6_only, &keys()) else {
        panic!("it is left out");
    };
    let family = spec("b", &announced, &network()).unwrap_err();
    assert_eq!(family, Peer::LeftOut(Reason::Family));
    for (description, node, reason) in [
        (
            "no annotations",
            node(|n| n["metadata"]["annotations"] = Value::Null),
            Reason::NoAnnotations,
        ),
        (
            "annotations that are no object",
            node(|n| n["metadata"]["annotations"] = json!([1])),
            Reason::NoAnnotations,
        ),
        (
            "not managed",
            annotate("kube-subnet-manager", "false".into()),
            Reason::NoAnnotations,
        ),
        (
            "managed is no text",
            annotate("kube-subnet-manager", true.into()),
            Reason::NoAnnotations,
        ),
        (
            "another backend",
            annotate("backend-type", "host-gw".into()),
            Reason::Backend("host-gw".into()),
        ),
        (
            "a backend that is no text",
            annotate("backend-type", json!({})),
            Reason::NoAnnotations,
        ),
        (
            "a long backend",
            annotate("backend-type", "x".repeat(1 << 20).into()),
            Reason::Backend(format!("{}...", "x".repeat(80))),
        ),
        (
            "no pod CIDR",
            node(|n| n["spec"] = json!({})),
            Reason::NoPodCidr,
        ),
        (
            "an empty pod CIDR",
            node(|n| n["spec"] = json!({"podCIDR": ""})),
            Reason::NoPodCidr,
        ),
        (
            "no pod CIDRs",
            node(|n| n["spec"]["podCIDRs"] = json!([])),
            Reason::NoPodCidr,
        ),
    ] {
        assert_eq!(peer(&node, &keys()), Peer::LeftOut(reason), "{description}");
    }
}

#[test]
fn what_is_wrong_is_named_and_kept_short() {
    let long = "z".repeat(256 << 10);
    for (node, said) in [
        (
            annotate("public-ip", "nonsense".into()),
            "public-ip = \"nonsense\": an IPv4 address",
        ),
        (
            annotate("public-ip", "fd00::2".into()),
            "public-ip = \"fd00::2\": an IPv4 address",
        ),
        (
            annotate("public-ip", 7.into()),
            "public-ip = 7: an IPv4 address",
        ),
        (
            annotate("public-ip", long.clone().into()),
            "public-ip = \"zzz",
        ),
        (
            annotate("public-ip", Value::Null),
            "public-ip: it is missing",
        ),
        (
            annotate("backend-data", Value::Null),
            "backend-data: it is missing, but",
        ),
        (annotate("backend-data", "{".into()), "backend-data = {: "),
        (annotate("backend-data", "[]".into()), "backend-data = []: "),
        (
            annotate("backend-data", "{\"VNI\":1}".into()),
            "backend-data VtepMAC: ",
        ),
        (
            annotate(
                "backend-data",
                "{\"VNI\":\"1\",\"VtepMAC\":\"02:00:00:00:00:02\"}".into(),
            ),
            "backend-data VNI = \"1\": ",
        ),
        (
            annotate("backend-data", "{\"VtepMAC\":\"ff:ff:ff:ff:ff:ff\"}".into()),
            "backend-data VtepMAC = ",
        ),
        (
            annotate("backend-data", long.clone().into()),
            "backend-data = zzz",
        ),
        (
            annotate("public-ipv6", "192.0.2.2".into()),
            "public-ipv6 = \"192.0.2.2\": an IPv6 address",
        ),
        (
            annotate("public-ipv6", "fd00::2".into()),
            "backend-v6-data: it is missing, but",
        ),
        (
            node(|n| n["spec"]["podCIDRs"] = json!(["x"])),
            "podCIDRs[0] = \"x\": a prefix",
        ),
        (
            node(|n| n["spec"]["podCIDRs"] = json!([7])),
            "podCIDRs[0] = 7: a prefix",
        ),
        (
            node(|n| n["spec"]["podCIDRs"] = json!("x")),
            "podCIDRs = \"x\": a list",
        ),
        (
            node(|n| n["spec"]["podCIDRs"] = json!([long])),
            "podCIDRs[0] = \"zzz",
        ),
        (
            node(|n| n["spec"]["podCIDRs"] = json!(["10.244.2.0/24", "10.244.3.0/24"])),
            "podCIDRs[1] = 10.244.3.0/24: there is 10.244.2.0/24",
        ),
    ] {
        let Peer::Wrong(problems) = peer(&node, &keys()) else {
            panic!("{said}: it is not refused");
        };
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let text = text.join("\n");
        assert!(
            text.contains("node \"b\"") && text.contains(said),
            "{said}: {text}"
        );
        assert!(text.len() < 1000, "{said}: {} bytes", text.len());
    }
    let nowhere = node(|n| {
        let annotations = n["metadata"]["annotations"].as_object_mut().unwrap();
        annotations.remove(&keys().key("public-ip"));
        annotations.remove(&keys().key("backend-data"));
    });
    let Peer::Wrong(problems) = peer(&nowhere, &keys()) else {
        panic!("it is not refused");
    };
    assert!(
        problems[0].to_string().contains("neither it nor"),
        "{problems:?}"
    );
}

#[test]
fn another_vni_is_refused() {
    let Peer::Node(announced) = peer(&node(|_| {}), &keys()) else {
        panic!("it is left out");
    };
    let mut other = network();
    other.vni = Vni::new(7).unwrap();
    let Peer::Wrong(problems) = spec("b", &announced, &other).unwrap_err() else {
        panic!("it is not refused");
    };
    let text = problems[0].to_string();
    assert!(text.contains("192.0.2.2 = 1: the network's is 7"), "{text}");
}

#[test]
fn bits_after_a_pod_cidr_do_not_matter() {
    let mut problems = Problems::default();
    let odd = node(|n| n["spec"]["podCIDRs"] = json!(["10.244.2.9/24"]));
    assert_eq!(
        pod_cidrs(&odd, &mut problems),
        ["10.244.2.0/24".parse().unwrap()]
    );
    assert!(problems.is_empty());
}

#[test]
fn the_own_addresses_are_the_internal_ones() {
    let own = node(|n| {
        n["status"]["addresses"] = json!([
            {"type": "Hostname", "address": "b"}, {"type": "ExternalIP", "address": "203.0.113.1"},
            {"type": "InternalIP", "address": "192.0.2.2"}, {"type": "InternalIP", "address": "nonsense"},
            {"type": "InternalIP"}, 7, {"type": "InternalIP", "address": "fd00::2"},
        ]);
    });
    let own = OwnNode::new(own);
    assert_eq!(
        own.internal,
        [
            "192.0.2.2".parse::<IpAddr>().unwrap(),
            "fd00::2".parse().unwrap()
        ]
    );
}
