//! What the host's stack sends to a pod.

use super::{Tables, configured, is_host, route};
use crate::addr::Addr;
use crate::counters::DropReason;
use crate::maps::Config;
use crate::packet::ip::Ip;
use crate::packet::{Front, Packet};

/// What happens to a packet that the host's stack sends to a pod: it goes on in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ToPod {
    /// Nothing to do.
    Pass,
    /// It is another pod's, so the host has translated it: the answers have to go by the host, too.
    Remember,
}

/// Looks at a packet on its way from the host's stack to a pod.
#[inline(always)]
pub fn to_pod<T: Tables>(packet: &impl Packet, front: &Front, tables: &T) -> ToPod {
    let Some(config) = configured(tables) else {
        return ToPod::Pass;
    };
    let Ok(ip) = Ip::parse(packet, front, 0, DropReason::UnsupportedProtocol) else {
        return ToPod::Pass;
    };
    // What the fast path has only lent to the host comes as it went: nothing has been translated.
    if !packet.is_lent() && is_in_the_cluster(tables, config, &ip.src) {
        ToPod::Remember
    } else {
        ToPod::Pass
    }
}

/// Somebody to whom the fast path would send the answers: not this node's host.
#[inline(always)]
fn is_in_the_cluster<T: Tables>(tables: &T, config: &Config, addr: &Addr) -> bool {
    match tables.pod(addr) {
        Some(pod) => !is_host(pod),
        None => route(tables, config, addr).is_some(),
    }
}
