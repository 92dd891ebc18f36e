//! The life of a pod's attachment: address, veth, datapath entry, state file, and their removal.
//!
//! [`Pods`] is the only door. Everything that an attachment consists of is derived from its
//! [`Attachment`] record, which is on disk before the first object exists and until the last one
//! is gone; so whatever a crash leaves behind can be found and undone.

mod add;
mod attachment;
mod bandwidth;
mod busy;
mod check;
mod crash;
mod datapath;
mod error;
mod facts;
mod inner;
mod ipam;
mod names;
mod ports;
mod remove;
mod service;
mod store;

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

pub use attachment::{Attachment, DesiredPod, Phase, PodLabels};
pub use bandwidth::{Bandwidth, Rate};
pub use check::Expected;
pub use crash::{CRASH_AT, Step};
pub use datapath::{DatapathFault, POD_PROGRAMS, PodDatapath};
pub use error::PodError;
pub use facts::NodeFacts;
pub use names::HOST_IFNAME_PREFIX;
pub use ports::PortMapping;
pub use service::{AddRequest, Key, Pods, RestoreReport};

/// Addresses for a message.
fn joined(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(", ")
}

/// The time as records hold it.
pub(crate) fn seconds_since_1970() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
pub(crate) mod tests;
