//! The forwarding decision: what happens to a packet, as a pure function of its headers and the tables.
//!
//! Each program has its own function and its own enum of outcomes, so that its entry point is one
//! exhaustive `match`. Kernel and host tests run this same code, on BPF maps and on ordinary maps.
//!
//! Those enums have a tag of their own (`repr(u32)`). In the spare values of a field, where the compiler
//! may put it, the verifier does not know it any more once the field was read, and takes every way out.

use crate::addr::{Addr, Mac};
use crate::maps::{
    Config, FlowKey, HopsValue, MAP_ABI, PodValue, RouteKey, RouteValue, VtepValue, pod_flags,
    route_flags,
};
use crate::packet::Packet;
use crate::packet::ip::Ip;

mod flow;
mod from_overlay;
mod from_peer;
mod from_pod;
mod from_uplink;
mod hops;
mod inner;
mod neighbour;
mod to_overlay;
mod to_pod;
mod xdp_uplink;

pub use flow::{answers, ends_former_flow};
pub use from_overlay::{FromOverlay, from_overlay};
pub use from_peer::{FromPeer, from_peer};
pub use from_pod::{FromPod, from_pod, outer_sum};
pub use from_uplink::{Aside, Decapsulation, FromUplink, from_uplink};
pub use hops::{next_hop, send_bucket};
pub use to_overlay::{ToOverlay, to_overlay};
pub use to_pod::{ToPod, to_pod};
pub use xdp_uplink::{XdpUplink, xdp_uplink};

/// What decisions look up.
pub trait Tables {
    /// The configuration, if there is one.
    fn config(&self) -> Option<&Config>;

    /// Who has this address on this node.
    fn pod(&self, addr: &Addr) -> Option<&PodValue>;

    /// The entry with exactly this prefix.
    fn route(&self, key: &RouteKey) -> Option<&RouteValue>;

    /// The set of next hops with this key.
    fn hops(&self, set: u32) -> Option<&HopsValue>;

    /// The node with this underlay address.
    fn vtep(&self, underlay: &Addr) -> Option<&VtepValue>;

    /// Whether an aggregate of this bucket of flows went by the overlay device a moment ago.
    fn follows_aggregate(&self, bucket: u32) -> bool;

    /// Whether the host's stack translates this flow.
    fn is_translated(&self, flow: &FlowKey) -> bool;
}

/// What the host's own stack is to do with a packet that it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostTask {
    /// Route it, and whatever else the host's rules say: the tables do not know the destination.
    Route,
    /// What the fast path cannot: answer with an ICMP error, fragment. The tables know the destination.
    Help,
    /// Put the address back that it had translated in the other direction. The tables know the destination.
    Translate,
}

/// The tunnel's metadata that the kernel keeps beside a packet that its VXLAN device decapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelKey {
    /// Underlay address of the sender.
    pub remote: Addr,
    /// VXLAN network identifier.
    pub vni: u32,
}

/// The configuration, if it is one that this code understands.
#[inline(always)]
fn configured<T: Tables>(tables: &T) -> Option<&Config> {
    tables.config().filter(|config| config.abi == MAP_ABI)
}

/// The longest prefix that covers `addr`.
#[inline(always)]
fn route<'t, T: Tables>(tables: &'t T, config: &Config, addr: &Addr) -> Option<&'t RouteValue> {
    let lens = if addr.is_v4() {
        &config.prefix_lens_v4
    } else {
        &config.prefix_lens_v6
    };
    for &len in lens {
        if len == 0 {
            break;
        }
        let key = RouteKey {
            prefix: addr.masked(len),
            prefix_len: u32::from(len),
        };
        if let Some(route) = tables.route(&key) {
            return Some(route);
        }
    }
    None
}

#[inline(always)]
const fn is_host(pod: &PodValue) -> bool {
    pod.flags & pod_flags::HOST != 0
}

/// Whether what goes to the pod has to pass the queueing discipline of its device.
#[inline(always)]
#[must_use]
pub const fn is_limited(pod: &PodValue) -> bool {
    pod.flags & pod_flags::LIMITED != 0
}

#[inline(always)]
const fn is_local(route: &RouteValue) -> bool {
    route.flags & route_flags::LOCAL != 0
}

#[inline(always)]
const fn is_direct(route: &RouteValue) -> bool {
    route.flags & route_flags::DIRECT != 0
}

#[inline(always)]
const fn is_reachable(route: &RouteValue) -> bool {
    route.flags & route_flags::UNREACHABLE == 0
}

/// UDP to the tunnel port: to anything but a pod this is somebody's own VXLAN.
#[inline(always)]
fn is_to_tunnel_port(packet: &impl Packet, ip: &Ip, config: &Config) -> bool {
    ip.udp_dst_port(packet) == Some(config.port)
}

/// The last hop of a packet that would have to go further: the host's stack answers "time exceeded".
#[inline(always)]
const fn has_ended(ip: &Ip) -> bool {
    ip.hop_limit <= 1
}

/// A multicast address, or IPv4's broadcast on the link.
#[inline(always)]
const fn is_group(addr: &Addr) -> bool {
    if addr.is_v4() {
        let v4 = u32::from_be_bytes(addr.low_bytes());
        v4 >> 28 == 0xe || v4 == u32::MAX
    } else {
        addr.bytes[0] == 0xff
    }
}

/// `fe80::/10`.
#[inline(always)]
const fn is_link_local_v6(addr: &Addr) -> bool {
    addr.bytes[0] == 0xfe && addr.bytes[1] & 0xc0 == 0x80
}

/// A pod's MAC, and who may use it: the sender of this packet.
#[inline(always)]
fn own_entry<'t, T: Tables>(
    tables: &'t T,
    packet: &impl Packet,
    addr: &Addr,
    mac: Mac,
) -> Result<&'t PodValue, crate::counters::DropReason> {
    use crate::counters::DropReason;
    match tables.pod(addr) {
        Some(pod) if pod.ifindex == packet.ifindex() && !is_host(pod) => {
            if pod.mac == mac {
                Ok(pod)
            } else {
                Err(DropReason::ForeignMac)
            }
        }
        _ => Err(DropReason::ForeignSource),
    }
}
