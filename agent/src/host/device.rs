//! Network devices: what they are like, and the changes that the agent makes to them.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's messages grow with every kernel"
)]

use oxlan_common::addr::Mac;
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVxlan, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

use super::rtnl::{Batch, Rtnl, RtnlError};

/// A network device as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its interface index.
    pub ifindex: u32,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Its MAC; zero when it has none.
    pub mac: Mac,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it resolves neighbours by ARP and neighbour discovery.
    pub arp: bool,
    /// Whether IPv6 gives it a link-local address by itself.
    pub makes_address: bool,
    /// Whether its packets have an Ethernet header.
    pub ethernet: bool,
    /// Whether it carries no packets to other machines: the loopback, or a dummy that holds an address.
    pub nowhere: bool,
    /// What it is, if it is a VXLAN device.
    pub vxlan: Option<Vxlan>,
}

/// The immutable properties of a VXLAN device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vxlan {
    /// UDP port on which it receives.
    pub port: u16,
    /// Whether the VTEP comes with each packet (collect-metadata mode) instead of from its own table.
    pub external: bool,
}

/// What to change on a device; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceChange {
    /// The MAC.
    pub mac: Option<Mac>,
    /// The MTU, bytes.
    pub mtu: Option<u32>,
    /// Whether it resolves neighbours by itself.
    pub arp: Option<bool>,
    /// Whether IPv6 gives it an address by itself.
    pub makes_address: Option<bool>,
    /// Set it up.
    pub up: bool,
}

/// Every device of the namespace of `rtnl`.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn devices(rtnl: &mut Rtnl) -> Result<Vec<Device>, RtnlError> {
    let mut all = LinkMessage::default();
    // Without the counters an answer is a third as long.
    let no_counters = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    all.attributes.push(no_counters);
    let answers = rtnl.dump("list devices", Message::GetLink(all))?;
    Ok(answers.iter().filter_map(device).collect())
}

/// Makes a VXLAN device in collect-metadata mode, down. The kernel loads its module when needed.
///
/// # Errors
/// When the kernel refuses, as it does when another VXLAN device has the port.
pub fn create_vxlan(rtnl: &mut Rtnl, name: &str, port: u16, mac: Mac) -> Result<(), RtnlError> {
    let mut link = named(name);
    link.attributes
        .push(LinkAttribute::Address(mac.bytes.to_vec()));
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Vxlan),
        LinkInfo::Data(InfoData::Vxlan(vec![
            InfoVxlan::CollectMetadata(true),
            InfoVxlan::Port(port),
            InfoVxlan::Learning(false),
        ])),
    ]));
    let mut batch = Batch::new();
    let what = format!("make the VXLAN device {name}, UDP port {port}");
    batch.create(what, Message::NewLink(link));
    rtnl.run(batch).map(drop)
}

/// Changes a device. It is set up last: the kernel would give it an address before it is told not to.
///
/// # Errors
/// When the kernel refuses.
pub fn change(rtnl: &mut Rtnl, name: &str, change: &DeviceChange) -> Result<(), RtnlError> {
    let mut batch = Batch::new();
    let while_down = DeviceChange {
        up: false,
        ..change.clone()
    };
    if while_down != DeviceChange::default() {
        let what = format!("change the device {name}");
        batch.request(what, Message::SetLink(message(name, &while_down)));
    }
    if change.up {
        let up = DeviceChange {
            up: true,
            ..DeviceChange::default()
        };
        let what = format!("set the device {name} up");
        batch.request(what, Message::SetLink(message(name, &up)));
    }
    rtnl.run(batch).map(drop)
}

/// Removes a device. That it is gone is success.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(rtnl: &mut Rtnl, name: &str) -> Result<(), RtnlError> {
    super::veth::remove(rtnl, name)
}

fn message(name: &str, change: &DeviceChange) -> LinkMessage {
    let mut link = named(name);
    let mut flag = |flag: LinkFlags, on: bool| {
        link.header.change_mask |= flag;
        if on {
            link.header.flags |= flag;
        }
    };
    if change.up {
        flag(LinkFlags::Up, true);
    }
    if let Some(arp) = change.arp {
        flag(LinkFlags::Noarp, !arp);
    }
    if let Some(mac) = change.mac {
        link.attributes
            .push(LinkAttribute::Address(mac.bytes.to_vec()));
    }
    if let Some(mtu) = change.mtu {
        link.attributes.push(LinkAttribute::Mtu(mtu));
    }
    if let Some(makes_address) = change.makes_address {
        let mode = if makes_address {
            In6AddrGenMode::Eui64
        } else {
            In6AddrGenMode::None
        };
        let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]);
        link.attributes
            .push(LinkAttribute::AfSpecUnspec(vec![inet6]));
    }
    link
}

fn named(name: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link
}

fn device(message: &Message) -> Option<Device> {
    let Message::NewLink(link) = message else {
        return None;
    };
    let mut device = Device {
        name: String::new(),
        ifindex: link.header.index,
        mtu: 0,
        mac: Mac::ZERO,
        up: link.header.flags.contains(LinkFlags::Up),
        arp: !link.header.flags.contains(LinkFlags::Noarp),
        makes_address: false,
        ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        nowhere: link.header.flags.contains(LinkFlags::Loopback),
        vxlan: None,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Address(mac) => {
                device.mac = Mac::new(mac.as_slice().try_into().unwrap_or_default());
            }
            LinkAttribute::AfSpecUnspec(families) => {
                device.makes_address = families.iter().any(makes_address);
            }
            LinkAttribute::LinkInfo(infos) => {
                device.vxlan = infos.iter().find_map(vxlan);
                device.nowhere |= infos.contains(&LinkInfo::Kind(InfoKind::Dummy));
            }
            _ => {}
        }
    }
    (!device.name.is_empty()).then_some(device)
}

fn makes_address(family: &AfSpecUnspec) -> bool {
    let AfSpecUnspec::Inet6(attributes) = family else {
        return false;
    };
    attributes.iter().any(
        |a| matches!(a, AfSpecInet6::AddrGenMode(mode) if !matches!(mode, In6AddrGenMode::None)),
    )
}

fn vxlan(info: &LinkInfo) -> Option<Vxlan> {
    let LinkInfo::Data(InfoData::Vxlan(attributes)) = info else {
        return None;
    };
    let mut vxlan = Vxlan {
        port: 0,
        external: false,
    };
    for attribute in attributes {
        match attribute {
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::CollectMetadata(external) => vxlan.external = *external,
            _ => {}
        }
    }
    Some(vxlan)
}
