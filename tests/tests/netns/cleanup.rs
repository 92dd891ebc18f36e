//! `oxlan cleanup` leaves a node as it was before the agent came.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oxlan_tests::cluster::{Cluster, Shape, with_cluster};
use oxlan_tests::node::Node;
use oxlan_tests::scope::Scope;
use oxlan_tests::wait::until_true;

/// Everything of a node that an agent may touch, as text.
fn snapshot(node: &Node) -> Result<Vec<(&'static str, String)>> {
    let commands = [
        "ip -o link show",
        "ip -o address show",
        "ip route show table all",
        "ip -6 route show table all",
        "ip rule show",
        "ip -6 rule show",
        "ip neighbour show nud permanent",
        "nft list ruleset",
        "sysctl -ar ^net\\.ipv[46]\\.(conf|ip_forward)",
        "bpftool net show",
    ];
    commands
        .iter()
        .map(|line| Ok((*line, node.netns.run(line)?)))
        .collect()
}

#[test]
fn nothing_is_left() {
    let scope = Scope::for_test().unwrap();
    let cluster = Cluster::create(scope, Shape::nodes(1)).unwrap();
    let node = &cluster.nodes[0];
    // The uplink's own address is still being tried out when the cluster has just been made.
    until_true(Duration::from_secs(5), "settled addresses", || {
        Ok(node.netns.run("ip -6 address show tentative")?.is_empty())
    })
    .unwrap();
    let before = snapshot(node).unwrap();
    node.start_agent().unwrap();
    let pods = [node.add_pod("a").unwrap(), node.add_pod("b").unwrap()];
    pods[0].ping(pods[1].ipv4().unwrap().into()).unwrap();

    let refused = node.cleanup().expect_err("cleanup under a running agent");
    assert!(format!("{refused:#}").contains("agent"), "{refused:#}");
    node.stop_agent().unwrap();
    node.cleanup().unwrap();
    same(&before, &snapshot(node).unwrap()).unwrap();
    for directory in [&node.dirs.run, &node.dirs.state, &node.dirs.bpf] {
        let entries = std::fs::read_dir(directory)
            .map(Iterator::count)
            .unwrap_or(0);
        assert_eq!(entries, 0, "left in {}", directory.display());
    }
    let again = node.cleanup().context("a second cleanup").unwrap();
    drop(again);
}

fn same(before: &[(&str, String)], after: &[(&str, String)]) -> Result<()> {
    for ((command, before), (_, after)) in before.iter().zip(after) {
        let new: Vec<&str> = after
            .lines()
            .filter(|line| !before.lines().any(|old| old == *line))
            .collect();
        let gone: Vec<&str> = before
            .lines()
            .filter(|line| !after.lines().any(|now| now == *line))
            .collect();
        ensure!(
            new.is_empty() && gone.is_empty(),
            "`{command}`: new {new:#?}, gone {gone:#?}"
        );
    }
    Ok(())
}

/// After a cleanup the node can be used again.
#[test]
fn a_new_agent_starts_afresh() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        node.add_pod("old")?;
        node.stop_agent()?;
        node.cleanup()?;
        node.start_agent()?;
        assert_eq!(node.oxlan_json("pods")?, serde_json::json!([]));
        let (a, b) = (node.add_pod("a")?, node.add_pod("b")?);
        a.ping(b.ipv4()?.into())?;
        a.ping(b.ipv6()?.into())
    });
}
