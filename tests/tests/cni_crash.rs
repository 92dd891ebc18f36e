//! A real agent dies after each step of ADD and DEL. Its successor puts the node in order, and the
//! runtime, which had no answer, gets on.

#![cfg(test)]

use std::os::unix::process::ExitStatusExt;

use anyhow::{Context, Result, ensure};
use nix::libc::SIGABRT;
use oxlan::cni::code;
use oxlan::pods::{CRASH_AT, Step};
use oxlan_tests::cluster::{Shape, with_cluster};
use oxlan_tests::netns::Netns;
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::traces;

/// Starts an agent that dies at `step`, lets the plugin call `verb`, and sees the agent die.
fn crash(node: &Node, step: Step, verb: &str, netns: &Netns) -> Result<()> {
    node.spawn_agent_with(&[(CRASH_AT, step.name())])?;
    node.wait_ready()?;
    let (code, message) = node.cni(verb, netns.name(), netns)?.error()?;
    ensure!(code == u64::from(code::TRY_AGAIN), "{code}: {message}");
    let status = node.agent_ended()?;
    ensure!(
        status.signal() == Some(SIGABRT),
        "the agent ended with {status}"
    );
    Ok(())
}

fn expect_no_trace(node: &Node, of: &str) -> Result<()> {
    let traces = traces::of_pods(node)?;
    ensure!(traces.is_empty(), "left {of}: {traces:#?}");
    Ok(())
}

fn is_add(step: Step) -> bool {
    step <= Step::AddReady
}

#[test]
fn an_add_that_was_cut_short_leaves_nothing() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        node.stop_agent()?;
        for step in Step::ALL.iter().copied().filter(|step| is_add(*step)) {
            add_cut_short(node, step).with_context(|| format!("at {}", step.name()))?;
        }
        node.start_agent()
    });
}

fn add_cut_short(node: &Node, step: Step) -> Result<()> {
    let netns = node.pod_netns(step.name())?;
    crash(node, step, "ADD", &netns)?;
    node.start_agent()?;
    if step == Step::AddReady {
        // It is complete, only nobody was told: the runtime's DEL takes it away.
        ensure!(node.oxlan_json("pods")?[0]["phase"] == "ready");
    } else {
        expect_no_trace(node, "by the ADD")?;
        ensure!(
            netns.run("ip -o link show")?.lines().count() == 1,
            "an interface is left"
        );
    }
    node.cni("DEL", netns.name(), &netns)?.result()?;
    expect_no_trace(node, "after DEL")?;

    let result = node.cni("ADD", netns.name(), &netns)?.result()?;
    let pod = Pod::from_result(netns.clone(), netns.name(), result)?;
    pod.netns.run("ping -n -q -c 1 -W 2 10.244.1.0")?;
    node.delete_pod(&pod)?;
    expect_no_trace(node, "in the end")?;
    node.stop_agent()
}

#[test]
fn a_del_that_was_cut_short_is_finished() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let (kept, other) = (node.add_pod("kept")?, node.add_pod("other")?);
        for step in Step::ALL.iter().copied().filter(|step| !is_add(*step)) {
            let pod = node.add_pod(step.name())?;
            node.stop_agent()?;
            crash(node, step, "DEL", &pod.netns)
                .and_then(|()| kept.ping(other.ipv4()?.into()))
                .with_context(|| format!("at {}", step.name()))?;
            // The runtime tries again at once: without an agent that is success.
            node.cni("DEL", &pod.container, &pod.netns)?.result()?;
            node.start_agent()?;
            let rows = node.oxlan_json("pods")?;
            ensure!(
                rows.as_array().is_some_and(|rows| rows.len() == 2),
                "{rows}"
            );
            kept.ping(other.ipv6()?.into())?;
            pod.netns.delete()?;
        }
        node.delete_pod(&kept)?;
        node.delete_pod(&other)?;
        expect_no_trace(node, "in the end")
    });
}
