//! Tells when an interface inside a pod changes: its MTU, or whether it polls.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's messages grow with every kernel"
)]

use std::collections::BTreeSet;
use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::LinkAttribute;

use super::watch;

/// Group of messages about links (include/uapi/linux/rtnetlink.h, `RTNLGRP_LINK`).
const LINKS: u32 = 1;

/// The kernel's messages about links in all namespaces that this one has a number for, as it has for pods'.
pub struct PodLinks {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl PodLinks {
    /// Starts to listen.
    ///
    /// # Errors
    /// Without `CAP_NET_BROADCAST`.
    pub fn open() -> io::Result<Self> {
        let mut socket = watch::listen(NETLINK_ROUTE, &[LINKS])?;
        socket.socket_mut().set_listen_all_namespaces(true)?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(watch::RECEIVE_BUFFER),
        })
    }

    /// Waits for changes. Interface indices of the other ends of links that have changed, on this node or
    /// elsewhere; none when messages were lost, so that it may be any.
    pub async fn changed(&mut self) -> Option<BTreeSet<u32>> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer).await {
                Err(_) => return None,
                Ok(()) => {
                    let ends: BTreeSet<u32> = other_ends(&self.buffer).collect();
                    if !ends.is_empty() {
                        return Some(ends);
                    }
                }
            }
        }
    }
}

/// The other ends of the links that the messages of a datagram are about.
fn other_ends(datagram: &[u8]) -> impl Iterator<Item = u32> {
    watch::messages(datagram).filter_map(|(_, message)| {
        let parsed = NetlinkMessage::<Message>::deserialize(message).ok()?;
        let NetlinkPayload::InnerMessage(Message::NewLink(link)) = parsed.payload else {
            return None;
        };
        link.attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Link(end) => Some(*end),
                _ => None,
            })
    })
}
