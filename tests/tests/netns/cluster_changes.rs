//! The cluster changes under nodes that run and have pods: its wire form, and their own entries.

use anyhow::{Context, Result, ensure};
use oxlan_tests::cluster::{Cluster, Shape, node_entry, with_cluster};
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::underlay::UPLINK;
use oxlan_tests::wait::{SOON, until, until_true};

/// The problems that a node tells of.
fn problems(node: &Node) -> Result<Vec<String>> {
    let status = node.oxlan_json("status")?;
    let problems = status["problems"].as_array().context("no problems")?;
    let text = |p: &serde_json::Value| p.as_str().unwrap_or_default().to_owned();
    Ok(problems.iter().map(text).collect())
}

/// Both directions, both families; right after a change the first packets may be lost.
fn wait_for_talk(a: &Pod, b: &Pod) -> Result<()> {
    until(SOON, "talk between the pods", || {
        for (from, to) in [(a, b), (b, a)] {
            to.addresses().try_for_each(|address| from.ping(address))?;
        }
        Ok(())
    })
}

/// The file's text with another entry for the first node.
fn with_first(cluster: &Cluster, pod_cidrs: &[String], more: &str) -> String {
    let first = &cluster.nodes[0];
    let now = node_entry(&first.name, &first.pod_cidrs, 1, "");
    let text = cluster.file_text();
    assert!(text.contains(&now));
    text.replace(&now, &node_entry(&first.name, pod_cidrs, 1, more))
}

#[test]
fn network_identifier_port_and_mac_change() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        wait_for_talk(&a, &b)?;
        let mac = "02:0a:00:00:00:77";
        let text = with_first(
            cluster,
            &first.pod_cidrs,
            &format!("vtep_mac = \"{mac}\"\n"),
        );
        let changed = text.replace("[network]", "[network]\nvni = 77\nport = 4789");
        cluster.write_file(&changed)?;
        for node in &cluster.nodes {
            until_true(SOON, "new wire form", || {
                let status = node.oxlan_json("status")?;
                let device = node.netns.run("ip -d link show dev oxlan0")?;
                Ok(
                    status["vni"] == 77
                        && status["port"] == 4789
                        && device.contains("dstport 4789"),
                )
            })?;
        }
        until_true(SOON, "new MAC", || {
            let device = first.netns.run("ip link show dev oxlan0")?;
            Ok(device.contains(mac))
        })?;
        wait_for_talk(&a, &b)?;
        // The way through the overlay device, too.
        first
            .netns
            .run(&format!("ping -n -c 1 -W 2 {}", b.ipv4()?))?;
        for node in &cluster.nodes {
            ensure!(problems(node)?.is_empty(), "{:?}", problems(node)?);
        }
        cluster.write_file(&cluster.file_text())?;
        until_true(SOON, "old wire form", || {
            Ok(first.oxlan_json("status")?["vni"] == 1 && second.oxlan_json("status")?["vni"] == 1)
        })?;
        wait_for_talk(&a, &b)
    });
}

/// Pods keep their addresses, which only their own node can reach then, and it says so.
#[test]
fn a_node_gets_another_pod_cidr() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (old, b) = (first.add_pod("old")?, second.add_pod("b")?);
        let cidrs = ["10.244.77.0/24".to_owned(), "fd00:244:0:77::/64".to_owned()];
        cluster.write_file(&with_first(cluster, &cidrs, ""))?;
        let address = old.ipv4()?.to_string();
        until_true(SOON, "report of the pod that is cut off", || {
            Ok(problems(first)?.iter().any(|p| p.contains(&address)))
        })?;
        let new = first.add_pod("new")?;
        assert!(new.ipv4()?.to_string().starts_with("10.244.77."));
        wait_for_talk(&new, &b)?;
        wait_for_talk(&new, &old)?;
        first.delete_pod(&old)?;
        until_true(
            SOON,
            "end of the report",
            || Ok(problems(first)?.is_empty()),
        )?;
        // What went with the old prefix is not there twice.
        let addresses = first.netns.run("ip -o -4 address show dev oxlan0")?;
        ensure!(
            addresses.lines().count() == 1 && addresses.contains("10.244.77.0/32"),
            "{addresses}"
        );
        Ok(())
    });
}

/// A file without the own node is no reason to cut its pods off.
#[test]
fn a_node_that_is_not_named_any_more_keeps_its_pods() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (a, c) = (first.add_pod("a")?, first.add_pod("c")?);
        let whole = cluster.file_text();
        let without = whole.replace(&node_entry(&first.name, &first.pod_cidrs, 1, ""), "");
        cluster.write_file(&without)?;
        until_true(SOON, "report", || {
            Ok(problems(first)?.iter().any(|p| p.contains("own node")))
        })?;
        wait_for_talk(&a, &c)?;
        // The other node accepts nothing from it any more, and takes it back.
        let b = second.add_pod("b")?;
        assert!(b.ping(a.ipv4()?.into()).is_err(), "a stranger is accepted");
        cluster.write_file(&whole)?;
        wait_for_talk(&a, &b)
    });
}

/// The file may change before the address does, or after it.
#[test]
fn a_node_gets_another_underlay_address() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        let now = node_entry(&first.name, &first.pod_cidrs, 1, "");
        let moved = node_entry(&first.name, &first.pod_cidrs, 101, "");
        let text = cluster.file_text().replace(&now, &moved);
        cluster.write_file(&text)?;
        until_true(SOON, "report of the missing address", || {
            Ok(problems(first)?
                .iter()
                .any(|p| p.contains("192.168.50.101")))
        })?;
        first.netns.run_all(&[
            &format!("ip address del 192.168.50.1/24 dev {UPLINK}"),
            &format!("ip address add 192.168.50.101/24 dev {UPLINK}"),
        ])?;
        wait_for_talk(&a, &b)?;
        // Now there are both addresses before the file changes.
        first
            .netns
            .run(&format!("ip address add 192.168.50.1/24 dev {UPLINK}"))?;
        cluster.write_file(&cluster.file_text())?;
        until_true(SOON, "old address", || {
            Ok(first.oxlan_json("status")?["underlay"] == "192.168.50.1")
        })?;
        wait_for_talk(&a, &b)?;
        until_true(SOON, "end of all problems", || {
            Ok(problems(first)?.is_empty() && problems(second)?.is_empty())
        })
    });
}
