//! A cluster of 5,000 nodes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use oxlan_tests::kube_api::flannel_node;
use oxlan_tests::node::Node;
use oxlan_tests::wait::until_true;
use serde_json::{Value, json};

use super::{names, row, wait_for_node, with_site};

const NODES: u16 = 5_000;

/// What they may cost an agent, KiB. The benchmark measures it closely; this is for what keeps whole Nodes.
const MORE: u64 = 20 << 10;

/// Machines are busy, and every Node comes with ten kilobytes that are of no use here.
const A_WHILE: Duration = Duration::from_secs(60);

fn peer(number: u16) -> Value {
    let [high, low] = number.to_be_bytes();
    let mac = format!("02:00:00:01:{high:02x}:{low:02x}");
    let cidr = format!("10.{}.{low}.0/24", 100 + high);
    let mut node = flannel_node(
        &format!("p{number}"),
        &cidr,
        &format!("172.16.{high}.{low}"),
        &mac,
    );
    let image = |i: u8| json!({"names": [format!("registry.example.com/team/image-{i}@sha256:{}", "0".repeat(64))], "sizeBytes": 1});
    node["status"]["images"] = (0..50).map(image).collect();
    node["metadata"]["managedFields"] = json!([{"manager": "kubelet", "fieldsV1": {"f:status": {"f:conditions": "x".repeat(3000)}}}]);
    node
}

/// Resident memory of an agent, KiB.
fn memory(node: &Node) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.agent_pid()?))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|l| l.split_whitespace().next())
        .context("no VmRSS")?;
    Ok(kib.parse()?)
}

#[test]
fn five_thousand_nodes() {
    with_site(1, |site| {
        let wide = json!({"Network": "10.0.0.0/8", "Backend": {"Type": "vxlan"}});
        site.write("net-conf.json", &wide.to_string())?;
        site.start()?;
        let node = site.node(1);
        let alone = memory(node)?;
        node.stop_agent()?;
        for number in 0..NODES {
            site.api.put(peer(number));
        }
        let begun = Instant::now();
        site.spawn_agent(1)?;
        until_true(A_WHILE, "all nodes", || {
            Ok(names(node)?.len() == usize::from(NODES) + 1)
        })?;
        let ready = begun.elapsed();
        let with_all = memory(node)?;
        println!(
            "{NODES} nodes: ready after {ready:?}; resident memory {alone} KiB alone, {with_all} KiB with all, {} KiB more",
            with_all.saturating_sub(alone)
        );
        ensure!(with_all <= alone + MORE, "they cost too much memory");
        let before = site.api.counts();
        let versions = node.log().matches("the cluster has changed").count();

        // Heartbeats of all of them change nothing.
        for number in 0..NODES {
            site.api.change(&format!("p{number}"), |_| {})?;
        }
        let begun = Instant::now();
        let mut changed = peer(77);
        changed["spec"] = json!({"podCIDR": "10.200.0.0/24"});
        site.api.put(changed);
        until_true(A_WHILE, "changed prefix", || {
            Ok(row(node, "p77")?["pod_cidrs"][0] == "10.200.0.0/24")
        })?;
        println!(
            "heartbeats of all, and a change seen after {:?}",
            begun.elapsed()
        );
        ensure!(
            node.log().matches("the cluster has changed").count() == versions + 1,
            "work for nothing"
        );

        // The watch breaks off: it goes on where it was, without a list.
        site.api.disconnect();
        site.api.put(peer(NODES));
        wait_for_node(node, &format!("p{NODES}"))?;
        ensure!(
            site.api.counts().pages == before.pages,
            "the list was read again"
        );
        println!("resident memory after all that: {} KiB", memory(node)?);

        // It lists anew, and nothing is different.
        let versions = node.log().matches("the cluster has changed").count();
        site.api.compact();
        site.api.disconnect();
        until_true(A_WHILE, "new list", || {
            Ok(site.api.counts().pages > before.pages + 50)
        })?;
        site.api.put(peer(NODES + 1));
        let last = format!("p{}", NODES + 1);
        until_true(A_WHILE, &last, || Ok(names(node)?.contains(&last)))?;
        ensure!(
            node.log().matches("the cluster has changed").count() == versions + 1,
            "work for nothing"
        );
        println!("resident memory after a new list: {} KiB", memory(node)?);
        Ok(())
    });
}
