//! Which device is on the underlay.

use std::net::{IpAddr, Ipv4Addr};

use crate::cluster::NodeSpec;
use crate::host::device::Device;
use crate::host::layer3::Address;

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
    /// The addresses of the two families are on different devices.
    #[error(
        "the underlay addresses are on different devices, {first} on {first_device} and {second} on {second_device}: give both to one device, or name the uplink with --uplink"
    )]
    Split {
        /// The own underlay address of the first family.
        first: IpAddr,
        /// Where it is.
        first_device: String,
        /// The own underlay address of the second family.
        second: IpAddr,
        /// Where it is.
        second_device: String,
    },
    /// The device that the option names does not exist.
    #[error("there is no device {name} (--uplink)")]
    NoDevice {
        /// Its name.
        name: String,
    },
}

/// The device of this name, or the one that holds all underlay addresses of `own`.
pub(super) fn find<'a>(
    devices: &'a [Device],
    addresses: &[Address],
    own: &NodeSpec,
    name: Option<&str>,
) -> Result<&'a Device, UplinkError> {
    if let Some(name) = name {
        let named = devices.iter().find(|d| d.name == name);
        return named.ok_or_else(|| UplinkError::NoDevice { name: name.into() });
    }
    let mut holders = own.underlay().map(|address| {
        let holder = addresses.iter().find(|a| a.net.addr() == address);
        holder
            .and_then(|a| devices.iter().find(|d| d.ifindex == a.ifindex))
            .map(|device| (address, device))
            .ok_or(UplinkError::NoAddress { address })
    });
    // Every valid description of a node has an address.
    let (first, device) = holders.next().ok_or(UplinkError::NoAddress {
        address: Ipv4Addr::UNSPECIFIED.into(),
    })??;
    for holder in holders {
        let (second, other) = holder?;
        if other.ifindex != device.ifindex {
            return Err(UplinkError::Split {
                first,
                first_device: device.name.clone(),
                second,
                second_device: other.name.clone(),
            });
        }
    }
    Ok(device)
}
