//! Ports of the host that lead to pods (the capability `portMappings`).
//!
//! The kernel's table always follows from the records: it is written as a whole after each change of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::inner::{Inner, Records};
use super::{Attachment, Key, Phase, PodError};
use crate::host::conntrack;
use crate::host::nftables::{self, Listing};
use crate::host::ports::{self, Protocol, Published};
use crate::host::sysctl;

/// A port of the host that leads to a port of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Address of the host; none for all of them, `0.0.0.0` or `::` for all of a family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// Port of the host, 1 to 65535.
    pub host_port: u16,
    /// Port of the pod, 1 to 65535.
    pub container_port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl PortMapping {
    /// The host's address, if it is one; nothing stands for all of a family.
    fn address(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    fn has_family_of(&self, address: IpAddr) -> bool {
        self.host_ip
            .is_none_or(|ip| ip.is_ipv4() == address.is_ipv4())
    }

    /// Whether a packet could be meant for both.
    fn meets(&self, other: &Self) -> bool {
        let may_be = |one: &Self, other: &Self| match (one.host_ip, other.host_ip) {
            (Some(one), Some(other)) => {
                one == other || (one.is_unspecified() && one.is_ipv4() == other.is_ipv4())
            }
            (None, _) | (_, None) => true,
        };
        self.host_port == other.host_port
            && self.protocol == other.protocol
            && (may_be(self, other) || may_be(other, self))
    }
}

impl std::fmt::Display for PortMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (port, protocol) = (self.host_port, self.protocol.name());
        match self.host_ip {
            Some(ip) => write!(f, "port {port}/{protocol} of {ip}"),
            None => write!(f, "port {port}/{protocol}"),
        }
    }
}

/// The kernel's table as it was last written.
#[derive(Default)]
pub(super) struct Table(Mutex<Option<(BTreeSet<Published>, Option<Listing>)>>);

impl Table {
    /// Held while the records are read and written to the kernel, so that the last writer knows all of them.
    fn lock(&self) -> MutexGuard<'_, Option<(BTreeSet<Published>, Option<Listing>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses a port that another attachment has, or that is wanted twice, or for a family that the pod lacks.
pub(super) fn check(
    records: &Records,
    key: &Key,
    wanted: &[PortMapping],
    addresses: &[IpAddr],
) -> Result<(), PodError> {
    for (at, mapping) in wanted.iter().enumerate() {
        if !addresses.iter().any(|a| mapping.has_family_of(*a)) {
            return Err(PodError::PortFamily(*mapping));
        }
        let earlier = wanted.iter().take(at);
        let twice = earlier.filter(|other| mapping.meets(other)).map(|_| key);
        let others = records.attachments.iter().filter(|(k, _)| *k != key);
        let others = others.flat_map(|(k, a)| a.ports.iter().map(move |p| (k, p)));
        let taken = others.filter(|(_, p)| mapping.meets(p)).map(|(k, _)| k);
        if let Some(owner) = twice.chain(taken).next() {
            return Err(PodError::PortTaken {
                port: *mapping,
                container_id: owner.container_id.clone(),
            });
        }
    }
    Ok(())
}

impl Attachment {
    /// What it publishes, one entry per address of the pod.
    fn published(&self) -> impl Iterator<Item = Published> {
        self.ports.iter().flat_map(|mapping| {
            let pods = self.addresses.iter().copied();
            let pods = pods.filter(|pod| mapping.has_family_of(*pod));
            pods.map(|pod| Published {
                host: mapping.address(),
                protocol: mapping.protocol,
                host_port: mapping.host_port,
                pod,
                pod_port: mapping.container_port,
            })
        })
    }
}

impl Inner {
    /// Publishes an attachment's ports; a UDP flow to one of them that is older goes to the pod from now on.
    pub(super) fn publish(&self, attachment: &Attachment) -> Result<(), PodError> {
        if attachment.ports.is_empty() {
            return Ok(());
        }
        if attachment.addresses.iter().any(IpAddr::is_ipv4) {
            // Without it, what the host sends to one of its ports by 127.0.0.1 must not leave it.
            let key = format!("net/ipv4/conf/{}/route_localnet", attachment.host_ifname);
            sysctl::write(&key, "1").map_err(crate::host::veth::VethError::from)?;
        }
        self.write_ports()?;
        forget_flows(attachment);
        Ok(())
    }

