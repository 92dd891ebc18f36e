//! Services by a real kube-proxy, and ports of the host.

use anyhow::{Context, Result, ensure};
use oxlan_tests::kubelab::{Lab, MINUTE, OUTSIDE, Steps};
use oxlan_tests::netns::Netns;
use oxlan_tests::wait::until;
use serde_json::{Value, json};

use crate::install::Pods;

/// Connections per check, each a flow of its own.
const CONNECTIONS: u32 = 10;

pub(super) fn steps(steps: &mut Steps, lab: &Lab, pods: &Pods) {
    let _ = steps.step("kube::install::cluster_ip", || cluster_ip(lab, pods));
    let _ = steps.step("kube::install::node_port_cluster", || {
        node_port_cluster(lab)
    });
    let _ = steps.step("kube::install::node_port_local", || node_port_local(lab));
    let _ = steps.step("kube::install::host_port", || host_port(lab, pods));
}

/// A service of one pod on port 80, TCP and UDP; the object as the server has it.
fn service(lab: &Lab, name: &str, app: &str, more: &Value) -> Result<Value> {
    let mut spec = json!({
        "selector": {"app": app},
        "ports": [{"name": "tcp", "port": 80}, {"name": "udp", "port": 80, "protocol": "UDP"}],
    });
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    let object =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    lab.apply(&object.to_string())?;
    lab.get(&format!("service {name}"))
}

fn cluster_ip(lab: &Lab, pods: &Pods) -> Result<()> {
    for web in &pods.web {
        let made = service(lab, &web.name, &web.name, &json!({}))?;
        let address = made["spec"]["clusterIP"].as_str().context("no address")?;
        for client in pods.client.iter().chain([web]) {
            let url = format!("http://{address}/hostname");
            until(MINUTE, "rules of kube-proxy", || client.asks(&url))?;
            for _ in 0..CONNECTIONS {
                let said = client
                    .asks(&url)
                    .with_context(|| format!("{} to the service of {}", client.name, web.name))?;
                ensure!(said == web.name, "{said} answers for {}", web.name);
            }
            if client.name != web.name {
                // kube-proxy masquerades only what a pod sends to itself.
                let seen = client.asks(&format!("http://{address}/clientip"))?;
                let own = format!("{}:", client.address);
                ensure!(seen.starts_with(&own), "{} is seen as {seen}", client.name);
                let to = (address.parse::<std::net::IpAddr>()?, 80).into();
                let said = client.asks_by_udp(to, "hostname")?;
                ensure!(said == web.name, "by UDP {said:?} answers for {}", web.name);
            }
        }
    }
    Ok(())
}

/// What a node port answers to somebody outside.
fn from_outside(node: u8, port: u64, path: &str) -> Result<String> {
    Netns::existing("kcp").run(&format!(
        "curl -sSf -m 3 http://10.99.0.{node}:{port}/{path}"
    ))
}

fn node_port(lab: &Lab, policy: &str) -> Result<u64> {
    let name = format!("port-{}", policy.to_lowercase());
    let more = json!({"type": "NodePort", "externalTrafficPolicy": policy});
    let made = service(lab, &name, "web-2", &more)?;
    made["spec"]["ports"][0]["nodePort"]
        .as_u64()
        .context("no port")
}

fn node_port_cluster(lab: &Lab) -> Result<()> {
    let port = node_port(lab, "Cluster")?;
    for node in [1, 2] {
        until(MINUTE, "rules of kube-proxy", || {
            from_outside(node, port, "hostname")
        })?;
        for _ in 0..CONNECTIONS {
            let said = from_outside(node, port, "hostname")?;
            ensure!(said == "web-2", "{said} answers on node {node}");
        }
    }
    Ok(())
}

/// Only the pod's node answers, and the pod sees who asks.
fn node_port_local(lab: &Lab) -> Result<()> {
    let port = node_port(lab, "Local")?;
    until(MINUTE, "rules of kube-proxy", || {
        from_outside(2, port, "hostname")
    })?;
    for _ in 0..CONNECTIONS {
        let seen = from_outside(2, port, "clientip")?;
        ensure!(seen.starts_with(OUTSIDE), "who asks is seen as {seen}");
    }
    let other = from_outside(1, port, "hostname");
    ensure!(other.is_err(), "node 1 has no such pod, but says {other:?}");
    Ok(())
}

fn host_port(lab: &Lab, pods: &Pods) -> Result<()> {
    let ports = json!({"ports": [
        {"containerPort": 80, "hostPort": 8088},
        {"containerPort": 80, "hostPort": 8088, "protocol": "UDP"},
    ]});
    let [published] = lab.pods([("published", 1, ports)])?;
    let url = "http://10.99.0.1:8088/hostname";
    let outside = from_outside(1, 8088, "hostname")?;
    let node = lab.node(1, "curl -sSf -m 3 http://127.0.0.1:8088/hostname")?;
    let other_node = lab.node(2, &format!("curl -sSf -m 3 {url}"))?;
    for (who, said) in [
        ("outside", outside),
        ("the node", node),
        ("node 2", other_node),
    ] {
        ensure!(said == "published", "{said} answers {who}");
    }
    for pod in pods.client.iter().chain([&published]) {
        let said = pod.asks(url)?;
        ensure!(said == "published", "{said} answers {}", pod.name);
    }
    lab.delete_pod(&published)?;
    let gone = from_outside(1, 8088, "hostname");
    ensure!(gone.is_err(), "without the pod, {gone:?} answers");
    Ok(())
}
