//! Tables of right and wrong configurations.

use super::*;
use crate::cluster::Vni;

const GOOD: &str = r#"{
  "Network": "10.244.0.0/16",
  "IPv6Network": "fd00:10:244::/48",
  "EnableIPv4": true,
  "EnableIPv6": true,
  "EnableNFTables": false,
  "SubnetLen": 24,
  "SubnetMin": "10.244.16.0",
  "SubnetMax": "10.244.31.0",
  "Backend": {"Type": "vxlan", "VNI": 7, "Port": 4789, "DirectRouting": true, "GBP": false, "Learning": false, "MTU": 0, "MacPrefix": "0A-2a"}
}"#;

fn problems(text: &str) -> Vec<String> {
    let of = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
    match NetConf::parse(text.as_bytes(), "config").and_then(|conf| conf.subnets("config")) {
        Ok(_) => Vec::new(),
        Err(NetConfError::Invalid { problems, .. }) => of(problems),
        Err(other) => vec![other.to_string()],
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
fn a_full_configuration_is_read() {
    let conf = NetConf::parse(GOOD.as_bytes(), "config").unwrap();
    let cidrs: Vec<String> = conf.pod_cidrs().iter().map(ToString::to_string).collect();
    assert_eq!(cidrs, ["10.244.0.0/16", "fd00:10:244::/48"]);
    assert_eq!(
        conf.backend,
        Backend {
            vni: Vni::new(7).unwrap(),
            port: 4789,
            direct_routing: true,
            mac_prefix: Some([0x0a, 0x2a]),
        }
    );
    let mac = conf.backend.vtep_mac("192.168.50.1".parse().unwrap());
    assert_eq!(mac.to_string(), "0a:2a:c0:a8:32:01");
    let network = conf.network();
    assert_eq!((network.vni.get(), network.port), (7, 4789));
    assert_eq!(network.mode, Mode::Auto);
}

/// The file of Flannel's own manifest (Documentation/kube-flannel.yml), and names in another case.
#[test]
fn flannels_default_is_read() {
    for text in [
        r#"{"Network": "10.244.0.0/16", "EnableNFTables": false, "Backend": {"Type": "vxlan"}}"#,
        r#"{"network": "10.244.7.7/16", "ipv6network": "not used", "backend": {"type": "VXLAN", "port": 0, "vni": null}}"#,
    ] {
        let conf = NetConf::parse(text.as_bytes(), "config").unwrap();
        assert_eq!(conf.pod_cidrs(), ["10.244.0.0/16".parse().unwrap()]);
        assert_eq!(conf.backend, Backend::default());
        let mac = conf.backend.vtep_mac("192.168.50.1".parse().unwrap());
        assert_eq!(mac.to_string(), "0e:00:c0:a8:32:01");
    }
    let v6 = r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00::/56", "Backend": {"Type": "vxlan"}}"#;
    let v6 = NetConf::parse(v6.as_bytes(), "config").unwrap();
    assert_eq!(v6.pod_cidrs(), ["fd00::/56".parse().unwrap()]);
}

#[test]
fn subnets_are_those_of_flannel() {
    let subnets = |text: &str| {
        let text = format!("{{{text}, \"Backend\": {{\"Type\": \"vxlan\"}}}}");
        let conf = NetConf::parse(text.as_bytes(), "config").unwrap();
        let all = conf.subnets("config").unwrap();
        let all = all.iter().map(|s| {
            let (first, last) = (s.nth(0), s.nth(s.count() - 1));
            assert!(s.allow(&first) && s.allow(&last));
            assert_eq!(s.nth(s.count()), first, "it starts again");
            format!("{} {first} {last}", s.count())
        });
        all.collect::<Vec<_>>()
    };
    for (text, expected) in [
        (
            r#""Network": "10.244.0.0/16""#,
            "254 10.244.1.0/24 10.244.254.0/24",
        ),
        (
            r#""Network": "10.244.0.0/24""#,
            "2 10.244.0.64/26 10.244.0.128/26",
        ),
        (
            r#""Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.10.240.0""#,
            "16 10.10.0.0/20 10.10.240.0/20",
        ),
        (
            r#""Network": "0.0.0.0/0", "SubnetLen": 30"#,
            "1073741822 0.0.0.4/30 255.255.255.248/30",
        ),
        (
            r#""EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48""#,
            "65534 fd00:10:244:1::/64 fd00:10:244:fffe::/64",
        ),
        (
            r#""EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "::/0", "IPv6SubnetLen": 126"#,
            "85070591730234615865843651857942052862 ::4/126 ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8/126",
        ),
    ] {
        assert_eq!(subnets(text), [expected], "{text}");
    }
    let conf = NetConf::parse(GOOD.as_bytes(), "config").unwrap();
    let [v4, v6] = &conf.subnets("config").unwrap()[..] else {
        panic!("two families");
    };
    for (subnet, allowed) in [
        ("10.244.15.0/24", false),
        ("10.244.16.0/24", true),
        ("10.244.31.0/24", true),
        ("10.244.32.0/24", false),
        ("10.244.16.0/25", false),
        ("10.245.16.0/24", false),
        ("fd00:10:244:1::/64", false),
    ] {
        assert_eq!(v4.allow(&subnet.parse().unwrap()), allowed, "{subnet}");
    }
    assert!(v6.allow(&"fd00:10:244:1::/64".parse().unwrap()));
    assert!(!v6.allow(&"fd00:10:244::/64".parse().unwrap()));
}

#[test]
fn each_wrong_field_names_value_and_remedy() {
    for (good, bad, expected) in [
        (
            "\"10.244.0.0/16\"",
            "5",
            "Network = 5: an IPv4 prefix is wanted",
        ),
        (
            "\"10.244.0.0/16\"",
            "\"fd00::/48\"",
            "Network = \"fd00::/48\": an IPv4 prefix",
        ),
        (
            "\"10.244.0.0/16\"",
            "\"10.244.0.0\"",
            "Network = \"10.244.0.0\": ",
        ),
        (
            "\"10.244.0.0/16\"",
            "null",
            "Network: this field is missing",
        ),
        (
            "fd00:10:244::/48",
            "10.0.0.0/8",
            "IPv6Network = \"10.0.0.0/8\": an IPv6 prefix",
        ),
        (
            "\"EnableIPv4\": true",
            "\"EnableIPv4\": \"yes\"",
            "EnableIPv4 = \"yes\": true or false",
        ),
        (
            "\"EnableNFTables\": false",
            "\"EnableNFTables\": 1",
            "EnableNFTables = 1: true or false",
        ),
        (
            ": 24",
            ": \"24\"",
            "SubnetLen = \"24\": a whole number from 0 to 30",
        ),
        (
            ": 24",
            ": 31",
            "SubnetLen = 31: a whole number from 0 to 30",
        ),
        (
            ": 24",
            ": 17",
            "SubnetLen = 17: 18 or more is wanted: 10.244.0.0/16 must have room for four",
        ),
        (": 24", ": -1", "SubnetLen = -1: "),
        (": 24", ": 1e99", "SubnetLen = 1e+99: "),
        (
            "10.244.16.0",
            "10.244.16.1",
            "SubnetMin = 10.244.16.1: the first IPv4 address of a /24 of 10.244.0.0/16",
        ),
        ("10.244.16.0", "10.245.0.0", "SubnetMin = 10.245.0.0: "),
        (
            "10.244.16.0",
            "10.244.32.0",
            "SubnetMin = 10.244.32.0: it must not be after SubnetMax",
        ),
        (
            "10.244.31.0",
            "fd00::",
            "SubnetMax = \"fd00::\": an IPv4 address",
        ),
        (
            "fd00:10:244::/48",
            "fd00::/125",
            "IPv6Network = fd00::/125: a prefix of /124 or shorter",
        ),
        (
            "\"vxlan\"",
            "\"host-gw\"",
            "Backend Type = \"host-gw\": \"vxlan\" is wanted",
        ),
        ("\"vxlan\"", "[]", "Backend Type = []: \"vxlan\" is wanted"),
        (
            "\"Type\": \"vxlan\", ",
            "",
            "Backend Type: this field is missing; \"vxlan\"",
        ),
        (
            "\"VNI\": 7",
            "\"VNI\": 16777216",
            "Backend VNI = 16777216: a whole number from 0 to 16777215",
        ),
        (
            "4789",
            "65536",
            "Backend Port = 65536: a whole number from 0 to 65535",
        ),
        (
            "\"DirectRouting\": true",
            "\"DirectRouting\": 1",
            "Backend DirectRouting = 1: true or false",
        ),
        (
            "\"GBP\": false",
            "\"GBP\": true",
            "Backend GBP = true: false is wanted",
        ),
        (
            "\"Learning\": false",
            "\"Learning\": true",
            "Backend Learning = true: false is wanted",
        ),
        (
            "\"MTU\": 0",
            "\"MTU\": 1400",
            "Backend MTU: 0 or no such field",
        ),
        ("\"MTU\": 0", "\"MTU\": \"big\"", "Backend MTU = \"big\": "),
        (
            "0A-2a",
            "0A-2",
            "Backend MacPrefix = \"0A-2\": the first two bytes",
        ),
        ("0A-2a", "01-00", "Backend MacPrefix = \"01-00\": "),
        ("0A-2a", "+A-2a", "Backend MacPrefix = \"+A-2a\": "),
        (
            "\"MTU\"",
            "\"Mtus\"",
            "Backend Mtus = 0: Oxlan knows no such option; known are Type, VNI",
        ),
        (
            "\"SubnetLen\"",
            "\"SubnetLength\"",
            "SubnetLength = 24: Oxlan knows no such option",
        ),
    ] {
        wrong(good, bad, expected);
    }
}

#[test]
fn whole_texts_that_are_wrong() {
    for (text, expected) in [
        ("", "config is not JSON"),
        ("[]", "the text = []: an object is wanted"),
        (
            "{}",
            "Backend: this field is missing, which is the backend \"udp\" to Flannel",
        ),
        (
            r#"{"Network":"10.0.0.0/8","Backend":"vxlan"}"#,
            "Backend = \"vxlan\": ",
        ),
        (
            r#"{"EnableIPv4":false,"Backend":{"Type":"vxlan"}}"#,
            "without a family there are no addresses",
        ),
        (
            &" ".repeat(70_000),
            "config has 70000 bytes: at most 65536 are read",
        ),
        (&"[".repeat(60_000), "config is not JSON"),
    ] {
        let found = problems(text);
        assert!(found.iter().any(|p| p.contains(expected)), "{found:#?}");
    }
}

#[test]
fn everything_wrong_is_reported_at_once_and_shortly() {
    let text = GOOD
        .replace("24,", "99,")
        .replace("\"10.244.0.0/16\"", &format!("\"{}\"", "x".repeat(9_000)))
        .replace("4789", "-1");
    let found = problems(&text);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found.iter().all(|p| p.len() < 300), "{found:#?}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\{(\"(Network|SubnetLen|SubnetMin|SubnetMax|IPv6Network|EnableIPv6|IPv6SubnetLen|Backend)\": ([0-9]{1,3}|true|\"[0-9a-f:./]{0,12}\"|\"10\\.[0-9]{1,3}\\.0\\.0/[0-9]{1,2}\"|\\{\"Type\": \"vxlan\"\\}), ?){0,6}\"Backend\": \\{\"Type\": \"vxlan\"\\}\\}") {
        let _ = problems(&text);
    }
}
