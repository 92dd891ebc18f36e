//! The payload of a VXLAN packet, right in every field until a test changes one.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;

/// VXLAN header, inner Ethernet and IPv4 header, and a UDP datagram.
#[derive(Clone)]
pub(crate) struct Forgery {
    pub(crate) flags: u8,
    pub(crate) vni: u32,
    pub(crate) inner_destination_mac: [u8; 6],
    pub(crate) ether_type: u16,
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) port: u16,
    /// How many bytes are sent.
    pub(crate) keep: usize,
}

impl Forgery {
    /// What a pod of `from` would have sent to a port of `pod` on `to`.
    pub(crate) fn between(from: &Node, to: &Node, pod: &Pod, port: u16) -> Result<Self> {
        let status = to.oxlan_json("status")?;
        let mac = status["vtep_mac"].as_str().context("no VTEP MAC")?;
        let mac: oxlan_common::addr::Mac = mac.parse()?;
        Ok(Self {
            flags: 0x08,
            vni: 1,
            inner_destination_mac: mac.bytes,
            ether_type: 0x0800,
            source: Ipv4Addr::new(10, 244, from.number, 99),
            destination: pod.ipv4()?,
            port,
            keep: usize::MAX,
        })
    }

    /// The payload of the outer UDP datagram.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.flags, 0, 0, 0];
        bytes.extend((self.vni << 8).to_be_bytes());
        bytes.extend(self.inner_destination_mac);
        bytes.extend([0x02, 0, 0, 0, 0, 0x99]);
        bytes.extend(self.ether_type.to_be_bytes());
        bytes.extend(self.ipv4());
        // UDP: source port, destination port, length, no checksum.
        for field in [4444, self.port, 8 + 6, 0] {
            bytes.extend(field.to_be_bytes());
        }
        bytes.extend(b"forged");
        bytes.truncate(self.keep);
        bytes
    }

    fn ipv4(&self) -> [u8; 20] {
        let mut header = [0; 20];
        header[..4].copy_from_slice(&[0x45, 0, 0, 20 + 8 + 6]);
        header[8..10].copy_from_slice(&[64, 17]);
        header[12..16].copy_from_slice(&self.source.octets());
        header[16..].copy_from_slice(&self.destination.octets());
        let checksum = checksum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(header: &[u8]) -> u16 {
    let words = header
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}
