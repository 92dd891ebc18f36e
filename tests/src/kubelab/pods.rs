//! Pods of the cluster, with their namespaces within reach of the tests.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Lab, MINUTE};
use crate::netns::Netns;
use crate::traffic::End;
use crate::wait::until;

/// The image of all pods: web server, `curl` and more.
pub const IMAGE: &str = "localhost/kubelab/agnhost:2.21";

/// A running pod that answers `GET /clientip` and `GET /hostname` on port 80.
#[derive(Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// The number of its node.
    pub node: u8,
    /// Its address.
    pub address: IpAddr,
    /// Its namespace.
    pub netns: Netns,
}

impl Pod {
    /// An end for traffic.
    #[must_use]
    pub fn end(&self) -> End<'_> {
        End::new(&self.netns, self.address)
    }

    /// What a web server says that this pod asks.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn asks(&self, url: &str) -> Result<String> {
        asks(&self.netns, url)
    }

    /// What somebody answers to this text by UDP.
    ///
    /// # Errors
    /// If nothing comes back within some seconds.
    pub fn asks_by_udp(&self, to: SocketAddr, text: &str) -> Result<String> {
        let socket = self.end().udp()?;
        socket.send_to(text.as_bytes(), to)?;
        let mut answer = [0; 1500];
        let length = socket
            .recv(&mut answer)
            .with_context(|| format!("no answer of {to}"))?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    /// Asks another pod who it sees, and fails if that is not this pod's own address.
    ///
    /// # Errors
    /// As said.
    pub fn is_seen_by(&self, other: &Self) -> Result<()> {
        let seen = self.asks(&format!("http://{}/clientip", other.address))?;
        let own = seen.rsplit_once(':').map(|(address, _)| address.to_owned());
        ensure!(
            own == Some(self.address.to_string()),
            "{} sees {seen} instead of {} of {}",
            other.name,
            self.address,
            self.name
        );
        Ok(())
    }
}

/// What a web server says to somebody in this namespace.
///
/// # Errors
/// If it does not answer within some seconds.
pub(super) fn asks(netns: &Netns, url: &str) -> Result<String> {
    netns.run(&format!(
        "curl --silent --show-error --fail --max-time 5 {url}"
    ))
}

impl Lab {
    /// Starts pods on nodes, by name, number of the node and what differs from the plain one's only
    /// container, and waits for them.
    ///
    /// # Errors
    /// If one does not become ready.
    pub fn pods<const N: usize>(&self, wanted: [(&str, u8, Value); N]) -> Result<[Pod; N]> {
        let manifests: Vec<Value> = wanted
            .iter()
            .map(|(name, node, container)| manifest(name, *node, container))
            .collect();
        self.apply(&json!({"apiVersion": "v1", "kind": "List", "items": manifests}).to_string())?;
        let mut pods = Vec::new();
        for (name, ..) in &wanted {
            pods.push(self.pod(name)?);
        }
        pods.try_into().ok().context("pods were lost")
    }

    /// A pod, once it is ready.
    ///
    /// # Errors
    /// If it does not become ready in time; the text tells its state.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let ready = self.kubectl(&format!(
            "wait --for=condition=Ready pod {name} --timeout=60s"
        ));
        ready.with_context(|| {
            let described = self.kubectl(&format!("describe pod {name}"));
            described.unwrap_or_else(|error| format!("{error:#}"))
        })?;
        until(MINUTE, "running pod", || self.running(name))
    }

    /// Removes a pod and waits until it is gone.
    ///
    /// # Errors
    /// If it stays.
    pub fn delete_pod(&self, pod: &Pod) -> Result<()> {
        pod.netns.delete()?;
        self.kubectl(&format!(
            "delete pod {} --grace-period=1 --timeout=60s",
            pod.name
        ))
        .map(drop)
    }

    fn running(&self, name: &str) -> Result<Pod> {
        let object = self.get(&format!("pod {name}"))?;
        let status = &object["status"];
        let node = object["spec"]["nodeName"]
            .as_str()
            .and_then(|name| name.strip_prefix("kn"));
        let node = node.context("no node")?.parse()?;
        let container = status["containerStatuses"][0]["containerID"].as_str();
        let container = container.and_then(|id| id.strip_prefix("containerd://"));
        let pid = self.process(node, container.context("no container")?)?;
        let name_of_netns = format!("{}-{name}", self.scope.prefix());
        let known = Netns::existing(&name_of_netns);
        if known.path().exists() {
            // Of an earlier look, maybe at an earlier pod of this name.
            known.delete()?;
        }
        Ok(Pod {
            name: name.to_owned(),
            node,
            address: status["podIP"].as_str().context("no address")?.parse()?,
            netns: Netns::of_process(&name_of_netns, pid)?,
        })
    }

    /// The process of a container.
    fn process(&self, node: u8, container: &str) -> Result<u32> {
        let tasks = self.node(node, "ctr -n k8s.io tasks ls")?;
        let line = tasks.lines().find(|line| line.starts_with(container));
        let pid = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(pid
            .with_context(|| format!("no task of {container} in {tasks}"))?
            .parse()?)
    }

    /// The process of a pod's sandbox, whose end is the end of its network.
    ///
    /// # Errors
    /// If there is none.
    pub fn sandbox(&self, pod: &Pod) -> Result<i32> {
        let filter = format!("labels.\"io.kubernetes.pod.name\"=={}", pod.name);
        let containers = self.node(
            pod.node,
            &format!("ctr -n k8s.io containers ls -q {filter}"),
        )?;
        let tasks = self.node(pod.node, "ctr -n k8s.io tasks ls")?;
        for id in containers.split_whitespace() {
            let info = self.node(pod.node, &format!("ctr -n k8s.io containers info {id}"))?;
            let info: Value = serde_json::from_str(&info)?;
            if info["Labels"]["io.cri-containerd.kind"] == "sandbox"
                && let Some(line) = tasks.lines().find(|line| line.starts_with(id))
            {
                let pid = line.split_whitespace().nth(1).context("no process")?;
                return Ok(pid.parse()?);
            }
        }
        anyhow::bail!("no sandbox of {} in {containers}", pod.name)
    }
}

fn manifest(name: &str, node: u8, container: &Value) -> Value {
    let mut plain = json!({
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "args": ["netexec", "--http-port=80", "--udp-port=80"],
        "readinessProbe": {"httpGet": {"path": "/hostname", "port": 80}, "periodSeconds": 1},
    });
    if let (Some(plain), Some(more)) = (plain.as_object_mut(), container.as_object()) {
        plain.extend(more.clone());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": format!("kn{node}"),
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [plain],
        },
    })
}
