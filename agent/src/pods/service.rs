//! The operations on attachments.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::RwLock as Gate;

use super::ipam::Ipam;
use super::store::Store;
use super::{Attachment, DesiredPod, NodeFacts, Phase, PodDatapath, PodError, PodLabels};

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
    gate: Arc<Gate<()>>,
}

struct Inner {
    store: Store,
    datapath: Arc<dyn PodDatapath>,
    facts: RwLock<NodeFacts>,
    records: Mutex<Records>,
}

/// What is on disk, and the addresses that follow from it.
#[derive(Default)]
struct Records {
    attachments: BTreeMap<Key, Attachment>,
    ipam: Ipam,
}

impl Pods {
    /// Opens the state directory. Nothing on the node is touched before [`Pods::restore`].
    ///
    /// # Errors
    /// When the state directory cannot be made.
    pub fn new(
        state_dir: &Path,
        datapath: Arc<dyn PodDatapath>,
        facts: NodeFacts,
        gate: Arc<Gate<()>>,
    ) -> Result<Self, PodError> {
        let store = Store::open(state_dir)?;
        let records = Records {
            attachments: BTreeMap::new(),
            ipam: Ipam::new(store.cursor().unwrap_or_default()),
        };
        let inner = Inner {
            store,
            datapath,
            facts: RwLock::new(facts),
            records: Mutex::new(records),
        };
        Ok(Self {
            inner: Arc::new(inner),
            gate,
        })
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
        self.inner
            .facts
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Inner {
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
