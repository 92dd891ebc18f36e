//! A table of every kind of wrong field.

use super::*;

const GOOD: &str = r#"
[network]
pod_cidrs = ["10.244.0.0/16", "fd00:10:244::/48"]
vni = 7
port = 4789

[[node]]
name = "node-b"
pod_cidrs = ["fd00:10:244:2::/64", "10.244.2.0/24"]
underlay = "192.168.50.2"
vtep_mac = "02:0a:00:00:00:02"

[[node]]
name = "node-a"
pod_cidrs = ["10.244.1.0/24"]
underlay = "192.168.50.1"
"#;

fn problems(text: &str) -> Vec<String> {
    match parse(text, "node-a") {
        Ok(_) => Vec::new(),
        Err(ParseError::Invalid(problems)) => problems.iter().map(ToString::to_string).collect(),
        Err(ParseError::Syntax(error)) => panic!("{error}"),
    }
}

/// `GOOD` with one piece replaced has exactly this problem.
#[track_caller]
fn wrong(good: &str, bad: &str, expected: &str) {
    assert!(GOOD.contains(good), "{good}");
    let found = problems(&GOOD.replacen(good, bad, 1));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains(expected), "{found:#?}");
}

#[test]
fn a_good_file_is_read_in_full() {
    let config = parse(GOOD, "node-a").unwrap();
    assert_eq!((config.network.vni.get(), config.network.port), (7, 4789));
    let names: Vec<&str> = config.nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["node-a", "node-b"], "in the order of names");
    let b = config.node("node-b").unwrap();
    assert_eq!(b.vtep_mac().to_string(), "02:0a:00:00:00:02");
    assert_eq!(b.pod_cidrs[0].to_string(), "10.244.2.0/24", "IPv4 first");
    let a = config.node("node-a").unwrap();
    assert_eq!(a.vtep_mac().to_string(), "0e:00:c0:a8:32:01", "derived");
    assert!(config.node("node-c").is_none());
}

#[test]
fn dscp_is_a_number_or_copied() {
    let dscp = |line: &str| {
        let text = GOOD.replacen("vni = 7", &format!("vni = 7\n{line}"), 1);
        parse(&text, "node-a").unwrap().network.dscp
    };
    assert_eq!(dscp(""), Dscp::Fixed(0));
    assert_eq!(dscp("dscp = 46"), Dscp::Fixed(46));
    assert_eq!(dscp("dscp = 63"), Dscp::Fixed(63));
    assert_eq!(dscp("dscp = \"copy\""), Dscp::Copy);
    for value in ["64", "-1", "\"ef\"", "1.5"] {
        wrong(
            "vni = 7",
            &format!("vni = 7\ndscp = {value}"),
            &format!("network dscp = {value}: a whole number from 0 to 63 or \"copy\" is wanted"),
        );
    }
}

#[test]
fn a_node_may_have_a_mac_for_each_underlay_address() {
    let both = "underlay = [\"fd00:50::2\", \"192.168.50.2\"]";
    let macs = "[\"02:0a:00:00:00:06\", \"02:0a:00:00:00:04\"]";
    let text = GOOD.replacen("underlay = \"192.168.50.2\"", both, 1);
    let text = text.replacen("\"02:0a:00:00:00:02\"", macs, 1);
    let b = parse(&text, "node-a").unwrap().nodes.remove(1);
    let pairs = b.vteps.iter().map(|v| format!("{} {}", v.underlay, v.mac));
    let wanted = [
        "192.168.50.2 02:0a:00:00:00:04",
        "fd00:50::2 02:0a:00:00:00:06",
    ];
    assert_eq!(pairs.collect::<Vec<_>>(), wanted);
    let Err(ParseError::Invalid(own)) = parse(&text, "node-b") else {
        panic!("an overlay device has one MAC");
    };
    assert!(
        own[0]
            .to_string()
            .contains("one overlay device has one MAC"),
        "{own:?}"
    );
    wrong(
        "\"02:0a:00:00:00:02\"",
        macs,
        "a list with one for each underlay address",
    );
}

#[test]
fn a_node_may_have_an_underlay_address_of_each_family() {
    let both = "[\"fd00:50::1\", \"192.168.50.1\"]";
    let text = GOOD.replacen("\"192.168.50.1\"", both, 1);
    let a = parse(&text, "node-a").unwrap().nodes.remove(0);
    let underlay: Vec<String> = a.underlay().map(|u| u.to_string()).collect();
    assert_eq!(underlay, ["192.168.50.1", "fd00:50::1"], "IPv4 first");
    assert!(a.vteps.iter().all(|v| v.mac == a.vtep_mac()));
    let text = GOOD.replacen("192.168.50.1", "fd00:50::1", 1);
    assert!(parse(&text, "node-a").is_ok());
}

