//! Steps and deviations in words, for the log.

use std::fmt;
use std::net::IpAddr;

use super::{Step, Via};
use crate::host::device::{Device, DeviceChange, Vxlan};

/// What of a device is about to change, as it is now.
pub(super) fn differing(change: &DeviceChange, now: &Device) -> String {
    let mut words = Vec::new();
    if change.mac.is_some() {
        words.push(format!("MAC {}", now.mac));
    }
    if change.mtu.is_some() {
        words.push(format!("MTU {}", now.mtu));
    }
    if change.up {
        words.push("down".to_owned());
    }
    if change.arp.is_some() {
        words.push(if now.arp { "ARP on" } else { "ARP off" }.to_owned());
    }
    if change.makes_address.is_some() {
        words.push("making IPv6 addresses".to_owned());
    }
    words.join(", ")
}

pub(super) fn kind_in_words(vxlan: Option<Vxlan>) -> String {
    match vxlan {
        None => "not a VXLAN device".to_owned(),
        Some(Vxlan {
            port,
            external: true,
        }) => format!("a VXLAN device with port {port}"),
        Some(Vxlan { port, .. }) => format!("a VXLAN device with a fixed VNI, port {port}"),
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { name, source, mtu } => {
                write!(f, "dev {name}")?;
                preferred(f, source.as_ref())?;
                mtu.map_or(Ok(()), |mtu| write!(f, " mtu {mtu}"))
            }
            Self::Gateway {
                name,
                gateway,
                source,
            } => {
                write!(f, "via {gateway} dev {name}")?;
                preferred(f, source.as_ref())
            }
            Self::Unreachable => f.write_str("unreachable"),
        }
    }
}

fn preferred(f: &mut fmt::Formatter<'_>, source: Option<&IpAddr>) -> fmt::Result {
    source.map_or(Ok(()), |source| write!(f, " src {source}"))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateOverlay { name, port, mac } => {
                write!(f, "the overlay device {name}, port {port}, MAC {mac}")
            }
            Self::RemoveDevice(name) => write!(f, "the device {name}"),
            Self::ChangeDevice(name, change) => {
                write!(f, "the device {name}")?;
                if let Some(mac) = change.mac {
                    write!(f, ", MAC {mac}")?;
                }
                if let Some(mtu) = change.mtu {
                    write!(f, ", MTU {mtu}")?;
                }
                if change.up {
                    f.write_str(", up")?;
                }
                Ok(())
            }
            Self::AddAddress(device, address) | Self::RemoveAddress(device, address) => {
                write!(f, "the address {address} on {device}")
            }
            Self::SetRoute(to, _, via) | Self::RemoveRoute(to, _, via) => {
                write!(f, "the route {to} {via}")
            }
            Self::SetNeighbour(device, address, mac) => {
                write!(f, "the neighbour {address} lladdr {mac} on {device}")
            }
            Self::SetLimit(name, bucket) => write!(f, "the limit of {name}, {bucket}"),
            Self::SetSysctl(sysctl) => {
                write!(
                    f,
                    "the sysctl {} = {}",
                    sysctl.key.replace('/', "."),
                    sysctl.value
                )
            }
        }
    }
}
