//! Tells when something on the host changes that the agent cares about. Nothing is polled: the
//! kernel sends messages, and what concerns only others is dropped here, before it costs anything.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's messages grow with every kernel"
)]

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol};

use super::layer3::{ROUTE_PROTOCOL, destination};
use super::path_errors::PathErrors;
use super::{masquerade, ports};

/// Groups of `NETLINK_ROUTE` (include/uapi/linux/rtnetlink.h): links, neighbours, addresses,
/// routes and rules of both families, sysctls of devices of both families, next hop objects;
/// 4 is queueing disciplines and their filters.
const ROUTE_GROUPS: [u32; 12] = [1, 3, 4, 5, 7, 8, 9, 11, 19, 24, 25, 32];

/// What means that a filter may be gone, which has no link that would hold it: `RTM_DELQDISC`,
/// `RTM_NEWTFILTER`, `RTM_DELTFILTER`.
const FILTER: [u16; 3] = [37, 44, 45];

/// What means that a limit may be gone: `RTM_NEWQDISC`, `RTM_DELQDISC`.
const NEW_DISCIPLINE: u16 = 36;
const DISCIPLINE: [u16; 2] = [NEW_DISCIPLINE, 37];

/// `NFNLGRP_NFTABLES` (include/uapi/linux/netfilter/nfnetlink.h).
const NFTABLES_GROUP: u32 = 7;

/// `NFNL_SUBSYS_NFTABLES` (the same file): upper byte of a message's type.
const NFTABLES_SUBSYSTEM: u16 = 10;

/// Messages without a parser in the library: `RTM_NEWNETCONF`, `RTM_DELNETCONF`,
/// `RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP`.
const NETCONF: [u16; 2] = [80, 81];
const NEXT_HOP: [u16; 2] = [104, 105];

/// Larger than any message of a multicast group.
pub(super) const RECEIVE_BUFFER: usize = 64 * 1024;

/// Room for bursts in the kernel, bytes; when even that overflows, everything counts as changed.
const SOCKET_BUFFER: u32 = 1024 * 1024;

/// Changes cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch the host for changes by netlink")]
pub struct WatchError(#[from] io::Error);

/// What has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Devices, addresses, own routes, neighbours or sysctls.
    pub host: bool,
    /// The ways to other nodes.
    pub paths: bool,
    /// The nftables table.
    pub nftables: bool,
    /// Filters of queueing disciplines.
    pub filters: bool,
    /// The other node to which a packet was too large for the path, if one was.
    pub too_large_to: Option<IpAddr>,
}

impl Changes {
    /// Messages were lost: anything may have changed.
    const ALL: Self = Self {
        host: true,
        paths: true,
        nftables: true,
        filters: true,
        too_large_to: None,
    };

    fn any(self) -> bool {
        self != Self::default()
    }

    fn and(self, other: Self) -> Self {
        Self {
            host: self.host || other.host,
            paths: self.paths || other.paths,
            nftables: self.nftables || other.nftables,
            filters: self.filters || other.filters,
            too_large_to: self.too_large_to.or(other.too_large_to),
        }
    }
}

/// Whom and what the agent cares about.
#[derive(Debug, Clone, Default)]
pub struct Interest {
    /// Devices whose neighbours are the agent's.
    pub devices: HashSet<u32>,
    /// Prefixes of all pods: a foreign route inside may displace one of ours.
    pub networks: Vec<IpNet>,
    /// Underlay addresses of the other nodes, sorted.
    pub peers: Vec<IpAddr>,
}

/// An [`Interest`] that the agent changes while it is used.
pub type SharedInterest = Arc<Mutex<Interest>>;

/// The kernel's messages about the network namespace in which this was made.
pub struct Watch {
    route: TokioSocket,
    netfilter: TokioSocket,
    path_errors: PathErrors,
    interest: SharedInterest,
    buffer: Vec<u8>,
}

impl Watch {
    /// Starts to listen.
    ///
    /// # Errors
    /// When the system has no socket to give.
    pub fn new(interest: SharedInterest) -> Result<Self, WatchError> {
        Ok(Self {
            route: listen(NETLINK_ROUTE, &ROUTE_GROUPS)?,
            netfilter: listen(NETLINK_NETFILTER, &[NFTABLES_GROUP])?,
            path_errors: path_errors(),
            interest,
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
        })
    }

