//! Which device is on the underlay.

use std::net::IpAddr;

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
    /// The device that the option names does not exist.
    #[error("there is no device {name} (--uplink)")]
    NoDevice {
        /// Its name.
        name: String,
    },
}

/// The device of this name, or the one that holds the underlay address.
pub(super) fn find<'a>(
    devices: &'a [Device],
    addresses: &[Address],
    underlay: IpAddr,
    name: Option<&str>,
) -> Result<&'a Device, UplinkError> {
    if let Some(name) = name {
        let named = devices.iter().find(|d| d.name == name);
        return named.ok_or_else(|| UplinkError::NoDevice { name: name.into() });
    }
    let holder = addresses.iter().find(|a| a.net.addr() == underlay);
    holder
        .and_then(|a| devices.iter().find(|d| d.ifindex == a.ifindex))
        .ok_or(UplinkError::NoAddress { address: underlay })
}
