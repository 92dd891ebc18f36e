//! Changes of the cluster while it is in use: agents are replaced, a node goes and comes back.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oxlan_tests::kubelab::{Lab, MINUTE, Steps};
use oxlan_tests::traffic::udp_stream::UdpStream;
use oxlan_tests::wait::until_true;
use serde_json::{Value, json};

use crate::install::Pods;

/// Between the datagrams of a stream.
const INTERVAL: Duration = Duration::from_millis(1);

pub(super) fn steps(steps: &mut Steps, lab: &Lab, pods: &Pods) {
    let _ = steps.step("kube::install::rolling_restart", || {
        loses_nothing(lab, pods, &["rollout restart daemonset oxlan"])
    });
    let _ = steps.step("kube::install::upgraded_and_back", || {
        upgraded_and_back(lab, pods)
    });
    let _ = steps.step("kube::install::node_deleted_and_added", || {
        node_deleted_and_added(lab, pods)
    });
}

/// The agents' pods.
fn agents(lab: &Lab) -> Result<BTreeSet<String>> {
    let names = lab.kubectl("-n oxlan get pods -l app.kubernetes.io/name=oxlan -o name")?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// Another image and back to the first, as docs/INSTALL.md has it.
fn upgraded_and_back(lab: &Lab, pods: &Pods) -> Result<()> {
    let daemonset = lab.get("-n oxlan daemonset oxlan")?;
    let containers = &daemonset["spec"]["template"]["spec"]["containers"];
    let image = containers[0]["image"].as_str().context("no image")?;
    let (name, _) = image.rsplit_once(':').context("no tag")?;
    for node in [1, 2] {
        let tag = format!("ctr -n k8s.io images tag --force {image} {name}:next");
        lab.node(node, &tag)?;
    }
    let set = format!("set image daemonset oxlan agent={name}:next install-cni={name}:next");
    loses_nothing(lab, pods, &[&set, "rollout undo daemonset oxlan"])?;
    let again = lab.get("-n oxlan daemonset oxlan")?;
    ensure!(&again["spec"]["template"]["spec"]["containers"][0]["image"] == image);
    Ok(())
}

/// Commands after each of which every agent is replaced: pods do not notice.
fn loses_nothing(lab: &Lab, pods: &Pods, commands: &[&str]) -> Result<()> {
    let streams = [
        UdpStream::start(pods.client[0].end(), pods.web[1].end(), INTERVAL)?,
        UdpStream::start(pods.web[1].end(), pods.client[0].end(), INTERVAL)?,
        UdpStream::start(pods.client[0].end(), pods.web[0].end(), INTERVAL)?,
    ];
    for command in commands {
        let before = agents(lab)?;
        lab.kubectl(&format!("-n oxlan {command}"))?;
        lab.rolled_out("oxlan")?;
        let after = agents(lab)?;
        ensure!(
            before.is_disjoint(&after) && after.len() == 2,
            "after {command} {before:?} became {after:?}"
        );
    }
    for stream in streams {
        stream.wait_for_more(100)?;
        stream.finish()?.expect_perfect(1000)?;
    }
    lab.nodes_ready()
}

/// What another node's agent knows of node 2.
fn is_known(lab: &Lab) -> Result<bool> {
    let nodes = lab.agent(1, "nodes")?;
    let nodes = nodes.as_array().context("no list")?;
    Ok(nodes.iter().any(|node| node["name"] == "kn2"))
}

fn node_deleted_and_added(lab: &Lab, pods: &Pods) -> Result<()> {
    let node = lab.get("node kn2")?;
    lab.kubectl("delete node kn2")?;
    until_true(MINUTE, "node 1 without node 2", || Ok(!is_known(lab)?))?;
    let refused = pods.client[0].asks(&format!("http://{}/hostname", pods.web[1].address));
    ensure!(
        refused.is_err(),
        "who is no node is still reached: {refused:?}"
    );
    // A kubelet registers its node only when it starts.
    let again = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "kn2", "labels": node["metadata"]["labels"]},
        "spec": {"podCIDR": node["spec"]["podCIDR"], "podCIDRs": node["spec"]["podCIDRs"]},
    });
    lab.apply(&again.to_string())?;
    until_true(MINUTE, "node 2 in the list of node 1", || is_known(lab))?;
    lab.rolled_out("oxlan")?;
    lab.nodes_ready()?;
    let [back] = lab.pods([("back", 2, Value::Null)])?;
    pods.client[0].is_seen_by(&back)?;
    back.is_seen_by(&pods.client[0])?;
    lab.delete_pod(&back)
}
