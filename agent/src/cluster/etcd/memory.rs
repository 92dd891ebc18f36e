//! What must survive the agent: the own subnet, and the last state of the cluster for when etcd does not answer.

use serde::{Deserialize, Serialize};

use super::record::{Holder, Subnet};
use super::registry::{Entry, Registry};
use super::{EtcdError, Prefix};
use crate::cluster::flannel::NetConf;

/// The form on disk: keys and values as they stand in etcd.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Memory {
    /// What the keys began with: another network's memory says nothing about this one.
    prefix: String,
    config: String,
    /// Name of the own subnet's key.
    own: String,
    /// Names and values, the oldest first.
    subnets: Vec<(String, String)>,
}

/// The state of the network, as etcd said last.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// The network's configuration: its text and what it says.
    pub(super) text: Vec<u8>,
    pub(super) conf: NetConf,
    pub(super) registry: Registry,
    /// The own subnet.
    pub(super) own: Subnet,
    /// Name of its key.
    pub(super) own_name: String,
    /// What this node says of itself there, also while the key is gone.
    pub(super) announced: Holder,
}

impl Memory {
    pub(super) fn of(known: &Known, prefix: &Prefix) -> Self {
        let value = |entry: &Entry| entry.holder.as_ref().ok().map(Holder::to_text);
        let readable = known.registry.by_age().into_iter();
        // With its key gone the node has its subnet all the same until etcd says otherwise.
        let gone = known.registry.get(&known.own_name).is_none();
        let own = gone.then(|| (known.own_name.clone(), known.announced.to_text()));
        Self {
            prefix: prefix.as_str().to_owned(),
            config: String::from_utf8_lossy(&known.text).into_owned(),
            own: known.own_name.clone(),
            // What could not be read then cannot be read later.
            subnets: readable
                .filter_map(|(name, entry)| Some((name.to_owned(), value(entry)?)))
                .chain(own)
                .collect(),
        }
    }

    /// Whether it is of this network.
    pub(super) fn is_of(&self, prefix: &Prefix) -> bool {
        self.prefix == prefix.as_str()
    }

    /// The subnet that the node had.
    pub(super) fn own(&self) -> Option<Subnet> {
        Subnet::parse(&self.own).ok()
    }

    /// What was known when it was written, if that is a cluster with this node in it.
    pub(super) fn known(&self, prefix: &Prefix) -> Result<Option<Known>, EtcdError> {
        let Some(own) = self.own() else {
            return Ok(None);
        };
        let text = self.config.clone().into_bytes();
        let conf = NetConf::parse(&text, &prefix.config())?;
        let mut registry = Registry::default();
        for (age, (name, value)) in self.subnets.iter().enumerate() {
            let age = i64::try_from(age).unwrap_or(i64::MAX);
            registry.put(name, Entry::new(name, value.as_bytes(), age, age, 0));
        }
        let entry = registry.get(&self.own);
        let announced = entry.and_then(|e| e.holder.as_ref().ok()).cloned();
        Ok(announced.map(|announced| Known {
            text,
            conf,
            registry,
            own,
            own_name: self.own.clone(),
            announced,
        }))
    }
}
