//! Keys and values as Flannel writes them, and what else may stand there.

use super::*;
use crate::cluster::{Dscp, Mode};

const VALUE: &str = r#"{"PublicIP":"192.168.50.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:0a:00:00:00:02"}}"#;

fn network() -> Network {
    Network {
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        vni: Vni::DEFAULT,
        port: 8472,
        dscp: Dscp::default(),
        mode: Mode::Vxlan,
    }
}

fn subnet() -> Subnet {
    Subnet::parse("10.244.2.0-24").unwrap()
}

#[test]
fn names_of_keys_are_read_and_written() {
    for (name, prefixes) in [
        ("10.244.2.0-24", "10.244.2.0/24"),
        (
            "10.244.2.0-24&fd00:10:244:2::-64",
            "10.244.2.0/24 fd00:10:244:2::/64",
        ),
    ] {
        let subnet = Subnet::parse(name).unwrap();
        let found: Vec<String> = subnet.prefixes().iter().map(ToString::to_string).collect();
        assert_eq!(found.join(" "), prefixes);
        assert_eq!(subnet.name(), name);
        assert_eq!(Subnet::of(&subnet.prefixes()), Some(subnet));
    }
    let long = "x".repeat(100_000);
    for name in [
        "",
        "10.244.2.0",
        "10.244.2.0-33",
        "10.244.2.0/24",
        "a-24",
        "10.244.2.0-24&",
        "fd00::-64",
        "10.244.2.0-24&10.0.0.0-8",
        "10.244.2.0-24&fd00::-64&fd01::-64",
        &long,
    ] {
        let said = Subnet::parse(name).unwrap_err().to_string();
        assert!(said.contains("a name as 10.244.1.0-24"), "{said}");
        assert!(said.len() < 300, "{}", said.len());
    }
}

#[test]
fn subnets_overlap_by_either_family() {
    let subnet = |name| Subnet::parse(name).unwrap();
    for (a, b, expected) in [
        ("10.1.0.0-24", "10.1.0.128-25", true),
        ("10.1.0.0-24", "10.1.1.0-24", false),
        ("10.1.0.0-24&fd00::-64", "10.1.1.0-24&fd00::-64", true),
        ("10.1.0.0-24&fd00::-64", "10.1.1.0-24", false),
        (
            "10.1.0.0-24&fd00::-64",
            "10.1.1.0-24&fd00:0:0:1::-64",
            false,
        ),
    ] {
        assert_eq!(subnet(a).overlaps(&subnet(b)), expected, "{a} {b}");
        assert_eq!(subnet(b).overlaps(&subnet(a)), expected, "{b} {a}");
    }
}

#[test]
fn flannels_value_is_read_and_written() {
    let holder = Holder::parse(VALUE.as_bytes(), "subnet x").unwrap();
    // The order of fields does not matter to JSON; what they say does.
    let back: Value = serde_json::from_str(&holder.to_text()).unwrap();
    assert_eq!(back, serde_json::from_str::<Value>(VALUE).unwrap());
    assert!(holder.is_at(&["192.168.50.2".parse().unwrap()]));
    assert!(!holder.is_at(&["192.168.50.3".parse().unwrap()]));
    let node = holder.node(&subnet(), &network()).unwrap().unwrap();
    assert_eq!(node.name, "192.168.50.2");
    assert_eq!(node.vteps.len(), 1);
    assert_eq!(node.vteps[0].mac.to_string(), "02:0a:00:00:00:02");
}

#[test]
fn both_families_have_a_vtep_each() {
    let value = r#"{"PublicIP":"192.168.50.2","PublicIPv6":"fd00:50::2","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:0a:00:00:00:02"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:0a:00:00:06:02"}}"#;
    let holder = Holder::parse(value.as_bytes(), "subnet x").unwrap();
    let back: Value = serde_json::from_str(&holder.to_text()).unwrap();
    assert_eq!(back, serde_json::from_str::<Value>(value).unwrap());
    let node = holder.node(&subnet(), &network()).unwrap().unwrap();
    let vteps: Vec<String> = node
        .vteps
        .iter()
        .map(|v| format!("{} {}", v.underlay, v.mac))
        .collect();
    assert_eq!(
        vteps,
        [
            "192.168.50.2 02:0a:00:00:00:02",
            "fd00:50::2 02:0a:00:00:06:02"
        ]
    );
}

#[test]
fn a_node_with_ipv6_alone_gets_a_name_without_colons() {
    let value = r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd00:50::2","BackendType":"vxlan","BackendV6Data":{"VtepMAC":"02:0a:00:00:06:02"}}"#;
    let holder = Holder::parse(value.as_bytes(), "subnet x").unwrap();
    let node = holder.node(&subnet(), &network()).unwrap().unwrap();
    assert_eq!(node.name, "fd00-50--2");
}

#[test]
fn other_backends_are_none_of_ours() {
    for backend in ["host-gw", "udp", "VXLAN"] {
        let value = VALUE
            .replace("vxlan", backend)
            .replace("{\"VNI\":1,\"VtepMAC\":\"02:0a:00:00:00:02\"}", "[1]");
        let holder = Holder::parse(value.as_bytes(), "subnet x").unwrap();
        assert_eq!(holder.node(&subnet(), &network()), Ok(None), "{backend}");
    }
}

#[test]
fn each_wrong_field_is_named() {
    let long = format!("{{\"PublicIP\":\"{}\"}}", "1".repeat(5_000));
    for (value, expected) in [
        (String::new(), "subnet x = \"\": an object"),
        ("null".into(), "subnet x = \"null\": an object"),
        ("\u{1b}[2J".into(), "subnet x = \"\\u{1b}[2J\": an object"),
        (long, "subnet x: it has 5015 bytes: at most 4096"),
        ("{}".into(), "subnet x PublicIP: this field is missing"),
        (
            VALUE.replace("\"192.168.50.2\"", "5"),
            "subnet x PublicIP = 5: an IP address",
        ),
        (
            VALUE.replace("192.168.50.2", "fd00::1"),
            "subnet x PublicIP = \"fd00::1\": an IP address",
        ),
        (
            VALUE.replace("null", "\"192.168.50.2\""),
            "subnet x PublicIPv6 = \"192.168.50.2\": ",
        ),
        (
            VALUE.replace("\"vxlan\"", "7"),
            "subnet x BackendType: a text is wanted",
        ),
        (
            VALUE.replace("02:0a:00:00:00:02", "02:0a"),
            "subnet x BackendData VtepMAC = \"02:0a\": ",
        ),
        (
            VALUE.replace("\"VNI\":1", "\"VNI\":-1"),
            "subnet x BackendData VNI = -1: ",
        ),
    ] {
        let problems = Holder::parse(value.as_bytes(), "subnet x").unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        let said = problems[0].to_string();
        assert!(said.contains(expected), "{said}");
    }
    for (value, expected) in [
        (
            VALUE.replace("\"VNI\":1", "\"VNI\":5"),
            "BackendData VNI = 5: 1 is wanted, the network's",
        ),
        (
            VALUE.replace("BackendData", "BackendDate"),
            "BackendData: this field is missing",
        ),
    ] {
        let holder = Holder::parse(value.as_bytes(), "subnet x").unwrap();
        let problems = holder.node(&subnet(), &network()).unwrap_err();
        assert!(problems[0].to_string().contains(expected), "{problems:?}");
        assert!(
            problems[0]
                .to_string()
                .contains("subnet 10.244.2.0-24 of 192.168.50.2"),
            "{problems:?}"
        );
    }
}