#[test]
fn vni_port_and_mode_have_defaults() {
    let text = GOOD.replace("vni = 7", "").replace("port = 4789", "");
    let config = parse(&text, "node-a").unwrap();
    assert_eq!((config.network.vni.get(), config.network.port), (1, 8472));
    assert_eq!(config.network.mode, Mode::Vxlan);
}

#[test]
fn a_mode_is_read_as_it_is_written() {
    for mode in [Mode::Vxlan, Mode::Direct, Mode::Auto] {
        let text = GOOD.replace("vni = 7", &format!("mode = \"{mode}\""));
        assert_eq!(parse(&text, "node-a").unwrap().network.mode, mode);
    }
    let wanted = "one of \"vxlan\", \"direct\", \"auto\" is wanted";
    for bad in ["\"host-gw\"", "1", "\"VXLAN\""] {
        let problem = format!("network mode = {bad}: {wanted}");
        wrong("vni = 7", &format!("mode = {bad}"), &problem);
    }
}

#[test]
fn each_wrong_field_names_value_and_remedy() {
    wrong(
        "vni = 7",
        "vni = 16777216",
        "network vni = 16777216: a whole number from 0 to 16777215",
    );
    wrong("vni = 7", "vni = \"x\"", "network vni = \"x\"");
    wrong(
        "port = 4789",
        "port = 0",
        "network port = 0: a UDP port from 1 to 65535",
    );
    wrong("port = 4789", "port = 65536", "network port = 65536");
    wrong(
        "port = 4789",
        "ports = 1",
        "network ports: there is no such field; known are pod_cidrs, vni, port, dscp, mode",
    );
    wrong(
        "10.244.1.0/24",
        "10.244.1.1/24",
        "node \"node-a\" pod_cidrs[0] = \"10.244.1.1/24\": bits after the prefix are set; the network is \"10.244.1.0/24\"",
    );
    wrong(
        "10.244.1.0/24",
        "10.245.1.0/24",
        "outside the network's pod_cidrs [\"10.244.0.0/16\", \"fd00:10:244::/48\"]",
    );
    wrong("10.244.1.0/24", "10.244.1.0", "a prefix is wanted");
    wrong(
        "10.244.1.0/24",
        "10.244.1.4/31",
        "no room for a pod; /30 or shorter",
    );
    wrong(
        "[\"10.244.1.0/24\"]",
        "[]",
        "node \"node-a\" pod_cidrs = []: a list of prefixes is wanted",
    );
    wrong(
        "[\"10.244.1.0/24\"]",
        "\"10.244.1.0/24\"",
        "a list of prefixes is wanted",
    );
    wrong(
        "[\"10.244.1.0/24\"]",
        "[\"10.244.1.0/25\", \"10.244.1.128/25\"]",
        "only one IPv4 prefix is possible",
    );
    wrong(
        "10.244.1.0/24",
        "10.244.2.128/25",
        "pod_cidrs = \"10.244.2.128/25\": it overlaps 10.244.2.0/24 of node \"node-b\"",
    );
    wrong(
        "underlay = \"192.168.50.1\"",
        "",
        "node \"node-a\" underlay: this field is missing",
    );
    wrong(
        "\"192.168.50.1\"",
        "\"nowhere\"",
        "underlay = \"nowhere\": an IP address is wanted",
    );
    wrong(
        "\"192.168.50.1\"",
        "\"192.168.50.2\"",
        "has it already; it must be unique",
    );
    wrong(
        "\"192.168.50.1\"",
        "\"10.244.9.9\"",
        "inside the pods' network 10.244.0.0/16",
    );
    wrong("\"192.168.50.1\"", "\"0.0.0.0\"", "a unicast address");
    wrong("\"192.168.50.1\"", "\"::\"", "a unicast address");
    wrong("\"192.168.50.1\"", "\"fe80::1\"", "a link-local address");
    wrong(
        "\"192.168.50.1\"",
        "\"::ffff:192.168.50.1\"",
        "this is an IPv4 address; \"192.168.50.1\" is wanted",
    );
    wrong("\"192.168.50.1\"", "[]", "at least one address is wanted");
    wrong(
        "\"192.168.50.1\"",
        "[\"192.168.50.1\", \"nowhere\"]",
        "node \"node-a\" underlay[1] = \"nowhere\": an IP address is wanted",
    );
    wrong(
        "\"192.168.50.1\"",
        "[\"fd00:50::1\", \"fd00:50::2\"]",
        "[\"fd00:50::1\", \"fd00:50::2\"]: only one IPv6 address is possible",
    );
    wrong(
        "\"192.168.50.1\"",
        "[\"fd00:10:244:9::9\", \"192.168.50.1\"]",
        "inside the pods' network fd00:10:244::/48",
    );
    wrong(
        "02:0a:00:00:00:02",
        "03:0a:00:00:00:02",
        "this is a group address",
    );
    wrong(
        "02:0a:00:00:00:02",
        "00:00:00:00:00:00",
        "means \"no address\"",
    );
    wrong("02:0a:00:00:00:02", "02:0a", "not a MAC address");
    wrong(
        "02:0a:00:00:00:02",
        "0e:00:c0:a8:32:01",
        "vtep_mac = \"0e:00:c0:a8:32:01\": node number 1, \"node-b\", has it already",
    );
    wrong(
        "name = \"node-b\"",
        "",
        "node number 1 name: this field is missing",
    );
    wrong(
        "name = \"node-b\"",
        "name = 5",
        "node number 1 name = 5: a text is wanted",
    );
    wrong(
        "name = \"node-b\"",
        "name = \"node b\"",
        "node name = \"node b\"",
    );
    wrong(
        "name = \"node-b\"",
        "name = \"node-a\"",
        "node \"node-a\" name = \"node-a\": node number 1, \"node-a\", has it",
    );
    wrong(
        "name = \"node-a\"",
        "name = \"node-x\"",
        "node \"node-a\": this is the agent's own node (--node), and it is missing; there are node-b, node-x",
    );
    wrong(
        "vtep_mac",
        "vtepmac",
        "node \"node-b\" vtepmac: there is no such field",
    );
}

