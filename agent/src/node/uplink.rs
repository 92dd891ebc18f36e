//! Which devices are on the underlay.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::cluster::NodeSpec;
use crate::host::device::Device;
use crate::host::layer3::Address;
use crate::reconcile::desire::OVERLAY;
use crate::reconcile::ways::Ways;

/// MTU of an Ethernet (IEEE 802.3).
const ETHERNET_MTU: u32 = 1500;

/// There is no uplink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UplinkError {
    /// No device has the underlay address.
    #[error(
        "no device has the underlay address {address}: give it to the uplink, correct the cluster's configuration, or name the device with --uplink"
    )]
    NoAddress {
        /// The own underlay address.
        address: IpAddr,
    },
    /// The device that the option names does not exist.
    #[error("there is no device {name} (--uplink)")]
    NoDevice {
        /// Its name.
        name: String,
    },
}

/// The devices by which packets from and to the other nodes go, the most important one first: the
/// one of this name, or those that hold the underlay addresses; then those by which the kernel's
/// routes lead to the other nodes.
///
/// A loopback or dummy device can hold an underlay address (a router is told of it), but is no
/// uplink unless there is no other.
pub(super) fn find(
    devices: &[Device],
    addresses: &[Address],
    own: &NodeSpec,
    name: Option<&str>,
    ways: &Ways,
) -> Result<Vec<Device>, UplinkError> {
    let first = match name {
        Some(name) => {
            let named = devices.iter().find(|d| d.name == name);
            vec![named.ok_or_else(|| UplinkError::NoDevice { name: name.into() })?]
        }
        None => holders(devices, addresses, own)?,
    };
    let towards: BTreeSet<u32> = ways.devices().collect();
    let towards = devices.iter().filter(|d| towards.contains(&d.ifindex));
    let mut uplinks: Vec<Device> = Vec::new();
    for device in first.iter().copied().chain(towards) {
        let known = uplinks.iter().any(|u| u.ifindex == device.ifindex);
        if !known && !device.nowhere && device.name != OVERLAY {
            uplinks.push(device.clone());
        }
    }
    if uplinks.is_empty() {
        uplinks.extend(first.first().map(|d| (*d).clone()));
    }
    Ok(uplinks)
}

/// The least MTU of all uplinks, bytes.
pub(super) fn mtu(uplinks: &[Device]) -> Option<u32> {
    // What a loopback carries says nothing about the wire.
    let mtu = |d: &Device| if d.nowhere { ETHERNET_MTU } else { d.mtu };
    uplinks.iter().map(mtu).min()
}

/// The devices with the own underlay addresses, each of which must be there.
fn holders<'a>(
    devices: &'a [Device],
    addresses: &[Address],
    own: &NodeSpec,
) -> Result<Vec<&'a Device>, UplinkError> {
    let holder = |address| {
        let holder = addresses.iter().find(|a| a.net.addr() == address);
        holder
            .and_then(|a| devices.iter().find(|d| d.ifindex == a.ifindex))
            .ok_or(UplinkError::NoAddress { address })
    };
    own.underlay().map(holder).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use oxlan_common::addr::Mac;

    use super::*;
    use crate::cluster::Vtep;
    use crate::host::paths::{NextHop, Path};

    fn device(ifindex: u32, name: &str, mtu: u32, nowhere: bool) -> Device {
        Device {
            name: name.into(),
            ifindex,
            mtu,
            mac: Mac::ZERO,
            up: true,
            arp: true,
            makes_address: false,
            ethernet: !nowhere,
            nowhere,
            vxlan: None,
        }
    }

    fn devices() -> Vec<Device> {
        vec![
            device(1, "lo", 65_536, true),
            device(2, "eth0", 9000, false),
            device(3, "eth1", 1500, false),
            device(4, "bgp0", 1500, true),
            device(5, OVERLAY, 1450, false),
        ]
    }

    fn node(underlay: &[&str]) -> NodeSpec {
        let vtep = |address: &&str| Vtep {
            underlay: address.parse().unwrap(),
            mac: Mac::ZERO,
        };
        NodeSpec {
            name: "a".into(),
            pod_cidrs: Vec::new(),
            vteps: underlay.iter().map(vtep).collect(),
        }
    }

    /// Ways to other nodes by these devices.
    fn ways(devices: &[u32]) -> Ways {
        let path = |ifindex: &u32| {
            let address: IpAddr = format!("10.0.0.{ifindex}").parse().unwrap();
            let hop = NextHop {
                ifindex: *ifindex,
                address,
            };
            let path = Path {
                hop,
                shares: Vec::new(),
                down: Vec::new(),
                mtu: None,
                expires: None,
            };
            (address, Some(path))
        };
        Ways {
            nodes: devices.iter().map(path).collect(),
            prefixes: HashMap::new(),
        }
    }

    #[track_caller]
    fn expect(
        (holders, underlay): (&[u32], &[&str]),
        name: Option<&str>,
        by: &[u32],
        wanted: Result<&str, &str>,
    ) {
        let address = |(ifindex, address): (&u32, &&str)| Address {
            ifindex: *ifindex,
            net: address.parse::<IpAddr>().unwrap().into(),
        };
        let addresses: Vec<Address> = holders.iter().zip(underlay).map(address).collect();
        let found = find(&devices(), &addresses, &node(underlay), name, &ways(by));
        let names = |all: Vec<Device>| all.iter().map(|d| d.name.clone()).collect::<Vec<_>>();
        match wanted {
            Ok(wanted) => assert_eq!(names(found.unwrap()).join(" "), wanted),
            Err(wanted) => assert!(found.unwrap_err().to_string().contains(wanted)),
        }
    }

    const V4: &[&str] = &["192.0.2.1"];
    const BOTH: &[&str] = &["192.0.2.1", "2001:db8::1"];

    #[test]
    fn the_holder_of_the_address_comes_first_and_ways_to_others_count() {
        expect((&[2], V4), None, &[], Ok("eth0"));
        expect((&[3], V4), None, &[2, 3], Ok("eth1 eth0"));
        expect((&[2, 3], BOTH), None, &[], Ok("eth0 eth1"));
        expect((&[2], V4), Some("eth1"), &[2], Ok("eth1 eth0"));
        expect((&[2], V4), Some("eth1"), &[], Ok("eth1"));
        expect((&[2], V4), None, &[5], Ok("eth0"));
    }

    #[test]
    fn an_address_on_the_loopback_goes_by_the_ways_to_others() {
        expect((&[1], V4), None, &[2, 3], Ok("eth0 eth1"));
        expect((&[4, 1], BOTH), None, &[3], Ok("eth1"));
        expect((&[1], V4), None, &[], Ok("lo"));
    }

    #[test]
    fn what_is_not_there_is_named() {
        expect(
            (&[], V4),
            None,
            &[2],
            Err("no device has the underlay address 192.0.2.1"),
        );
        expect((&[2], BOTH), None, &[2], Err("address 2001:db8::1"));
        expect(
            (&[2], V4),
            Some("eth7"),
            &[2],
            Err("no device eth7 (--uplink)"),
        );
    }

    #[test]
    fn the_smallest_uplink_decides_about_the_mtu() {
        let of = |indices: &[u32]| {
            let all = devices()
                .into_iter()
                .filter(|d| indices.contains(&d.ifindex));
            mtu(&all.collect::<Vec<_>>())
        };
        assert_eq!(of(&[2]), Some(9000));
        assert_eq!(of(&[2, 3]), Some(1500));
        assert_eq!(of(&[1]), Some(1500));
        assert_eq!(of(&[]), None);
    }
}
