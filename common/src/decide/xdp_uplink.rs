//! What the uplink receives, before the kernel has made a packet of it.

use bytemuck::Zeroable as _;

use super::{Decapsulation, FromUplink, Tables, flow, from_uplink};
use crate::counters::DropReason;
use crate::decide::Aside;
use crate::maps::{FlowKey, PodValue, pod_flags};
use crate::packet::{Front, Packet};

/// What happens to a frame that the uplink received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum XdpUplink<'t> {
    /// The kernel makes a packet of it, about which [`from_uplink`] decides.
    Pass,
    /// The same, and the frames of its bucket of flows have to follow it, or they would overtake it.
    PassFlow {
        /// The bucket.
        bucket: u32,
    },
    /// Take the outer headers off and put it into the pod's receive ring.
    Redirect {
        /// The pod.
        pod: &'t PodValue,
        /// New ECN bits of the inner packet, if they change.
        ecn: Option<u8>,
        /// Which headers to take off.
        outer: Decapsulation,
    },
    /// Not allowed, or broken.
    Drop(DropReason),
}

/// Decides about a frame as [`from_uplink`] does about a packet, and puts the inner frame's headers into `front`.
///
/// It is that same decision. What differs is what can be done: only a pod whose interface polls gets
/// frames, and what is not delivered is left to `from_uplink`, which decides and counts once more.
#[inline(always)]
pub fn xdp_uplink<'t, T: Tables>(
    frame: &impl Packet,
    front: &mut Front,
    tables: &'t T,
) -> XdpUplink<'t> {
    match from_uplink(frame, front, tables) {
        FromUplink::Deliver { pod, ecn, outer }
            if takes_frames(pod) && !ends_former_flow(frame, front, outer.len, pod) =>
        {
            XdpUplink::Redirect { pod, ecn, outer }
        }
        // The driver makes no aggregates of frames before the kernel has them.
        FromUplink::NotOurs | FromUplink::Deliver { .. } | FromUplink::DeliverAggregate { .. } => {
            XdpUplink::Pass
        }
        FromUplink::ToOverlay(aside) => match aside {
            Aside::Aggregate { bucket } | Aside::Checksum { bucket } => {
                XdpUplink::PassFlow { bucket }
            }
            Aside::Follower | Aside::Host => XdpUplink::Pass,
        },
        FromUplink::Drop(reason) => XdpUplink::Drop(reason),
    }
}

/// What `FLOWS` says of a new connection's ports is ended where `from_uplink` sees it begin.
#[inline(always)]
fn ends_former_flow(frame: &impl Packet, front: &Front, offset: u32, pod: &PodValue) -> bool {
    flow::ends_former_flow(frame, front, offset, pod, &mut FlowKey::zeroed())
}

#[inline(always)]
const fn takes_frames(pod: &PodValue) -> bool {
    pod.flags & pod_flags::FRAMES != 0
}
