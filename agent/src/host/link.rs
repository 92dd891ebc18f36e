//! What a link is like now.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's messages grow with every kernel"
)]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use oxlan_common::addr::Mac;
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, State};
use rtnetlink::packet_route::route::RouteType;

use super::messages;
use super::rtnl::{Batch, Rtnl, RtnlError};

/// What a link is like now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// Interface index.
    pub ifindex: u32,
    /// MTU, bytes.
    pub mtu: u32,
    /// MAC.
    pub mac: Mac,
    /// Whether it is set up.
    pub up: bool,
    /// Whether the kernel has begun to send on it.
    pub running: bool,
    /// The number of the namespace of its other end, if that is another one.
    pub peer_netns: Option<i32>,
}

/// Waits until the kernel sends on the host side, which begins some time after both sides are up.
///
/// The carrier comes with the second side, and the kernel activates the first one's queue from
/// a work item (net/core/link_watch.c). Until then it drops what the host sends there, such as the
/// answer to a pod's first DNS request. Returns whether it has come to that before `patience` ended.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn wait_until_running(
    rtnl: &mut Rtnl,
    host_ifname: &str,
    patience: Duration,
) -> Result<bool, RtnlError> {
    wait(patience, || Ok(required(rtnl, host_ifname)?.running))
}

/// Waits until the namespace takes what is sent to its addresses.
///
/// The local route of an IPv6 address comes from a work item, also without duplicate address
/// detection (net/ipv6/addrconf.c, `addrconf_dad_work`). Until then the kernel takes packets to it for
/// somebody else's and drops them. Returns whether it has come to that before `patience` ended.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn wait_until_local(
    rtnl: &mut Rtnl,
    addresses: &[IpAddr],
    patience: Duration,
) -> Result<bool, RtnlError> {
    wait(patience, || {
        let questions = addresses.iter().map(|a| messages::match_route(*a));
        Ok(rtnl.ask_each(questions.collect())?.iter().all(is_local))
    })
}

fn is_local(answer: &Option<Message>) -> bool {
    match answer {
        Some(Message::NewRoute(route)) => route.header.kind == RouteType::Local,
        _ => false,
    }
}

fn wait(
    patience: Duration,
    mut done: impl FnMut() -> Result<bool, RtnlError>,
) -> Result<bool, RtnlError> {
    let begun = Instant::now();
    let mut pause = Duration::from_micros(100);
    while !done()? {
        if begun.elapsed() > patience {
            return Ok(false);
        }
        std::thread::sleep(pause);
        pause = (2 * pause).min(Duration::from_millis(5));
    }
    Ok(true)
}

/// The link of this name in the namespace of `rtnl`, if there is one.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn find(rtnl: &mut Rtnl, name: &str) -> Result<Option<LinkState>, RtnlError> {
    match required(rtnl, name) {
        Ok(link) => Ok(Some(link)),
        Err(e) if e.errno() == Some(nix::libc::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

/// [`find`] for a link that has to be there.
///
/// # Errors
/// When it is not, or the kernel cannot be asked.
pub fn required(rtnl: &mut Rtnl, name: &str) -> Result<LinkState, RtnlError> {
    let mut batch = Batch::new();
    batch.request(
        format!("find the interface {name}"),
        messages::get_link(name),
    );
    link_of(&rtnl.run(batch)?, name)
}

/// The link in an answer about `name`.
pub(super) fn link_of(answers: &[Message], name: &str) -> Result<LinkState, RtnlError> {
    let link = answers.iter().find_map(|answer| match answer {
        Message::NewLink(link) => state(link, name),
        _ => None,
    });
    link.ok_or_else(|| RtnlError::Answer(format!("it does not describe the interface {name}")))
}

/// What a link message says, if it is about the link of this name.
fn state(link: &LinkMessage, name: &str) -> Option<LinkState> {
    let mut state = LinkState {
        ifindex: link.header.index,
        mtu: 0,
        mac: Mac::ZERO,
        up: link.header.flags.contains(LinkFlags::Up),
        running: false,
        peer_netns: None,
    };
    let mut about = false;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(found) => about = found == name,
            LinkAttribute::Mtu(mtu) => state.mtu = *mtu,
            LinkAttribute::LinkNetNsId(id) => state.peer_netns = Some(*id),
            LinkAttribute::OperState(found) => state.running = *found == State::Up,
            LinkAttribute::Address(mac) => {
                state.mac = Mac::new(mac.as_slice().try_into().unwrap_or_default());
            }
            _ => {}
        }
    }
    about.then_some(state)
}
