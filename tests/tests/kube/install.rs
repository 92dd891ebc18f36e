//! The manifest on a new cluster, and what a user does with such a cluster.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use oxlan_tests::kubelab::{Lab, MINUTE, Pod, Steps};
use oxlan_tests::wait::{SOON, until, until_true};
use serde_json::json;

use crate::{deploy, import_image, life, outage, services, uninstall};

/// The pods that all steps use: two on each node.
pub(super) struct Pods {
    pub(super) client: [Pod; 2],
    pub(super) web: [Pod; 2],
}

pub(super) fn scenario(steps: &mut Steps, directory: &Path) -> Result<()> {
    let lab = steps.step("kube::install::cluster", || {
        let lab = Lab::up(directory, "--cni-conf none")?;
        import_image(&lab)?;
        Ok(lab)
    })?;
    let lab = &lab;
    steps.step("kube::install::not_ready_before_add_can_work", || {
        waits(lab)
    })?;
    steps.step("kube::install::ready", || becomes_ready(lab))?;
    let _ = steps.step("kube::install::rights_are_the_least", || rights(lab));
    let pods = steps.step("kube::install::pods_across_nodes", || pods(lab))?;
    services::steps(steps, lab, &pods);
    life::steps(steps, lab, &pods);
    outage::steps(steps, lab, &pods);
    uninstall::steps(steps, lab);
    Ok(())
}

/// Without its rights the agent waits. It lives, the plugin is there, and nobody thinks that pods can come.
fn waits(lab: &Lab) -> Result<()> {
    let manifest = std::fs::read_to_string(deploy("oxlan.yaml"))?;
    let binding = "\nkind: ClusterRoleBinding\n";
    let parts: Vec<&str> = manifest.split("\n---\n").collect();
    let parts: Vec<&str> = parts
        .into_iter()
        .filter(|part| !part.contains(binding))
        .collect();
    lab.apply(&parts.join("\n---\n"))?;
    for node in [1, 2] {
        let probe = |path: &str| {
            let status = "-s -o /dev/null -w %{http_code}";
            lab.node(node, &format!("curl {status} http://127.0.0.1:8472/{path}"))
        };
        until(MINUTE, "living agent", || {
            let live = probe("livez")?;
            ensure!(live == "200", "{live}");
            Ok(())
        })?;
        let ready = probe("readyz")?;
        ensure!(ready == "503", "{ready}");
        lab.node(node, "test -x /opt/cni/bin/oxlan-cni")?;
        let found = lab.node(node, "ls /etc/cni/net.d")?;
        ensure!(found.is_empty(), "there is {found}");
        ensure!(
            !lab.is_ready(node)?,
            "node {node} is ready without a network"
        );
    }
    Ok(())
}

fn becomes_ready(lab: &Lab) -> Result<()> {
    lab.kubectl(&format!("apply -f {}", deploy("oxlan.yaml").display()))?;
    lab.rolled_out("oxlan")?;
    lab.nodes_ready()?;
    for node in [1, 2] {
        let status = lab.agent(node, "status")?;
        let source = status["source"].as_str().unwrap_or_default();
        ensure!(
            source.starts_with("kube https://10.96.0.1"),
            "not by the service account: {source}"
        );
        until_true(SOON, "status without problems", || {
            Ok(lab.agent(node, "status")?["problems"] == json!([]))
        })?;
    }
    Ok(())
}

fn rights(lab: &Lab) -> Result<()> {
    let can = |verb: &str, what: &str| {
        let what = what.replace('/', " --subresource=");
        let as_agent = "--as=system:serviceaccount:oxlan:oxlan";
        let said = lab.kubectl(&format!("auth can-i {verb} {what} {as_agent}"));
        said.is_ok_and(|said| said.trim() == "yes")
    };
    for (verb, what, may) in [
        ("list", "nodes", true),
        ("watch", "nodes", true),
        ("patch", "nodes/status", true),
        ("patch", "nodes", false),
        ("update", "nodes/status", false),
        ("delete", "nodes", false),
        ("list", "pods", false),
        ("get", "secrets", false),
    ] {
        ensure!(can(verb, what) == may, "{verb} {what}: not {may}");
    }
    Ok(())
}

fn pods(lab: &Lab) -> Result<Pods> {
    let plain = || json!({});
    let all = lab.pods([
        ("client-1", 1, plain()),
        ("client-2", 2, plain()),
        ("web-1", 1, plain()),
        ("web-2", 2, plain()),
    ])?;
    for one in &all {
        for other in all.iter().filter(|other| other.name != one.name) {
            one.is_seen_by(other)?;
        }
        // As the kubelet asks them, and from the other node.
        for node in [1, 2] {
            lab.node(
                node,
                &format!("curl -sSf -m 5 http://{}/hostname", one.address),
            )
            .with_context(|| format!("node {node} to {}", one.name))?;
        }
    }
    let [client_1, client_2, web_1, web_2] = all;
    Ok(Pods {
        client: [client_1, client_2],
        web: [web_1, web_2],
    })
}
