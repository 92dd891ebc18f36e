//! The operations on attachments.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::{Notify, RwLock, Semaphore};

use super::crash::Steps;
use super::inner::Inner;
use super::store::Store;
use super::{
    Attachment, Bandwidth, DesiredPod, Expected, NodeFacts, Phase, PodDatapath, PodError,
    PodLabels, PortMapping,
};

/// What identifies an attachment on a node: one interface in one container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The runtime's name of the container.
    pub container_id: String,
    /// The interface inside the container.
    pub ifname: String,
}

impl Key {
    /// The key of a record.
    #[must_use]
    pub fn of(attachment: &Attachment) -> Self {
        Self {
            container_id: attachment.container_id.clone(),
            ifname: attachment.ifname.clone(),
        }
    }
}

/// What ADD is given.
#[derive(Debug, Clone)]
pub struct AddRequest {
    /// Container and interface.
    pub key: Key,
    /// Name of the CNI network.
    pub network: String,
    /// Path of the container's network namespace.
    pub netns: String,
    /// MTU to set when less than the node's.
    pub mtu: Option<u16>,
    /// Ports of the host that are to lead to it.
    pub ports: Vec<PortMapping>,
    /// How much it may send and receive.
    pub bandwidth: Bandwidth,
    /// The orchestrator's words for it.
    pub pod: PodLabels,
}

/// What [`Pods::restore`] did at the agent's start.
#[derive(Debug, Default)]
pub struct RestoreReport {
    /// Complete attachments that are alive.
    pub kept: usize,
    /// Attachments that were undone, each with the reason in words.
    pub removed: Vec<String>,
    /// What could not be undone or read; the agent goes on without it.
    pub problems: Vec<String>,
}

/// Every attachment of this node.
pub struct Pods {
    inner: Arc<Inner>,
    /// Held for reading by every change; the reconciler holds it for writing.
    gate: Arc<RwLock<()>>,
    /// Told after every ADD, DEL and GC.
    changed: Notify,
    /// How many operations run at once. More would only queue for the kernel's own lock on links.
    slots: Arc<Semaphore>,
}

/// Operations at once.
const SLOTS: usize = 16;

impl Pods {
    /// Opens the state directory. Nothing on the node is touched before [`Pods::restore`].
    ///
    /// # Errors
    /// When the state directory cannot be made.
    pub fn new(
        state_dir: &Path,
        datapath: Arc<dyn PodDatapath>,
        facts: NodeFacts,
        gate: Arc<RwLock<()>>,
    ) -> Result<Self, PodError> {
        Self::with_steps(state_dir, datapath, facts, gate, Steps::from_env())
    }

    pub(super) fn with_steps(
        state_dir: &Path,
        datapath: Arc<dyn PodDatapath>,
        facts: NodeFacts,
        gate: Arc<RwLock<()>>,
        steps: Steps,
    ) -> Result<Self, PodError> {
        let store = Store::open(state_dir)?;
        Ok(Self {
            inner: Arc::new(Inner::new(store, datapath, facts, steps)),
            gate,
            changed: Notify::new(),
            slots: Arc::new(Semaphore::new(SLOTS)),
        })
    }

    /// Attaches a container.
    ///
    /// # Errors
    /// Whatever stands in the way; nothing of the attempt is left then.
    pub async fn add(&self, request: AddRequest) -> Result<Attachment, PodError> {
        self.changing(move |inner| inner.add(&request)).await
    }

    /// Detaches a container. That there is nothing to detach, or less than there was, is success.
    ///
    /// # Errors
    /// Everything that could not be taken away; the record stays, so that it can be tried again.
    pub async fn del(&self, key: Key) -> Result<(), PodError> {
        self.changing(move |inner| inner.del(&key)).await
    }

    /// Compares an attachment with what is really there, and with what the runtime expects.
    ///
    /// # Errors
    /// All differences, or that the attachment is unknown.
    pub async fn check(&self, key: Key, expected: Expected) -> Result<(), PodError> {
        self.gated(move |inner| inner.check(&key, &expected)).await
    }

    /// Detaches everything of a network that is not in `valid`, and returns what went.
    ///
    /// # Errors
    /// Everything that could not be taken away.
    pub async fn gc(&self, network: String, valid: HashSet<Key>) -> Result<Vec<Key>, PodError> {
        self.changing(move |inner| inner.gc(&network, &valid)).await
    }

