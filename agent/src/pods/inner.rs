//! What all operations share: records in memory and on disk, addresses, and the way back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use oxlan_common::addr::{Addr, Mac};
use oxlan_common::wire::GATEWAY_MAC;

use super::busy::Busy;
use super::crash::{Step, Steps};
use super::ipam::Ipam;
use super::names;
use super::ports;
use super::store::Store;
use super::{AddRequest, Attachment, DatapathFault, Key, NodeFacts, Phase, PodDatapath, PodError};
use crate::host::link;
use crate::host::rtnl::Rtnl;
use crate::host::veth::{self, Pair};

/// The synchronous half of [`super::Pods`].
pub(super) struct Inner {
    pub(super) store: Store,
    pub(super) datapath: Arc<dyn PodDatapath>,
    pub(super) facts: RwLock<NodeFacts>,
    pub(super) busy: Busy,
    pub(super) steps: Steps,
    pub(super) ports: ports::Table,
    records: Mutex<Records>,
}

/// What is on disk, and the addresses that follow from it.
#[derive(Default)]
pub(super) struct Records {
    pub(super) attachments: BTreeMap<Key, Attachment>,
    pub(super) ipam: Ipam,
}

impl Inner {
    pub(super) fn new(
        store: Store,
        datapath: Arc<dyn PodDatapath>,
        facts: NodeFacts,
        steps: Steps,
    ) -> Self {
        let records = Records {
            attachments: BTreeMap::new(),
            ipam: Ipam::new(store.memory().unwrap_or_default()),
        };
        Self {
            store,
            datapath,
            facts: RwLock::new(facts),
            busy: Busy::default(),
            steps,
            ports: ports::Table::default(),
            records: Mutex::new(records),
        }
    }

