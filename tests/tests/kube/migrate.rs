//! Flannel and Oxlan in one cluster, and the move of a node from one to the other and back,
//! as docs/MIGRATE.md describes it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use oxlan_tests::kubelab::{FLANNEL_CONFLIST, Lab, MINUTE, Pod, Steps};
use oxlan_tests::traffic::udp_stream::UdpStream;
use oxlan_tests::wait::{until, until_true};
use serde_json::Value;

use crate::{deploy, import_image, uninstall};

/// Between the datagrams of a stream.
const INTERVAL: Duration = Duration::from_millis(2);

/// Node 1 moves, node 2 has Oxlan all the time, node 3 Flannel.
const MOVING: u8 = 1;
const NODES: [u8; 3] = [1, 2, 3];

/// Pods of the nodes that stay as they are.
struct Staying {
    oxlan: Pod,
    flannel: Pod,
}

pub(super) fn scenario(steps: &mut Steps, directory: &Path) -> Result<()> {
    let lab = steps.step("kube::migrate::flannel_cluster", || {
        flannel_cluster(directory)
    })?;
    let lab = &lab;
    let staying = steps.step("kube::migrate::first_node_has_oxlan", || first_node(lab))?;
    let streams = steps.step("kube::migrate::traffic_between_both", || {
        let (oxlan, flannel) = (staying.oxlan.end(), staying.flannel.end());
        Ok([
            UdpStream::start(oxlan, flannel, INTERVAL)?,
            UdpStream::start(flannel, oxlan, INTERVAL)?,
        ])
    })?;
    let moved = steps.step("kube::migrate::a_node_moves", || moves(lab, &staying));
    let _ = moved.and_then(|()| steps.step("kube::migrate::and_goes_back", || back(lab, &staying)));
    let _ = steps.step("kube::migrate::others_lost_nothing", || {
        for stream in streams {
            stream.wait_for_more(100)?;
            stream.finish()?.expect_perfect(5000)?;
        }
        Ok(())
    });
    let _ = steps.step("kube::migrate::after_the_last_node", || last_nodes(lab));
    Ok(())
}

fn mac(node: u8) -> String {
    format!("02:f1:a0:00:00:{node:02x}")
}

fn flannel_cluster(directory: &Path) -> Result<Lab> {
    let conf = tempdir()?;
    std::fs::write(conf.join("10-flannel.conflist"), FLANNEL_CONFLIST)?;
    let lab = Lab::up(
        directory,
        &format!("--nodes 3 --cni-conf {}", conf.display()),
    );
    std::fs::remove_dir_all(&conf)?;
    let lab = lab?;
    import_image(&lab)?;
    for node in NODES {
        lab.flannel_starts(node, &mac(node))?;
    }
    for node in NODES {
        for peer in NODES.into_iter().filter(|peer| *peer != node) {
            lab.flannel_learns(node, peer)?;
        }
    }
    let plain = || Value::Null;
    let pods = lab.pods([
        ("old-1", 1, plain()),
        ("old-2", 2, plain()),
        ("old-3", 3, plain()),
    ])?;
    for pod in &pods {
        for other in pods.iter().filter(|other| other.name != pod.name) {
            pod.is_seen_by(other)?;
        }
    }
    Ok(lab)
}

