//! Oxlan leaves a cluster, and can come back.

use anyhow::{Result, ensure};
use oxlan_tests::kubelab::{Lab, MINUTE, Steps};
use oxlan_tests::wait::until_true;
use serde_json::Value;

use crate::deploy;

pub(super) fn steps(steps: &mut Steps, lab: &Lab) {
    let gone = steps.step("kube::install::uninstalled", || uninstalled(lab));
    let _ = gone.and_then(|()| steps.step("kube::install::installed_again", || again(lab)));
}

/// Runs `deploy/uninstall.yaml` to its end.
pub(super) fn uninstall(lab: &Lab) -> Result<()> {
    let manifest = deploy("uninstall.yaml").display().to_string();
    lab.kubectl(&format!("apply -f {manifest}"))?;
    lab.rolled_out("oxlan-uninstall")?;
    lab.kubectl(&format!("delete -f {manifest} --timeout=60s"))
        .map(drop)
}

/// Fails if a node has something of Oxlan that the documents do not name.
pub(super) fn expect_clean(lab: &Lab, node: u8) -> Result<()> {
    let links = lab.node(node, "ip -o link show")?;
    ensure!(!links.contains("oxl"), "node {node} has {links}");
    let routes = lab.node(node, "ip route show table all")?;
    ensure!(!routes.contains("oxlan0"), "node {node} has {routes}");
    for table in ["oxlan", "oxlan_ports"] {
        let left = lab.node(node, &format!("nft list table inet {table}"));
        ensure!(left.is_err(), "node {node} has {left:?}");
    }
    for gone in [
        "/etc/cni/net.d/05-oxlan.conflist",
        "/opt/cni/bin/oxlan-cni",
        "/sys/fs/bpf/oxlan",
    ] {
        lab.node(node, &format!("test ! -e {gone}"))?;
    }
    for empty in ["/var/lib/oxlan", "/run/oxlan"] {
        let left = lab.node(node, &format!("find {empty} -mindepth 1"))?;
        ensure!(left.is_empty(), "node {node} has {left}");
    }
    let filters = lab.node(node, "bpftool net show dev eth0")?;
    ensure!(
        !filters.contains("from_uplink"),
        "node {node} has {filters}"
    );
    Ok(())
}

fn uninstalled(lab: &Lab) -> Result<()> {
    lab.kubectl("delete pods --all --grace-period=1 --timeout=60s")?;
    lab.kubectl("-n oxlan delete daemonset oxlan --timeout=60s")?;
    uninstall(lab)?;
    for node in [1, 2] {
        expect_clean(lab, node)?;
        until_true(
            MINUTE,
            "node that is not ready",
            || Ok(!lab.is_ready(node)?),
        )?;
    }
    lab.kubectl(&format!(
        "delete --ignore-not-found --timeout=60s -f {}",
        deploy("oxlan.yaml").display()
    ))
    .map(drop)
}

fn again(lab: &Lab) -> Result<()> {
    lab.kubectl(&format!("apply -f {}", deploy("oxlan.yaml").display()))?;
    lab.rolled_out("oxlan")?;
    lab.nodes_ready()?;
    let [one, other] = lab.pods([("again-1", 1, Value::Null), ("again-2", 2, Value::Null)])?;
    one.is_seen_by(&other)
}
