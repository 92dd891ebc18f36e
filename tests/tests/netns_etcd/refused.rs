//! What others write may be anything: it is refused by name, and the rest goes on.

use std::time::Duration;

use anyhow::{Result, ensure};
use oxlan_tests::cluster::Shape;

use crate::site::{
    SINGLE, Site, key, problems, value, wait_for_nodes, wait_for_problem, with_site,
};

/// Starts the first node's agent, which must end, and returns what it printed.
fn refusal(site: &Site, more: &[(&str, &str)]) -> Result<String> {
    let node = &site.cluster.nodes[0];
    site.spawn(0, more)?;
    let status = node.agent_ended_within(Duration::from_secs(30))?;
    ensure!(!status.success(), "{}", node.log());
    Ok(node.log())
}

#[test]
fn hostile_values_are_left_out_and_named() {
    with_site(Shape::nodes(1), 1, false, |site| {
        site.configure(SINGLE)?;
        site.put("10.244.8.0-24", &value(8, "02:0a:00:00:00:08"))?;
        let long = "x".repeat(100_000);
        let overlong = "9".repeat(2_000);
        let cases: &[(&str, &str, &str)] = &[
            (
                "10.244.20.0-24",
                "",
                "subnet \"10.244.20.0-24\" = \"\": an object",
            ),
            (
                "10.244.21.0-24",
                &long,
                "subnet \"10.244.21.0-24\": it has 100000 bytes",
            ),
            (
                "10.244.22.0-24",
                "{\"PublicIP\":7}",
                "subnet \"10.244.22.0-24\" PublicIP = 7",
            ),
            (
                "10.244.0.0-16",
                &value(23, "02:0a:00:00:00:17"),
                "too much for one node: /18 or longer",
            ),
            (
                "10.244.8.128-25",
                &value(24, "02:0a:00:00:00:18"),
                "subnet 10.244.8.128-25: it overlaps subnet 10.244.8.0-24, which is older",
            ),
            (
                "10.99.0.0-24",
                &value(25, "02:0a:00:00:00:19"),
                "outside the network's pod_cidrs",
            ),
            (
                "10.244.26.0-24",
                &value(8, "02:0a:00:00:00:1a"),
                "underlay = 192.168.50.8",
            ),
            (
                "10.244.27.0-24",
                &value(27, "02:0a:00:00:00:08"),
                "vtep_mac = 02:0a:00:00:00:08",
            ),
            (
                "10.244.28.0-24",
                &value(28, "01:00:5e:00:00:01"),
                "a unicast MAC is wanted",
            ),
            (
                "10.244.29.0-24",
                &value(29, "02:0a:00:00:00:1d").replace(":1,", ":5,"),
                "VNI = 5: 1 is wanted",
            ),
            (
                "10.244.30.0-24",
                "{\"PublicIP\":\"127.0.0.1\",\"BackendType\":\"vxlan\",\"BackendData\":{\"VtepMAC\":\"02:00:00:00:00:30\"}}",
                "127.0.0.1",
            ),
            (
                &overlong,
                &value(31, "02:0a:00:00:00:1f"),
                "999...\": a name as 10.244.1.0-24",
            ),
        ];
        for (name, value, _) in cases {
            site.put(name, value)?;
        }
        let node = site.start(0)?;
        for (.., expected) in cases {
            wait_for_problem(node, expected)?;
        }
        ensure!(
            problems(node)?.iter().all(|p| p.len() < 500),
            "{:?}",
            problems(node)?
        );
        wait_for_nodes(node, 2)?;
        // What is put right is there at once.
        site.put("10.244.20.0-24", &value(20, "02:0a:00:00:00:14"))?;
        wait_for_nodes(node, 3)?;
        ensure!(!problems(node)?.iter().any(|p| p.contains("10.244.20.0-24")));
        site.etcd.ctl(&["del", "--prefix", &key("10.244.2")])?;
        wait_for_nodes(node, 2)
    });
}

/// A node of another backend is none of ours, and nothing is wrong with that.
#[test]
fn other_backends_are_noted() {
    with_site(Shape::nodes(1), 1, false, |site| {
        site.configure(SINGLE)?;
        let other = r#"{"PublicIP":"192.168.50.8","BackendType":"host-gw"}"#;
        site.put("10.244.8.0-24", other)?;
        let node = site.start(0)?;
        let status = node.oxlan_json("status")?;
        ensure!(status["nodes"] == 1, "{status}");
        ensure!(
            status["problems"].as_array().is_some_and(Vec::is_empty),
            "{status}"
        );
        ensure!(status["notes"].to_string().contains("host-gw"), "{status}");
        Ok(())
    });
}

#[test]
fn what_the_agent_cannot_start_with_is_named() {
    with_site(Shape::nodes(1), 1, false, |site| {
        let log = refusal(site, &[])?;
        ensure!(
            log.contains("etcd has no key /coreos.com/network/config"),
            "{log}"
        );
        site.configure(r#"{"Network":"10.244.0.0/16","Backend":{"Type":"udp"}}"#)?;
        let log = refusal(site, &[])?;
        ensure!(
            log.contains("Backend Type = \"udp\": \"vxlan\" is wanted"),
            "{log}"
        );
        site.configure(&SINGLE.replace("\"Backend\"", "\"SubnetLen\":17,\"Backend\""))?;
        let log = refusal(site, &[])?;
        ensure!(
            log.contains("SubnetLen = 17: 18 or more is wanted"),
            "{log}"
        );
        site.configure(r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{"Type":"vxlan"}}"#)?;
        let log = refusal(site, &[])?;
        ensure!(log.contains("EnableIPv4 = false: true is wanted"), "{log}");
        site.configure(&SINGLE.replace("10.244.0.0", "192.168.0.0"))?;
        let log = refusal(site, &[])?;
        ensure!(
            log.contains("it is inside the pods' network 192.168.0.0/16"),
            "{log}"
        );
        let log = refusal(site, &[("OXLAN_ETCD_ENDPOINTS", "192.168.50.254:2379")])?;
        ensure!(
            log.contains("http://HOST:PORT or https://HOST:PORT is wanted"),
            "{log}"
        );
        let log = refusal(
            site,
            &[("OXLAN_ETCD_ENDPOINTS", "https://192.168.50.254:2379")],
        )?;
        ensure!(
            log.contains("--etcd-cafile is wanted for https://"),
            "{log}"
        );
        Ok(())
    });
}

#[test]
fn a_network_without_a_free_subnet_is_named() {
    with_site(Shape::nodes(1), 1, false, |site| {
        let narrow = "\"SubnetMin\":\"10.244.1.0\",\"SubnetMax\":\"10.244.1.0\",\"Backend\"";
        site.configure(&SINGLE.replace("\"Backend\"", narrow))?;
        site.put("10.244.1.0-24", &value(8, "02:0a:00:00:00:08"))?;
        let log = refusal(site, &[])?;
        ensure!(
            log.contains("no subnet of 10.244.0.0/16 is free: 1 are taken"),
            "{log}"
        );
        Ok(())
    });
}
