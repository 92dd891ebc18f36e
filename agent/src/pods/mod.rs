//! The life of a pod's attachment: address, veth, datapath entry, state file, and their removal.
//!
//! [`Pods`] is the only door. Everything that an attachment consists of is derived from its
//! [`Attachment`] record, which is on disk before the first object exists and until the last one
//! is gone; so whatever a crash leaves behind can be found and undone.

mod attachment;
mod datapath;
mod error;
mod facts;
mod ipam;
mod service;
mod store;

pub use attachment::{Attachment, DesiredPod, Phase, PodLabels};
pub use datapath::{DatapathFault, PodDatapath};
pub use error::PodError;
pub(crate) use error::chain;
pub use facts::NodeFacts;
pub use service::{AddRequest, Key, Pods, RestoreReport};