    /// Waits for the next change that matters.
    pub async fn changed(&mut self) -> Changes {
        loop {
            let mut other = Vec::with_capacity(RECEIVE_BUFFER);
            self.buffer.clear();
            let changes = tokio::select! {
                received = self.route.recv(&mut self.buffer) => match received {
                    Ok(()) => self.route_changes(&self.buffer),
                    Err(_) => Changes::ALL,
                },
                received = self.netfilter.recv(&mut other) => match received {
                    Ok(()) => nftables_changes(&other),
                    Err(_) => Changes::ALL,
                },
                destination = self.path_errors.next() => self.too_large_to(destination),
            };
            if changes.any() {
                return changes;
            }
        }
    }

    fn route_changes(&self, datagram: &[u8]) -> Changes {
        let interest = self.interest();
        messages(datagram)
            .map(|(kind, message)| interest.changes(kind, message))
            .fold(Changes::default(), Changes::and)
    }

    fn too_large_to(&self, destination: IpAddr) -> Changes {
        let is_peer = self.interest().peers.binary_search(&destination).is_ok();
        Changes {
            too_large_to: is_peer.then_some(destination),
            ..Changes::default()
        }
    }

    fn interest(&self) -> MutexGuard<'_, Interest> {
        self.interest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without them the agent hears of a narrower path when it asks for the way the next time.
fn path_errors() -> PathErrors {
    PathErrors::open().unwrap_or_else(|error| {
        tracing::warn!(%error, "path MTU discovery of the host is not followed: has the agent CAP_NET_RAW?");
        PathErrors::default()
    })
}

impl Interest {
    /// What a message of `NETLINK_ROUTE` changes for the agent.
    fn changes(&self, kind: u16, message: &[u8]) -> Changes {
        let host = Changes {
            host: true,
            ..Changes::default()
        };
        let paths = Changes {
            paths: true,
            ..Changes::default()
        };
        if NETCONF.contains(&kind) {
            return host;
        }
        if FILTER.contains(&kind) || kind == NEW_DISCIPLINE {
            return Changes {
                filters: FILTER.contains(&kind),
                host: DISCIPLINE.contains(&kind) && self.is_limit(message),
                ..Changes::default()
            };
        }
        if NEXT_HOP.contains(&kind) {
            return paths;
        }
        let Ok(parsed) = NetlinkMessage::<Message>::deserialize(message) else {
            return Changes::default();
        };
        let NetlinkPayload::InnerMessage(message) = parsed.payload else {
            return Changes::default();
        };
        match message {
            Message::NewLink(_) | Message::DelLink(_) => host.and(paths),
            Message::NewAddress(_) | Message::DelAddress(_) => host.and(paths),
            Message::NewRule(_) | Message::DelRule(_) => paths,
            Message::NewRoute(route) | Message::DelRoute(route) => self.route_changes(&route),
            Message::NewNeighbour(n) | Message::DelNeighbour(n)
                if self.devices.contains(&n.header.ifindex) =>
            {
                host
            }
            _ => Changes::default(),
        }
    }

    /// Whether a message about a discipline (`struct tcmsg` behind `struct nlmsghdr`,
    /// include/uapi/linux/rtnetlink.h) is about the root of one of our devices.
    fn is_limit(&self, message: &[u8]) -> bool {
        const IFINDEX: usize = 16 + 4;
        const PARENT: usize = 16 + 12;
        const ROOT: u32 = u32::MAX;
        let word = |at: usize| {
            let bytes = message.get(at..at + 4)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        word(PARENT) == Some(ROOT) && word(IFINDEX).is_some_and(|i| self.devices.contains(&i))
    }

    fn route_changes(&self, route: &RouteMessage) -> Changes {
        let ours = route.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL);
        let Some(to) = destination(route) else {
            return Changes::default();
        };
        let overlaps = |n: &IpNet| n.contains(&to) || to.contains(n);
        // A default route displaces nothing of ours, and leads to no pods.
        let of_pods = to.prefix_len() > 0 && self.networks.iter().any(overlaps);
        Changes {
            host: ours || of_pods,
            paths: !ours && (of_pods || self.has_peer_in(&to)),
            ..Changes::default()
        }
    }

