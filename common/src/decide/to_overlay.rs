//! What the host's stack sends into the overlay.

use super::{Tables, configured, is_direct, is_group, is_host, is_local, is_reachable, route};
use crate::addr::Addr;
use crate::counters::DropReason;
use crate::maps::{Config, RouteValue};
use crate::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Front, Packet, array};

/// What happens to a packet that the host sends into the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ToOverlay<'t> {
    /// Nothing is configured yet: the device drops what has no metadata.
    Unconfigured,
    /// The overlay device encapsulates it to this VTEP.
    Send {
        /// The way there.
        route: &'t RouteValue,
        /// Who we are.
        config: &'t Config,
        /// A pod of this node sent it and the host has translated it: the answers have to go by the host, too.
        remember: bool,
    },
    /// It goes to its next hop as it is.
    Route {
        /// The way there.
        route: &'t RouteValue,
        /// As above.
        remember: bool,
    },
    /// Multicast, broadcast and what is not IP: there is no such thing in the overlay.
    Ignore,
    /// Not allowed, or broken.
    Drop(DropReason),
}

/// Decides about a packet on its way out by the overlay device.
#[inline(always)]
pub fn to_overlay<'t, T: Tables>(
    packet: &impl Packet,
    front: &Front,
    tables: &'t T,
) -> ToOverlay<'t> {
    let Some(config) = configured(tables) else {
        return ToOverlay::Unconfigured;
    };
    let Some([src, dst]) = addresses(front).filter(|[_, dst]| !is_group(dst)) else {
        return ToOverlay::Ignore;
    };
    let Some(route) = route(tables, config, &dst).filter(|route| !is_local(route)) else {
        return ToOverlay::Drop(DropReason::NoRoute);
    };
    // What the fast path has only lent to the host comes as it went.
    let remember = !packet.is_lent() && tables.pod(&src).is_some_and(|pod| !is_host(pod));
    if !is_direct(route) {
        ToOverlay::Send {
            route,
            config,
            remember,
        }
    } else if is_reachable(route) {
        ToOverlay::Route { route, remember }
    } else {
        ToOverlay::Drop(DropReason::NoRoute)
    }
}

/// The host's own stack made the header, so there is nothing to doubt.
#[inline(always)]
fn addresses(front: &Front) -> Option<[Addr; 2]> {
    match front.ethertype {
        ETHERTYPE_IPV4 => Some([12, 16].map(|at| Addr::from_v4(array(&front.l3, at)))),
        ETHERTYPE_IPV6 => Some([8, 24].map(|at| Addr::from_v6(array(&front.l3, at)))),
        _ => None,
    }
}
