//! The last good state of the cluster, in the form in which it is kept on disk.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterConfig, Network, NodeSpec, Vni, Vtep, assemble};

/// The file's form. Another number is another version's, which is not read.
const FORMAT: u32 = 1;

/// A state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    format: u32,
    /// Whose state it is: that of another cluster is of no use.
    source: String,
    /// When it was written (RFC 3339).
    pub(super) written: String,
    network: NetworkRecord,
    nodes: Vec<NodeRecord>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct NetworkRecord {
    pod_cidrs: Vec<IpNet>,
    vni: u32,
    port: u16,
    mode: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct NodeRecord {
    name: String,
    pod_cidrs: Vec<IpNet>,
    vteps: Vec<VtepRecord>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct VtepRecord {
    underlay: IpAddr,
    mac: String,
}

/// Why a state on disk cannot be started with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StateError {
    #[error("it has the form {0}, but {FORMAT} is wanted")]
    Format(u32),
    #[error("it is of {found}, not of {wanted}")]
    Source { found: String, wanted: String },
    #[error("there is no node {0:?} in it")]
    NoOwnNode(String),
    #[error("it cannot be right: {0}")]
    Wrong(String),
}

impl State {
    /// The state of `source` now.
    pub(super) fn new(config: &ClusterConfig, source: String, written: String) -> Self {
        let network = &config.network;
        Self {
            format: FORMAT,
            source,
            written,
            network: NetworkRecord {
                pod_cidrs: network.pod_cidrs.clone(),
                vni: network.vni.get(),
                port: network.port,
                mode: network.mode.to_string(),
            },
            nodes: config.nodes.iter().map(NodeRecord::from).collect(),
        }
    }

    /// The cluster, checked as if the source had said it, for somebody may have edited the file.
    pub(super) fn config(&self, source: &str, own: &str) -> Result<ClusterConfig, StateError> {
        if self.format != FORMAT {
            return Err(StateError::Format(self.format));
        }
        if self.source != source {
            return Err(StateError::Source {
                found: self.source.clone(),
                wanted: source.to_owned(),
            });
        }
        if self.nodes.iter().all(|n| n.name != own) {
            return Err(StateError::NoOwnNode(own.to_owned()));
        }
        let network = self.network.network()?;
        let specs: Result<Vec<NodeSpec>, StateError> =
            self.nodes.iter().map(NodeRecord::spec).collect();
        let first = |problem: &crate::cluster::Problem| StateError::Wrong(problem.to_string());
        let assembled = assemble(network, specs?);
        let (config, problems) =
            assembled.map_err(|p| p.first().map_or(StateError::Wrong(String::new()), first))?;
        problems.first().map_or(Ok(config), |p| Err(first(p)))
    }
}

impl NetworkRecord {
    fn network(&self) -> Result<Network, StateError> {
        let mode = self.mode.parse();
        Ok(Network {
            pod_cidrs: self.pod_cidrs.clone(),
            vni: Vni::new(self.vni).map_err(|e| StateError::Wrong(e.to_string()))?,
            port: self.port,
            dscp: crate::cluster::Dscp::default(),
            mode: mode.map_err(|_| StateError::Wrong(format!("mode {:?}", self.mode)))?,
        })
    }
}

impl NodeRecord {
    fn spec(&self) -> Result<NodeSpec, StateError> {
        let vtep = |v: &VtepRecord| {
            let mac = v.mac.parse();
            Ok(Vtep {
                underlay: v.underlay,
                mac: mac.map_err(|_| StateError::Wrong(format!("MAC {:?}", v.mac)))?,
            })
        };
        Ok(NodeSpec {
            name: self.name.clone(),
            pod_cidrs: self.pod_cidrs.clone(),
            vteps: self.vteps.iter().map(vtep).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&NodeSpec> for NodeRecord {
    fn from(node: &NodeSpec) -> Self {
        let vtep = |v: &Vtep| VtepRecord {
            underlay: v.underlay,
            mac: v.mac.to_string(),
        };
        Self {
            name: node.name.clone(),
            pod_cidrs: node.pod_cidrs.clone(),
            vteps: node.vteps.iter().map(vtep).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = r#"
[network]
pod_cidrs = ["10.244.0.0/16", "fd00:244::/48"]
vni = 7
mode = "auto"
[[node]]
name = "a"
pod_cidrs = ["10.244.1.0/24", "fd00:244:0:1::/64"]
underlay = ["192.0.2.1", "fd00::1"]
[[node]]
name = "b"
pod_cidrs = ["10.244.2.0/24"]
underlay = "192.0.2.2"
"#;

    fn text() -> String {
        let config = crate::cluster::parse(CLUSTER, "a").unwrap();
        let state = State::new(&config, "kube x".into(), "2026-01-02T03:04:05Z".into());
        serde_json::to_string(&state).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let state: State = serde_json::from_str(&text()).unwrap();
        assert_eq!(state.written, "2026-01-02T03:04:05Z");
        let read = state.config("kube x", "b").unwrap();
        assert_eq!(read, crate::cluster::parse(CLUSTER, "a").unwrap());
        let missing = state.config("kube x", "c").unwrap_err();
        assert_eq!(missing, StateError::NoOwnNode("c".into()));
    }

    #[test]
    fn a_state_that_cannot_be_right_is_refused() {
        for (from, to, said) in [
            ("\"format\":1", "\"format\":2", "the form 2"),
            ("kube x", "kube y", "of kube y, not of kube x"),
            ("10.244.2.0/24", "10.244.1.0/25", "overlaps"),
            ("10.244.2.0/24", "10.9.0.0/24", "outside the network's"),
            ("\"vni\":7", "\"vni\":16777216", "16777216"),
            ("\"auto\"", "\"warp\"", "warp"),
            ("0e:00:c0:00:02:02", "0e:00", "0e:00"),
        ] {
            let bad = text().replace(from, to);
            assert_ne!(bad, text(), "{from} is not there");
            let state: State = serde_json::from_str(&bad).unwrap();
            let error = state.config("kube x", "a").unwrap_err().to_string();
            assert!(error.contains(said), "{from} -> {to}: {error}");
        }
    }
}
