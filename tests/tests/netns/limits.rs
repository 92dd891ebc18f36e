//! Capacities that are reached: an error names the option, and everything else goes on.

use anyhow::{Context, Result, ensure};
use oxlan_tests::cluster::{Cluster, Shape, with_cluster};
use oxlan_tests::fabric::{router_v4, with_fabric};
use oxlan_tests::node::Node;
use oxlan_tests::wait::{SOON, until_true};

/// Starts the node's agent anew with an option.
fn restart_with(node: &Node, option: (&str, &str)) -> Result<()> {
    node.stop_agent()?;
    node.spawn_agent_with(&[option])?;
    node.wait_ready()
}

#[test]
fn more_pods_than_max_pods() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        // Two overlay addresses and one pod with both families.
        restart_with(node, ("OXLAN_MAX_PODS", "4"))?;
        let first = node.add_pod("first")?;
        let netns = node.pod_netns("second")?;
        let refused = node.cni("ADD", netns.name(), &netns)?;
        let text = refused
            .result()
            .err()
            .context("a second pod was attached")?;
        ensure!(format!("{text:#}").contains("--max-pods"), "{text:#}");
        let rows = node.oxlan_json("pods")?;
        ensure!(rows.as_array().map(Vec::len) == Some(1), "left: {rows}");
        let links = netns.run("ip -o link show")?;
        ensure!(!links.contains("eth0"), "left in the pod: {links}");
        let remote = cluster.nodes[1].add_pod("remote")?;
        remote.addresses().try_for_each(|to| first.ping(to))?;

        node.delete_pod(&first)?;
        let again = node.add_pod("again")?;
        remote.addresses().try_for_each(|to| again.ping(to))
    });
}

/// A cluster that outgrows a capacity: the agent says so, and what it has goes on.
fn outgrows(option: &str, value: &str, named: &str) {
    with_cluster(Shape::nodes(2), |cluster: &Cluster| {
        let [node, other] = [&cluster.nodes[0], &cluster.nodes[1]];
        restart_with(node, (option, value))?;
        let (a, b) = (node.add_pod("a")?, other.add_pod("b")?);
        let text = cluster.file_text();
        let mut grown = text.clone();
        for number in 3..6u8 {
            let cidrs = [
                format!("10.244.{number}.0/24"),
                format!("fd00:244:0:{number}::/64"),
            ];
            let name = format!("node-{number}");
            grown.push_str(&oxlan_tests::cluster::node_entry(&name, &cidrs, number, ""));
        }
        let says = |wanted: bool| {
            until_true(SOON, &format!("word of {named}"), || {
                let problems = node.oxlan_json("status")?["problems"].to_string();
                Ok(problems.contains(named) == wanted)
            })
        };
        cluster.write_file(&grown)?;
        says(true)?;
        let problems = node.oxlan_json("status")?["problems"].clone();
        ensure!(problems.as_array().map(Vec::len) == Some(1), "{problems}");
        b.addresses().try_for_each(|to| a.ping(to))?;
        let c = node.add_pod("c")?;
        b.addresses().try_for_each(|to| c.ping(to))?;

        cluster.write_file(&text)?;
        says(false)?;
        b.addresses().try_for_each(|to| a.ping(to))
    });
}

#[test]
fn more_nodes_than_max_nodes() {
    outgrows("OXLAN_MAX_NODES", "2", "--max-nodes");
}

#[test]
fn more_prefixes_than_max_routes() {
    outgrows("OXLAN_MAX_ROUTES", "5", "--max-routes");
}

/// An agent that cannot hold its cluster does not start.
#[test]
fn an_agent_does_not_start_with_a_cluster_that_is_too_large() {
    with_cluster(Shape::nodes(3), |cluster| {
        let node = &cluster.nodes[0];
        node.stop_agent()?;
        node.spawn_agent_with(&[("OXLAN_MAX_NODES", "1")])?;
        let ended = node.agent_ended()?;
        ensure!(!ended.success(), "it ended with {ended}");
        ensure!(node.log().contains("--max-nodes"), "{}", node.log());
        Ok(())
    });
}

/// Whether the node's problems speak of something, or wait until they do.
fn wait_for_problem(node: &Node, named: &str, wanted: bool) -> Result<()> {
    until_true(SOON, &format!("word of {named}, or none"), || {
        let problems = node.oxlan_json("status")?["problems"].to_string();
        Ok(problems.contains(named) == wanted)
    })
}

/// Two sets of next hops where there is room for one, and a set of more next hops than it can have.
#[test]
fn more_next_hops_than_there_is_room_for() {
    with_fabric(3, "", |fabric| {
        fabric.start()?;
        let [node, other] = [&fabric.nodes[0], &fabric.nodes[1]];
        restart_with(node, ("OXLAN_MAX_HOP_SETS", "1"))?;
        wait_for_problem(node, "next hops", false)?;
        let (a, b) = (node.add_pod("a")?, other.add_pod("b")?);
        let to = format!("{}/32 src {}", other.underlay, node.underlay);
        let route = |hops: &str| node.netns.run(&format!("ip route replace {to} {hops}"));
        let [left, right] = [0, 1].map(|at| router_v4(at, node.number));
        route(&format!(
            "nexthop via {left} weight 1 nexthop via {right} weight 3"
        ))?;
        wait_for_problem(node, "--max-hop-sets", true)?;
        b.addresses().try_for_each(|to| a.ping(to))?;

        node.netns.run(&format!("ip route del {to}"))?;
        wait_for_problem(node, "next hops", false)?;
        restart_with(node, ("OXLAN_MAX_HOP_SETS", "2"))?;
        let nine = (0..9).map(|at| format!("nexthop via 10.60.0.{} dev eth0 onlink", 100 + at));
        route(&nine.collect::<Vec<_>>().join(" "))?;
        wait_for_problem(node, "more than 8 equal next hops", true)
    });
}