    pub(super) fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn facts(&self) -> NodeFacts {
        self.facts
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn find(&self, key: &Key) -> Option<Attachment> {
        self.records().attachments.get(key).cloned()
    }

    /// Chooses addresses and a name for a new attachment and keeps them from others.
    pub(super) fn reserve(
        &self,
        request: &AddRequest,
        facts: &NodeFacts,
        mtu: u16,
    ) -> Result<Attachment, PodError> {
        let mut records = self.records();
        let addresses = records.ipam.allocate(&request.key, &facts.pod_cidrs)?;
        let checked = ports::check(&records, &request.key, &request.ports, &addresses);
        let kept = checked.and_then(|()| self.store.save_memory(records.ipam.memory()));
        if let Err(error) = kept {
            records.ipam.free(&request.key, &addresses);
            return Err(error);
        }
        let key = &request.key;
        let taken = |name: &String| records.attachments.values().any(|a| a.host_ifname == *name);
        let host_ifname = (0..)
            .map(|n| names::host_ifname(key, n))
            .find(|n| !taken(n));
        let attachment = Attachment {
            container_id: key.container_id.clone(),
            ifname: key.ifname.clone(),
            network: request.network.clone(),
            netns: request.netns.clone(),
            phase: Phase::Adding,
            mac: names::pod_mac(&addresses),
            addresses,
            host_ifname: host_ifname.unwrap_or_default(),
            host_ifindex: 0,
            host_mac: Mac::new(GATEWAY_MAC),
            netns_id: None,
            mtu,
            mtu_limit: request.mtu,
            ports: request.ports.clone(),
            bandwidth: request.bandwidth,
            created: super::seconds_since_1970(),
            pod: request.pod.clone(),
            polls: false,
            unfit: false,
        };
        records.attachments.insert(key.clone(), attachment.clone());
        Ok(attachment)
    }

    /// Writes a record; memory follows only when the disk has it.
    pub(super) fn save(&self, attachment: &Attachment) -> Result<(), PodError> {
        self.store.save(attachment)?;
        let key = Key::of(attachment);
        self.records().attachments.insert(key, attachment.clone());
        Ok(())
    }

    /// Removes a record and gives its addresses back.
    pub(super) fn forget(&self, attachment: &Attachment) -> Result<(), PodError> {
        let key = Key::of(attachment);
        self.store.remove(&key)?;
        let mut records = self.records();
        records.attachments.remove(&key);
        records.ipam.free(&key, &attachment.addresses);
        if let Err(error) = self.store.save_memory(records.ipam.memory()) {
            tracing::warn!(
                "after a restart a freed address could be used too early: {}",
                error.chain()
            );
        }
        Ok(())
    }

    /// Marks an attachment as one that goes. On a full disk the old record stays there, which the
    /// next start sees through: then the pair is gone, or the runtime has been told of the failure.
    fn mark_removing(&self, attachment: &Attachment) {
        let removing = Attachment {
            phase: Phase::Removing,
            ..attachment.clone()
        };
        let key = Key::of(attachment);
        self.records().attachments.insert(key, removing.clone());
        if let Err(error) = self.store.save(&removing) {
            tracing::warn!(
                "going on without the record of a removal: {}",
                error.chain()
            );
        }
    }

    /// Takes away everything that an attachment consists of, its record last.
    ///
    /// Whatever is gone already counts as taken away. Everything is tried; what could not be
    /// done is reported together, and then the record stays, so that it is tried again.
    pub(super) fn take_down(&self, attachment: &Attachment) -> Result<(), PodError> {
        self.mark_removing(attachment);
        self.steps.reached(Step::DelRecorded);
        let mut left = Vec::new();
        self.unpublish(attachment)
            .unwrap_or_else(|e| left.push(e.chain()));
        for address in &attachment.addresses {
            self.unmap(*address)
                .unwrap_or_else(|e| left.push(e.chain()));
        }
        self.steps.reached(Step::DelUnmapped);
        // The pair goes before its filter: a pod must at no time send past it.
        let name = &attachment.host_ifname;
        let unlinked = Rtnl::open().and_then(|mut rtnl| veth::remove(&mut rtnl, name));
        unlinked.unwrap_or_else(|e| left.push(crate::datapath::chain(&e)));
        self.steps.reached(Step::DelUnlinked);
        let detached = self
            .datapath
            .detach(name, attachment.host_ifindex)
            .map_err(datapath("detach from_pod"));
        detached.unwrap_or_else(|e| left.push(e.chain()));
        self.steps.reached(Step::DelDetached);
        if !left.is_empty() {
            return Err(PodError::Leftovers(left));
        }
        self.forget(attachment)?;
        self.steps.reached(Step::DelForgotten);
        Ok(())
    }

    /// Takes away what can be known of an attachment whose record cannot be read, if there is one.
    pub(super) fn drop_unreadable(&self, key: &Key) -> Result<(), PodError> {
        if !self.store.has(key) {
            return Ok(());
        }
        // The name follows from the key; the kernel takes routes and program along.
        veth::remove(&mut Rtnl::open()?, &names::host_ifname(key, 0))?;
        self.store.remove(key)?;
        self.records().ipam.free_all(key);
        Ok(())
    }

    /// Whether the pair of an attachment is there. It is not when its namespace has ended.
    pub(super) fn is_alive(&self, attachment: &Attachment) -> Result<bool, PodError> {
        let mut rtnl = Rtnl::open()?;
        let link = link::find(&mut rtnl, &attachment.host_ifname)?;
        Ok(link.is_some_and(|link| link.ifindex == attachment.host_ifindex))
    }

    fn unmap(&self, address: IpAddr) -> Result<(), PodError> {
        let removed = self.datapath.remove_pod(Addr::from(address));
        removed.map_err(datapath("remove the pod's address from its table"))
    }
}

/// The pair of an attachment.
pub(super) fn pair(attachment: &Attachment) -> Pair<'_> {
    Pair {
        host_ifname: &attachment.host_ifname,
        host_mac: attachment.host_mac,
        pod_ifname: &attachment.ifname,
        pod_mac: attachment.mac,
        mtu: attachment.mtu,
        to_pod: attachment.to_pod(),
        from_pod: attachment.from_pod(),
    }
}

/// Says what the datapath was asked for.
pub(super) fn datapath(action: &'static str) -> impl Fn(DatapathFault) -> PodError {
    move |source| PodError::Datapath { action, source }
}