    fn has_peer_in(&self, prefix: &IpNet) -> bool {
        let first = self.peers.partition_point(|p| *p < prefix.network());
        self.peers.get(first).is_some_and(|p| prefix.contains(p))
    }
}

/// What a message of nftables changes: only tables, chains, rules and sets of our table matter.
fn nftables_changes(datagram: &[u8]) -> Changes {
    Changes {
        nftables: messages(datagram).any(|(kind, message)| {
            kind >> 8 == NFTABLES_SUBSYSTEM && table_of(message).is_some_and(is_ours)
        }),
        ..Changes::default()
    }
}

fn is_ours(table: &[u8]) -> bool {
    let table = table.strip_suffix(b"\0").unwrap_or(table);
    [masquerade::TABLE, ports::TABLE]
        .map(str::as_bytes)
        .contains(&table)
}

/// The name of the table, which is attribute 1 in the messages about tables, chains, rules, sets
/// and their elements (include/uapi/linux/netfilter/nf_tables.h). Behind `nlmsghdr` (16 bytes)
/// and `nfgenmsg` (4 bytes) it comes first.
fn table_of(message: &[u8]) -> Option<&[u8]> {
    let attribute = message.get(20..)?;
    let length = u16::from_ne_bytes(*attribute.first_chunk()?);
    let kind = u16::from_ne_bytes(*attribute.get(2..)?.first_chunk()?);
    (kind == 1)
        .then(|| attribute.get(4..length.into()))
        .flatten()
}

/// The messages of a datagram, each with its type and header.
pub(super) fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
        let message = rest.get(..length).filter(|m| m.len() >= 16)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, message))
    })
}

pub(super) fn listen(protocol: isize, groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    let inner = socket.socket_mut();
    inner.bind(&SocketAddr::new(0, 0))?;
    // A smaller buffer is only more often "everything may have changed".
    let _ = inner.set_rx_buf_sz(SOCKET_BUFFER);
    for group in groups {
        match inner.add_membership(*group) {
            // A kernel without IPv6, nftables or next hop objects has no such group.
            Err(e) if e.raw_os_error() != Some(nix::libc::EINVAL) => return Err(e),
            _ => {}
        }
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interest() -> Interest {
        Interest {
            devices: HashSet::from([7]),
            networks: vec!["10.244.0.0/16".parse().unwrap()],
            peers: vec![
                "192.168.50.2".parse().unwrap(),
                "192.168.51.9".parse().unwrap(),
            ],
        }
    }

    #[track_caller]
    fn route(to: &str, protocol: u8, host: bool, paths: bool) {
        let to: IpNet = to.parse().unwrap();
        let mut message = RouteMessage::default();
        message.header.address_family = super::super::messages::family(to.addr());
        message.header.destination_prefix_length = to.prefix_len();
        message.header.protocol = RouteProtocol::from(protocol);
        let address = super::super::messages::route_address(to.addr());
        message.attributes = vec![rtnetlink::packet_route::route::RouteAttribute::Destination(
            address,
        )];
        let changes = interest().route_changes(&message);
        assert_eq!((changes.host, changes.paths), (host, paths), "{to}");
    }

    #[test]
    fn routes_matter_when_they_are_ours_or_lead_to_peers_or_hide_pods() {
        route("10.244.0.0/16", ROUTE_PROTOCOL, true, false);
        route("10.244.1.5/32", 4, true, true);
        route("10.244.2.0/24", 12, true, true);
        route("10.0.0.0/8", 4, true, true);
        route("192.168.50.0/24", 2, false, true);
        route("192.168.51.9/32", 4, false, true);
        route("192.168.50.3/32", 4, false, false);
        route("0.0.0.0/0", 4, false, true);
        route("172.16.0.0/12", 186, false, false);
    }

    #[test]
    fn only_our_table_matters() {
        let message = |kind: u16, table: &[u8]| {
            let attribute = u16::try_from(4 + table.len()).unwrap();
            let mut bytes = vec![0; 20];
            bytes.extend(attribute.to_ne_bytes());
            bytes.extend(1u16.to_ne_bytes());
            bytes.extend(table);
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let ours = message(NFTABLES_SUBSYSTEM << 8 | 6, b"oxlan\0");
        let other = message(NFTABLES_SUBSYSTEM << 8 | 6, b"kube-proxy\0");
        assert!(nftables_changes(&ours).nftables);
        assert!(!nftables_changes(&other).nftables);
        assert!(nftables_changes(&[other, ours].concat()).nftables);
        assert!(!nftables_changes(&[1, 2, 3]).nftables);
    }
}