/// A directory for what is read before the cluster has one.
fn tempdir() -> Result<std::path::PathBuf> {
    let path = std::env::temp_dir().join(format!("oxlan-kube-{}", std::process::id()));
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

/// What the documents say for a node: drained, Flannel's daemon and devices gone, Oxlan there, in use again.
fn to_oxlan(lab: &Lab, node: u8) -> Result<()> {
    let name = format!("kn{node}");
    lab.kubectl(&format!(
        "drain {name} --ignore-daemonsets --force --timeout=60s"
    ))?;
    lab.kubectl(&format!("label node {name} pod-network=none --overwrite"))?;
    for line in [
        "ip link delete flannel.1",
        "ip link delete cni0",
        "iptables -w -t nat -D POSTROUTING -j FLANNEL-POSTRTG",
        "iptables -w -t nat -F FLANNEL-POSTRTG",
        "iptables -w -t nat -X FLANNEL-POSTRTG",
    ] {
        lab.node(node, line)?;
    }
    lab.kubectl(&format!("label node {name} pod-network=oxlan --overwrite"))?;
    until_true(MINUTE, "agent on the node", || {
        Ok(lab.agent(node, "status")?["health"]["state"] == "ready")
    })?;
    until(MINUTE, "configuration of Oxlan", || {
        lab.node(node, "test -e /etc/cni/net.d/05-oxlan.conflist")
    })?;
    lab.rolled_out("oxlan")?;
    lab.kubectl(&format!("uncordon {name}")).map(drop)
}

fn first_node(lab: &Lab) -> Result<Staying> {
    let overlay = deploy("kustomize/beside-flannel").display().to_string();
    lab.kubectl(&format!("apply -k {overlay}"))?;
    let before = lab.vtep_mac(2)?;
    to_oxlan(lab, 2)?;
    let after = lab.vtep_mac(2)?;
    ensure!(
        after == before,
        "the others know {before}, and node 2 has {after} now"
    );
    let plain = Value::Null;
    let [oxlan, flannel] = lab.pods([("oxlan-2", 2, plain.clone()), ("flannel-3", 3, plain)])?;
    reach_each_other(&oxlan, &flannel)?;
    reach_each_other(&oxlan, &lab.pod("old-1")?)?;
    Ok(Staying { oxlan, flannel })
}

fn reach_each_other(one: &Pod, other: &Pod) -> Result<()> {
    one.is_seen_by(other)?;
    other.is_seen_by(one)
}

/// A new pod of the moving node and those that stay reach each other, in pairs, from the nodes, too.
fn works(lab: &Lab, name: &str, staying: &Staying) -> Result<Pod> {
    let [new] = lab.pods([(name, MOVING, Value::Null)])?;
    for other in [&staying.oxlan, &staying.flannel] {
        reach_each_other(&new, other)?;
        for (node, pod) in [(MOVING, other), (other.node, &new)] {
            lab.node(
                node,
                &format!("curl -sSf -m 5 http://{}/hostname", pod.address),
            )?;
        }
    }
    Ok(new)
}

fn moves(lab: &Lab, staying: &Staying) -> Result<()> {
    to_oxlan(lab, MOVING)?;
    ensure!(
        lab.vtep_mac(MOVING)? == mac(MOVING),
        "the node's MAC has changed"
    );
    works(lab, "moved", staying)?;
    let pods = lab.agent(MOVING, "pods")?;
    let names: Vec<_> = pods
        .as_array()
        .into_iter()
        .flatten()
        .map(|pod| &pod["name"])
        .collect();
    ensure!(
        names.iter().any(|name| *name == "moved"),
        "it is not Oxlan's: {names:?}"
    );
    Ok(())
}

fn back(lab: &Lab, staying: &Staying) -> Result<()> {
    let name = format!("kn{MOVING}");
    lab.kubectl(&format!(
        "drain {name} --ignore-daemonsets --force --timeout=60s"
    ))?;
    lab.kubectl(&format!("label node {name} pod-network=none --overwrite"))?;
    until_true(MINUTE, "end of the agent", || {
        Ok(lab.agent(MOVING, "status").is_err())
    })?;
    uninstall::uninstall(lab)?;
    uninstall::expect_clean(lab, MOVING)?;
    // Nodes with the label keep it.
    ensure!(
        lab.agent(2, "status")?["health"]["state"] == "ready",
        "node 2 lost Oxlan"
    );
    lab.kubectl(&format!("label node {name} pod-network-"))?;
    lab.flannel_starts(MOVING, &mac(MOVING))?;
    for peer in [2, 3] {
        lab.flannel_learns(MOVING, peer)?;
    }
    lab.nodes_ready()?;
    lab.kubectl(&format!("uncordon {name}"))?;
    let pod = works(lab, "back", staying)?;
    let bridge = lab.node(MOVING, "ip -o link show master cni0")?;
    ensure!(
        !bridge.is_empty(),
        "{} is not on Flannel's bridge",
        pod.name
    );
    Ok(())
}

/// The other nodes move, too, and then nothing is special about any of them.
fn last_nodes(lab: &Lab) -> Result<()> {
    for node in [MOVING, 3] {
        to_oxlan(lab, node)?;
    }
    lab.kubectl(&format!("apply -f {}", deploy("oxlan.yaml").display()))?;
    let daemonset = lab.get("-n oxlan daemonset oxlan")?;
    let selector = &daemonset["spec"]["template"]["spec"]["nodeSelector"];
    ensure!(selector.get("pod-network").is_none(), "{selector}");
    lab.kubectl("label node --all pod-network-")?;
    lab.rolled_out("oxlan")?;
    lab.nodes_ready()?;
    let plain = || Value::Null;
    let pods = lab.pods([
        ("all-1", 1, plain()),
        ("all-2", 2, plain()),
        ("all-3", 3, plain()),
    ])?;
    for (pod, node) in pods.iter().zip(NODES) {
        ensure!(lab.agent(node, "status")?["health"]["state"] == "ready");
        for other in pods.iter().filter(|other| other.name != pod.name) {
            pod.is_seen_by(other)?;
        }
    }
    Ok(())
}
