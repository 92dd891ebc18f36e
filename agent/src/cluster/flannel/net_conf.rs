//! Flannel's network configuration: the ConfigMap's `net-conf.json`, and etcd's `config`.
//!
//! As Flannel reads it (pkg/subnet/config.go): names in any case, IPv4 unless it is switched off.
//! Unlike Flannel, what is not understood is refused, not ignored.

mod backend;
mod fields;
mod subnets;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cluster::problem::{self, Problems};
use crate::cluster::{Dscp, Mode, Network, Problem};

pub use backend::Backend;
use fields::Fields;
pub use subnets::Subnets;

/// A configuration has some hundred bytes.
const LONGEST: usize = 64 << 10;

/// The network's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConf {
    /// What nodes get their pods' addresses from: one per family that is switched on, IPv4 first.
    pub families: Vec<Family>,
    /// How packets get from node to node.
    pub backend: Backend,
}

/// One family's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// The prefix that all pods come from.
    pub network: IpNet,
    /// Prefix length of a node's subnet, if it is given.
    len: Option<u8>,
    /// First subnet that is handed out, if it is given.
    min: Option<IpAddr>,
    /// The last one.
    max: Option<IpAddr>,
}

/// Why a network configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetConfError {
    /// It is no JSON.
    #[error("{place} is not JSON: it should hold Flannel's network configuration")]
    Syntax {
        /// Where it stands.
        place: String,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// It is far longer than any that makes sense.
    #[error("{place} has {length} bytes: at most {LONGEST} are read")]
    TooLong {
        /// Where it stands.
        place: String,
        /// Its length, bytes.
        length: usize,
    },
    /// It says something that cannot be, or that Oxlan cannot do.
    #[error("the network configuration in {place} cannot be used:{}", problem::list(.problems))]
    Invalid {
        /// Where it stands.
        place: String,
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
}

impl NetConf {
    /// Reads a configuration; `place` says in errors where it stands.
    ///
    /// # Errors
    /// When it is no JSON, or with everything in it that cannot be used.
    pub fn parse(text: &[u8], place: &str) -> Result<Self, NetConfError> {
        let place = place.to_owned();
        if text.len() > LONGEST {
            let length = text.len();
            return Err(NetConfError::TooLong { place, length });
        }
        let value = match serde_json::from_slice(text) {
            Ok(value) => value,
            Err(source) => return Err(NetConfError::Syntax { place, source }),
        };
        let mut problems = Problems::default();
        let read = Fields::of(value, "", &mut problems).map(|fields| read(fields, &mut problems));
        match (read, problems.into_vec()) {
            (Some(conf), problems) if problems.is_empty() => Ok(conf),
            (_, problems) => Err(NetConfError::Invalid { place, problems }),
        }
    }

    /// Prefixes that all pods of the cluster come from: one per family, IPv4 first.
    #[must_use]
    pub fn pod_cidrs(&self) -> Vec<IpNet> {
        self.families.iter().map(|f| f.network).collect()
    }

    /// What it says of the network, in the words of every source.
    #[must_use]
    pub fn network(&self) -> Network {
        Network {
            pod_cidrs: self.pod_cidrs(),
            vni: self.backend.vni,
            port: self.backend.port,
            dscp: Dscp::default(),
            mode: if self.backend.direct_routing {
                Mode::Auto
            } else {
                Mode::Vxlan
            },
        }
    }

    /// The subnets that are handed out, for who does that: with Kubernetes it is not Flannel.
    ///
    /// # Errors
    /// When the lengths and limits do not fit the networks.
    pub fn subnets(&self, place: &str) -> Result<Vec<Subnets>, NetConfError> {
        let mut problems = Problems::default();
        let all = self.families.iter();
        let all: Vec<Subnets> = all.filter_map(|f| Subnets::new(f, &mut problems)).collect();
        match problems.into_vec() {
            none if none.is_empty() => Ok(all),
            problems => Err(NetConfError::Invalid {
                place: place.to_owned(),
                problems,
            }),
        }
    }
}

fn read(mut fields: Fields, problems: &mut Problems) -> NetConf {
    let v4 = fields.flag("EnableIPv4", true, problems);
    let v6 = fields.flag("EnableIPv6", false, problems);
    // What Flannel makes its rules with; Oxlan's are always nftables'.
    fields.flag("EnableNFTables", false, problems);
    if !v4 && !v6 {
        problems.value(
            "EnableIPv4",
            "false",
            "true is wanted, or EnableIPv6 = true: without a family there are no addresses",
        );
    }
    let first = family(&mut fields, "", v4, problems);
    let second = family(&mut fields, "IPv6", v6, problems);
    let backend = backend::read(&mut fields, problems);
    fields.reject_others(problems);
    NetConf {
        families: first.into_iter().chain(second).collect(),
        backend,
    }
}

/// The fields of one family; those of one that is switched off are read, too, so that they are known.
fn family(
    fields: &mut Fields,
    prefix: &str,
    enabled: bool,
    problems: &mut Problems,
) -> Option<Family> {
    let is_v4 = prefix.is_empty();
    let mut ignored = Problems::default();
    let problems = if enabled { problems } else { &mut ignored };
    let name = |field: &str| format!("{prefix}{field}");
    let longest = if is_v4 { 30 } else { 126 };
    let network = fields.prefix(&name("Network"), is_v4, enabled, problems);
    let len = fields.number(&name("SubnetLen"), 0..=longest, problems);
    let min = fields.address(&name("SubnetMin"), is_v4, problems);
    let max = fields.address(&name("SubnetMax"), is_v4, problems);
    network.filter(|_| enabled).map(|network| Family {
        network,
        len: len.filter(|len| *len > 0).and_then(|n| n.try_into().ok()),
        min,
        max,
    })
}

#[cfg(test)]
mod tests;