#[test]
fn reserved_ranges_are_refused() {
    for (prefix, reason) in [
        ("169.254.0.0/17", "where the pods' gateway is"),
        ("127.1.0.0/16", "loopback"),
        ("224.0.0.0/8", "multicast"),
        ("fe80::/64", "where the pods' gateway is"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("0.0.0.0/0", "this network"),
    ] {
        let found = problems(&GOOD.replacen("10.244.0.0/16", prefix, 1));
        assert!(
            found.iter().any(|p| p.contains(reason)),
            "{prefix}: {found:#?}"
        );
    }
}

#[test]
fn everything_wrong_is_reported_at_once() {
    let text = GOOD
        .replace("vni = 7", "vni = -1")
        .replace("\"192.168.50.2\"", "5")
        .replace("10.244.1.0/24", "10.244.1.0/33");
    assert_eq!(problems(&text).len(), 3);
}

#[test]
fn missing_tables_are_named() {
    let found = problems("nodes = 1");
    assert!(
        found
            .iter()
            .any(|p| p.starts_with("[network]: this table is missing")),
        "{found:#?}"
    );
    assert!(
        found
            .iter()
            .any(|p| p.starts_with("nodes: there is no such field")),
        "{found:#?}"
    );
    assert!(
        found
            .iter()
            .any(|p| p.contains("there are no nodes at all")),
        "{found:#?}"
    );
}

#[test]
fn too_many_prefix_lengths_are_refused() {
    let mut text = GOOD.replace("10.244.0.0/16", "10.0.0.0/8");
    for length in 16..=23 {
        let n = length - 16;
        text += &format!(
            "[[node]]\nname = \"n{n}\"\npod_cidrs = [\"10.{n}.0.0/{length}\"]\nunderlay = \"192.168.51.{}\"\n",
            n + 1
        );
    }
    let found = problems(&text);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].contains("/16 /17 /18 /19 /20 /21 /22 /23 /24: at most 8"),
        "{found:#?}"
    );
}

#[test]
fn five_thousand_nodes_are_no_square() {
    let mut text = "[network]\npod_cidrs = [\"10.0.0.0/8\"]\n".to_owned();
    for n in 0..5000 {
        let (high, low) = (n / 250, n % 250);
        text += &format!(
            "[[node]]\nname = \"n{n}\"\npod_cidrs = [\"10.{high}.{low}.0/24\"]\nunderlay = \"172.16.{high}.{low}\"\n"
        );
    }
    assert_eq!(parse(&text, "n4999").unwrap().nodes.len(), 5000);
}

#[test]
fn syntax_errors_name_the_line() {
    let Err(ParseError::Syntax(error)) = parse("[network]\nvni = = 1\n", "node-a") else {
        panic!("that is no TOML");
    };
    assert!(error.to_string().contains("line 2"), "{error}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\[network\\]|\\[\\[node\\]\\]|[a-z_]{1,9} = (\"[0-9a-f:./]{0,20}\"|[0-9]{1,9}|\\[\\])|\n){0,20}") {
        let _ = parse(&text, "node-a");
    }
}
