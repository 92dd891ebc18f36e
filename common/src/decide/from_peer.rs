//! What the uplink receives as it left a pod of another node: without tunnel headers.

use super::{
    HostTask, Tables, configured, flow, has_ended, hops, is_direct, is_host, is_local, route,
};
use crate::counters::DropReason;
use crate::maps::{PodValue, config_flags};
use crate::packet::ip::Ip;
use crate::packet::{Front, Packet};

/// What happens to a packet that the uplink received and that is no VXLAN for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FromPeer<'t> {
    /// Nothing for us, as far as we can see: the host's own stack has it.
    NotOurs,
    /// Give it to a pod.
    Deliver {
        /// The pod.
        pod: &'t PodValue,
    },
    /// The host's own stack has to see to it.
    ToHost(HostTask),
}

/// Decides about a packet that [`from_uplink`](super::from_uplink) does not know, and puts its headers into `front`.
///
/// Only from a pod of another node, whose packets come so, to a pod of this one is it ours. All else
/// passes the host's own stack, with its firewall.
#[inline(always)]
pub fn from_peer<'t, T: Tables>(
    packet: &impl Packet,
    front: &mut Front,
    tables: &'t T,
) -> FromPeer<'t> {
    let direct = configured(tables).filter(|config| config.flags & config_flags::DIRECT != 0);
    let Some(config) = direct else {
        return FromPeer::NotOurs;
    };
    if packet.is_tagged() || !packet.is_to_us() || !front.read(packet, 0) {
        return FromPeer::NotOurs;
    }
    let Ok(ip) = Ip::parse(packet, front, 0, DropReason::UnsupportedProtocol) else {
        return FromPeer::NotOurs;
    };
    let Some(pod) = tables.pod(&ip.dst).filter(|pod| !is_host(pod)) else {
        return FromPeer::NotOurs;
    };
    match route(tables, config, &ip.src).filter(|route| !is_local(route)) {
        None => FromPeer::NotOurs,
        Some(_) if flow::is_translated(packet, &ip, pod, tables) => {
            FromPeer::ToHost(HostTask::Translate)
        }
        // The other node may take us for a neighbour before we take it for one.
        Some(route) if !is_direct(route) || has_ended(&ip) => FromPeer::ToHost(HostTask::Help),
        // By another device than the one that leads there: the host's reverse path filter and firewall judge.
        Some(route) if !hops::leads_by(tables, route, packet.ifindex()) => FromPeer::NotOurs,
        Some(_) => FromPeer::Deliver { pod },
    }
}
