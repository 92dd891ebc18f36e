//! What XDP has to know about a device.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's messages grow with every kernel"
)]

use std::collections::BTreeSet;

use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::{
    InfoKind, InfoPortKind, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage,
};

use super::ethtool;
use super::rtnl::{Rtnl, RtnlError};

/// A device as XDP sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// Its kind, if it is a virtual device, as `veth`.
    pub kind: Option<String>,
    /// Its driver, if it tells.
    pub driver: Option<String>,
    /// Whether it is a port of a bridge.
    pub bridge_port: bool,
    /// Whether VLAN devices are on top of it.
    pub carries_vlans: bool,
    /// Whether it takes all frames, as for a capture; most drivers switch their VLAN filter off then.
    pub promiscuous: bool,
    /// Features that are on.
    pub features: BTreeSet<String>,
}

impl Nic {
    /// Whether a feature is on.
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(feature)
    }
}

/// The devices with these indexes, as far as they are there.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn nics(rtnl: &mut Rtnl, wanted: &[u32]) -> Result<Vec<(u32, Nic)>, RtnlError> {
    let mut all = LinkMessage::default();
    let no_counters = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    all.attributes.push(no_counters);
    let links = rtnl.dump("list devices", Message::GetLink(all))?;
    let links: Vec<&LinkMessage> = links.iter().filter_map(link).collect();
    let below: BTreeSet<u32> = links.iter().filter_map(|link| vlan_below(link)).collect();
    let wanted = links.iter().filter(|l| wanted.contains(&l.header.index));
    Ok(wanted
        .map(|link| (link.header.index, nic(link, &below)))
        .collect())
}

fn link(message: &Message) -> Option<&LinkMessage> {
    match message {
        Message::NewLink(link) => Some(link),
        _ => None,
    }
}

fn nic(link: &LinkMessage, below_vlans: &BTreeSet<u32>) -> Nic {
    let mut nic = Nic {
        carries_vlans: below_vlans.contains(&link.header.index),
        ..Nic::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => nic.name.clone_from(name),
            LinkAttribute::Promiscuity(users) => nic.promiscuous = *users > 0,
            LinkAttribute::LinkInfo(infos) => {
                let bridge = LinkInfo::PortKind(InfoPortKind::Bridge);
                nic.bridge_port = infos.contains(&bridge);
                nic.kind = kind(infos).map(ToString::to_string);
            }
            _ => {}
        }
    }
    nic.driver = ethtool::driver(&nic.name).ok();
    // Of a device that tells nothing nothing is known to stand in the way.
    nic.features = ethtool::features(&nic.name).unwrap_or_default();
    nic
}

fn kind(infos: &[LinkInfo]) -> Option<&InfoKind> {
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

/// The device below a VLAN device.
fn vlan_below(link: &LinkMessage) -> Option<u32> {
    let is_vlan = |a: &LinkAttribute| matches!(a, LinkAttribute::LinkInfo(infos) if kind(infos) == Some(&InfoKind::Vlan));
    if !link.attributes.iter().any(is_vlan) {
        return None;
    }
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Link(below) => Some(*below),
            _ => None,
        })
}