    /// Reads a predecessor's records, undoes what is incomplete and what has ended. To be called
    /// once, before anything else. Does not take the gate.
    ///
    /// # Errors
    /// When the state directory cannot be read.
    pub async fn restore(&self) -> Result<RestoreReport, PodError> {
        self.blocking(Inner::restore).await
    }

    /// Detaches what has ended without a DEL. To be called while nothing is being attached or
    /// detached: does not take the gate.
    ///
    /// # Errors
    /// When the agent is shutting down.
    pub async fn drop_ended(&self) -> Result<RestoreReport, PodError> {
        self.blocking(|inner| Ok(inner.drop_ended())).await
    }

    /// Tells new facts of the node. When the pods' MTU has changed, both sides of every pair
    /// follow; what could not be changed is returned. Does not take the gate.
    ///
    /// # Errors
    /// When the agent is shutting down.
    pub async fn set_facts(&self, facts: NodeFacts) -> Result<Vec<String>, PodError> {
        self.blocking(move |inner| Ok(inner.set_facts(facts))).await
    }

    /// Puts the table of published ports right if somebody has changed it. Whether that had to be done.
    /// Does not take the gate.
    ///
    /// # Errors
    /// When `nft` is missing or the kernel refuses.
    pub async fn repair_ports(&self) -> Result<bool, PodError> {
        self.blocking(Inner::repair_ports).await
    }

    /// Makes the interface of every pod poll that does not, so that XDP may redirect frames to it;
    /// what could not be changed is returned. Does not take the gate.
    ///
    /// # Errors
    /// When the agent is shutting down.
    pub async fn poll(&self) -> Result<Vec<String>, PodError> {
        self.blocking(move |inner| Ok(inner.poll())).await
    }

    /// Looks at the interfaces inside whose other ends have these indices, all of them if none are named: one that
    /// somebody has made unfit for frames does not get any from XDP from the next pass on. What has changed,
    /// in words. Does not take the gate.
    ///
    /// # Errors
    /// When the agent is shutting down.
    pub async fn look_inside(&self, ends: Option<BTreeSet<u32>>) -> Result<Vec<String>, PodError> {
        let look = move |inner: &Inner| Ok(inner.look_inside(ends.as_ref()));
        let found: Vec<String> = self.blocking(look).await?;
        if !found.is_empty() {
            self.changed.notify_one();
        }
        Ok(found)
    }

    /// Waits until attachments may have changed since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Every attachment, ordered by container and interface.
    #[must_use]
    pub fn list(&self) -> Vec<Attachment> {
        self.inner.records().attachments.values().cloned().collect()
    }

    /// What must be on the host for the complete attachments.
    #[must_use]
    pub fn desired(&self) -> Vec<DesiredPod> {
        let records = self.inner.records();
        let ready = records
            .attachments
            .values()
            .filter(|a| a.phase == Phase::Ready);
        ready.map(Attachment::desired).collect()
    }

    /// The node as its pods see it now.
    #[must_use]
    pub fn facts(&self) -> NodeFacts {
        self.inner.facts()
    }

    /// A pod CIDR without a free address, if there is one: no pod can be attached then.
    #[must_use]
    pub fn exhausted(&self) -> Option<IpNet> {
        let records = self.inner.records();
        let cidrs = self.inner.facts().pod_cidrs;
        cidrs
            .into_iter()
            .find(|cidr| records.ipam.free_in(cidr) == 0)
    }

    /// Runs an operation that may change attachments.
    async fn changing<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, PodError> + Send + 'static,
    ) -> Result<T, PodError> {
        let done = self.gated(work).await;
        self.changed.notify_one();
        done
    }

    /// Runs an operation to its end even if the caller goes away meanwhile, because a runtime that
    /// gives up must not leave half an attachment.
    async fn gated<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, PodError> + Send + 'static,
    ) -> Result<T, PodError> {
        let gate = Arc::clone(&self.gate).read_owned().await;
        self.blocking(move |inner| {
            let _gate = gate;
            work(inner)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, PodError> + Send + 'static,
    ) -> Result<T, PodError> {
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let slot = slot.map_err(|_| PodError::Interrupted)?;
        let inner = Arc::clone(&self.inner);
        let task = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            work(&inner)
        });
        task.await.map_err(|_| PodError::Interrupted)?
    }
}
