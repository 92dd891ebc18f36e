//! What the overlay device has decapsulated.

use super::inner::{self, Inner};
use super::{HostTask, Tables, TunnelKey, configured};
use crate::counters::DropReason;
use crate::maps::PodValue;
use crate::packet::{Front, Packet};

/// What happens to a packet that the overlay device has decapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FromOverlay<'t> {
    /// Nothing is configured yet: whoever comes next may have it.
    Unconfigured,
    /// To a pod of this node.
    Deliver {
        /// The pod.
        pod: &'t PodValue,
    },
    /// To the host's own stack.
    ToHost(HostTask),
    /// Not allowed, or broken.
    Drop(DropReason),
}

/// Decides about a packet that came in by the overlay device with this tunnel metadata.
#[inline(always)]
pub fn from_overlay<'t, T: Tables>(
    packet: &impl Packet,
    front: &Front,
    key: Option<&TunnelKey>,
    tables: &'t T,
) -> FromOverlay<'t> {
    let Some(config) = configured(tables) else {
        return FromOverlay::Unconfigured;
    };
    let Some(key) = key else {
        return FromOverlay::Drop(DropReason::NoTunnelMetadata);
    };
    if packet.is_tagged() {
        // The kernel has taken the tag out of the inner frame; in the fast path it would be in the way of an IP header.
        return FromOverlay::Drop(DropReason::InnerNotIp);
    }
    match inner::accept(packet, 0, front, key, tables, config) {
        Ok(Inner::Pod(pod, _)) => FromOverlay::Deliver { pod },
        Ok(Inner::Host(task)) => FromOverlay::ToHost(task),
        Err(reason) => FromOverlay::Drop(reason),
    }
}