    /// The opposite; idempotent.
    pub(super) fn unpublish(&self, attachment: &Attachment) -> Result<(), PodError> {
        if attachment.ports.is_empty() {
            return Ok(());
        }
        self.write_ports()?;
        forget_flows(attachment);
        Ok(())
    }

    /// Writes the kernel's table if it is not what the records say, or somebody has changed it. Whether it had to be.
    pub(super) fn repair_ports(&self) -> Result<bool, PodError> {
        let mut table = self.ports.lock();
        let wanted = self.wanted_ports();
        let now = nftables::list(ports::TABLE)?;
        let right = table
            .as_ref()
            .filter(|(was, _)| *was == wanted)
            .map(|(_, listing)| listing);
        if right == Some(&now) {
            return Ok(false);
        }
        let listing = nftables::settle(right, || ports::replace(&wanted))?;
        let known = table.replace((wanted, listing)).is_some();
        Ok(known)
    }

    fn write_ports(&self) -> Result<(), PodError> {
        let mut table = self.ports.lock();
        let wanted = self.wanted_ports();
        if table.as_ref().is_none_or(|(was, _)| *was != wanted) {
            let listing = ports::replace(&wanted)?;
            *table = Some((wanted, listing));
        }
        Ok(())
    }

    fn wanted_ports(&self) -> BTreeSet<Published> {
        let records = self.records();
        let present = records.attachments.values();
        let present = present.filter(|a| a.phase != Phase::Removing);
        present.flat_map(Attachment::published).collect()
    }
}

/// That an old UDP flow goes on to nobody for a while is no reason to fail.
fn forget_flows(attachment: &Attachment) {
    let udp = attachment
        .ports
        .iter()
        .filter(|p| p.protocol == Protocol::Udp);
    let ports: Vec<u16> = udp.map(|p| p.host_port).collect();
    if ports.is_empty() {
        return;
    }
    match conntrack::forget_udp(&attachment.addresses, &ports) {
        Ok(0) => {}
        Ok(flows) => tracing::info!(?ports, flows, "forgot older UDP flows to published ports"),
        Err(error) => {
            tracing::warn!(?ports, %error, "cannot forget older UDP flows to published ports")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_ip: &str, host_port: u16, protocol: Protocol) -> PortMapping {
        PortMapping {
            host_ip: host_ip.parse().ok(),
            host_port,
            container_port: 80,
            protocol,
        }
    }

    #[test]
    fn ports_meet_where_a_packet_could_be_meant_for_both() {
        use Protocol::{Tcp, Udp};
        for (one, other, meet) in [
            (mapping("", 80, Tcp), mapping("", 80, Tcp), true),
            (mapping("", 80, Tcp), mapping("", 81, Tcp), false),
            (mapping("", 80, Tcp), mapping("", 80, Udp), false),
            (mapping("", 80, Tcp), mapping("192.0.2.1", 80, Tcp), true),
            (
                mapping("0.0.0.0", 80, Tcp),
                mapping("192.0.2.1", 80, Tcp),
                true,
            ),
            (
                mapping("0.0.0.0", 80, Tcp),
                mapping("2001:db8::1", 80, Tcp),
                false,
            ),
            (mapping("::", 80, Tcp), mapping("0.0.0.0", 80, Tcp), false),
            (
                mapping("192.0.2.1", 80, Tcp),
                mapping("192.0.2.2", 80, Tcp),
                false,
            ),
        ] {
            assert_eq!(one.meets(&other), meet, "{one} and {other}");
            assert_eq!(other.meets(&one), meet, "{other} and {one}");
        }
    }
}
