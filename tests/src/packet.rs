//! Packets built byte by byte, for tests of the programs: what they get and what they must make of it.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that builds an impossible packet is wrong, and a panic says so"
)]

use oxlan_common::addr::{Addr, Mac};
use oxlan_common::packet::checksum;

/// IP protocol numbers.
pub use oxlan_common::packet::{ICMPV6, TCP, UDP};

/// An IPv4 or IPv6 header; the family is that of the addresses.
#[derive(Clone, Debug)]
pub struct Ip {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Protocol, or first extension header's number.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// IPv4's flags and fragment offset as they stand in the header.
    pub fragment: u16,
    /// Added to the length in the header, to make it wrong.
    pub lie: i16,
}

impl Ip {
    /// A header with ordinary values.
    ///
    /// # Panics
    ///
    /// If an address is not one.
    #[must_use]
    pub fn new(src: &str, dst: &str, protocol: u8) -> Self {
        Self {
            src: addr(src),
            dst: addr(dst),
            protocol,
            ttl: 64,
            tos: 0,
            fragment: 0,
            lie: 0,
        }
    }

    /// The header in front of a payload.
    #[must_use]
    pub fn with(&self, payload: &[u8]) -> Vec<u8> {
        match (self.src.as_v4(), self.dst.as_v4()) {
            (Some(src), Some(dst)) => self.v4(src, dst, payload),
            _ => self.v6(payload),
        }
    }

    /// The packet in an Ethernet frame.
    #[must_use]
    pub fn frame(&self, dst: Mac, src: Mac, payload: &[u8]) -> Vec<u8> {
        let ethertype = if self.src.is_v4() {
            [0x08, 0x00]
        } else {
            [0x86, 0xdd]
        };
        ethernet(dst, src, ethertype, &self.with(payload))
    }

    fn v4(&self, src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut header = vec![0x45, self.tos];
        header.extend(self.length(20 + payload.len()));
        header.extend([0x12, 0x34]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(src);
        header.extend(dst);
        let check = checksum::of(&header, 0);
        header[10..12].copy_from_slice(&check);
        header.extend(payload);
        header
    }

    fn v6(&self, payload: &[u8]) -> Vec<u8> {
        let mut header = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
        header.extend(self.length(payload.len()));
        header.extend([self.protocol, self.ttl]);
        header.extend(self.src.bytes);
        header.extend(self.dst.bytes);
        header.extend(payload);
        header
    }

    fn length(&self, true_length: usize) -> [u8; 2] {
        let length = u16::try_from(true_length).expect("a length that fits a header");
        length.wrapping_add_signed(self.lie).to_be_bytes()
    }
}

/// An address, as in a configuration.
///
/// # Panics
///
/// If it is not one.
#[must_use]
pub fn addr(text: &str) -> Addr {
    text.parse::<std::net::IpAddr>().expect(text).into()
}

/// An Ethernet frame.
#[must_use]
pub fn ethernet(dst: Mac, src: Mac, ethertype: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&dst.bytes[..], &src.bytes, &ethertype, payload].concat()
}

/// A UDP datagram without a checksum.
///
/// # Panics
///
/// If the payload does not fit.
#[must_use]
pub fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a datagram's length");
    let header = [src, dst, length, 0].map(u16::to_be_bytes).concat();
    [&header[..], payload].concat()
}

/// A VXLAN header in front of an inner frame.
#[must_use]
pub fn vxlan(flags: u32, vni: u32, inner: &[u8]) -> Vec<u8> {
    let header = [flags, vni << 8].map(u32::to_be_bytes).concat();
    [&header[..], inner].concat()
}

/// The I flag, as it stands in the first word of a VXLAN header.
pub const VXLAN_I: u32 = 0x0800_0000;

/// An ARP message for IPv4 over Ethernet; operation 1 asks, 2 answers.
#[must_use]
pub fn arp(operation: u8, sender: (Mac, &str), target: (Mac, &str)) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4, 0, operation];
    for (mac, ip) in [sender, target] {
        message.extend(mac.bytes);
        message.extend(addr(ip).low_bytes());
    }
    message
}

/// A TCP, UDP or ICMPv6 segment with the checksum that it must have in the packet `ip`.
///
/// # Panics
///
/// If `ip` has none of these protocols.
#[must_use]
pub fn checked(ip: &Ip, mut segment: Vec<u8>) -> Vec<u8> {
    let at = match ip.protocol {
        TCP => 16,
        UDP => 6,
        ICMPV6 => 2,
        other => panic!("protocol {other} is not known here"),
    };
    segment[at..at + 2].fill(0);
    let check = match checksum::of(&segment, pseudo_sum(ip, segment.len())) {
        [0, 0] => [0xff, 0xff],
        check => check,
    };
    segment[at..at + 2].copy_from_slice(&check);
    segment
}

/// Sum of the pseudo header, which a sender leaves in the checksum's place for its device to go on with.
///
/// # Panics
///
/// If the length is no segment's.
#[must_use]
pub fn pseudo_sum(ip: &Ip, length: usize) -> u32 {
    let addresses = match (ip.src.as_v4(), ip.dst.as_v4()) {
        (Some(src), Some(dst)) => checksum::of_words(&[src, dst].concat()),
        _ => checksum::of_words(&[ip.src.bytes, ip.dst.bytes].concat()),
    };
    let length = u32::try_from(length).expect("a segment's length");
    addresses + length + u32::from(ip.protocol)
}

/// An ICMPv6 message with its checksum, for the addresses of `ip`.
#[must_use]
pub fn icmpv6(ip: &Ip, kind: u8, body: &[u8]) -> Vec<u8> {
    let message = [&[kind, 0, 0, 0], body].concat();
    let ip = Ip {
        protocol: ICMPV6,
        ..ip.clone()
    };
    checked(&ip, message)
}

/// A neighbour solicitation (RFC 4861, section 4.3) with the sender's MAC as its option.
#[must_use]
pub fn solicitation(ip: &Ip, target: &str, sender: Mac) -> Vec<u8> {
    let body = [&[0; 4][..], &addr(target).bytes, &[1, 1], &sender.bytes].concat();
    icmpv6(ip, 135, &body)
}
