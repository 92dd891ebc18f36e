//! The inner packet of a tunnel packet: the same checks, whoever takes the outer headers off.

use super::{
    HostTask, Tables, TunnelKey, flow, has_ended, is_host, is_local, is_to_tunnel_port, route,
};
use crate::addr::Addr;
use crate::counters::DropReason;
use crate::maps::{Config, PodValue, VtepValue};
use crate::packet::ip::Ip;
use crate::packet::{Front, Packet};

/// Where an accepted inner packet goes.
#[repr(u32)]
pub(super) enum Inner<'t> {
    /// To a pod of this node; with the packet's IP header.
    Pod(&'t PodValue, Ip),
    /// To the host's own stack.
    Host(HostTask),
}

/// Judges the inner packet whose frame starts at `offset` and is `front`.
#[inline(always)]
pub(super) fn accept<'t, T: Tables>(
    packet: &impl Packet,
    offset: u32,
    front: &Front,
    key: &TunnelKey,
    tables: &'t T,
    config: &Config,
) -> Result<Inner<'t>, DropReason> {
    if key.vni != config.vni {
        return Err(DropReason::WrongVni);
    }
    let vtep = tables.vtep(&key.remote).ok_or(DropReason::UnknownVtep)?;
    if front.dst != config.vtep_mac {
        return Err(DropReason::WrongInnerMac);
    }
    let ip = Ip::parse(packet, front, offset, DropReason::InnerNotIp)?;
    if !belongs_to(&ip, key, vtep, tables, config) {
        return Err(DropReason::ForeignInnerSource);
    }
    deliver(packet, ip, tables, config)
}

/// The source is in a pod CIDR of the sender, or is the sender itself. Which of its underlay
/// addresses the sender has used does not matter.
#[inline(always)]
fn belongs_to<T: Tables>(
    ip: &Ip,
    key: &TunnelKey,
    vtep: &VtepValue,
    tables: &T,
    config: &Config,
) -> bool {
    let is_sender = |addr: &Addr| *addr == key.remote || *addr == vtep.other;
    is_sender(&ip.src)
        || route(tables, config, &ip.src)
            .is_some_and(|route| is_sender(&route.underlay) && !is_local(route))
}

#[inline(always)]
fn deliver<'t, T: Tables>(
    packet: &impl Packet,
    ip: Ip,
    tables: &'t T,
    config: &Config,
) -> Result<Inner<'t>, DropReason> {
    match tables.pod(&ip.dst) {
        Some(pod) if is_host(pod) => {
            if is_to_tunnel_port(packet, &ip, config) {
                Err(DropReason::TunnelPort)
            } else {
                Ok(Inner::Host(HostTask::Route))
            }
        }
        Some(pod) if flow::is_translated(packet, &ip, pod, tables) => {
            Ok(Inner::Host(HostTask::Translate))
        }
        Some(_) if has_ended(&ip) => Ok(Inner::Host(HostTask::Help)),
        Some(pod) => Ok(Inner::Pod(pod, ip)),
        None if route(tables, config, &ip.dst).is_some_and(is_local) => {
            Ok(Inner::Host(HostTask::Help))
        }
        None => Err(DropReason::NotOurPod),
    }
}
