//! Captured packets, taken apart: Ethernet, IPv4, UDP, VXLAN and what is inside, ICMP echo.

use std::net::Ipv4Addr;

use oxlan_common::addr::Mac;
use oxlan_common::wire::DEFAULT_PORT;

/// An Ethernet frame with an IPv4 packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// Length of the whole frame, bytes.
    pub(super) length: usize,
    pub(super) from: Mac,
    pub(super) to: Mac,
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) ttl: u8,
    /// Length of the IPv4 header, bytes.
    pub(super) header: usize,
    pub(super) payload: Payload,
}

/// What is in the IPv4 packet, as far as the demonstration sends it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Payload {
    EchoRequest { length: usize },
    Vxlan(Box<Vxlan>),
    Other,
}

/// UDP and VXLAN headers (RFC 7348, section 5) and the frame inside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Vxlan {
    pub(super) source_port: u16,
    pub(super) port: u16,
    pub(super) checksum: u16,
    pub(super) flags: u8,
    pub(super) vni: u32,
    pub(super) inner: Packet,
}

impl Packet {
    /// Takes a frame apart; none if it is no whole IPv4 packet.
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        const IPV4: [u8; 2] = [8, 0];
        const UDP: u8 = 17;
        const ICMP: u8 = 1;
        let (ethernet, packet) = frame.split_at_checked(14)?;
        let length = usize::from(packet.first()? & 0xf) * 4;
        let (header, rest) = packet.split_at_checked(length.max(20))?;
        if ethernet[12..] != IPV4 {
            return None;
        }
        let payload = match header[9] {
            ICMP => echo(rest),
            UDP => vxlan(rest),
            _ => None,
        };
        Some(Self {
            length: frame.len(),
            to: mac(ethernet, 0)?,
            from: mac(ethernet, 6)?,
            source: address(header, 12)?,
            destination: address(header, 16)?,
            ttl: header[8],
            header: length,
            payload: payload.unwrap_or(Payload::Other),
        })
    }

    /// Whether it is an echo request between these two, as it is.
    pub(super) fn is_echo(&self, from: Ipv4Addr, to: Ipv4Addr) -> bool {
        (self.source, self.destination) == (from, to)
            && matches!(self.payload, Payload::EchoRequest { .. })
    }

    /// Whether it carries one between these two in VXLAN.
    pub(super) fn carries_echo(&self, from: Ipv4Addr, to: Ipv4Addr) -> bool {
        matches!(&self.payload, Payload::Vxlan(vxlan) if vxlan.inner.is_echo(from, to))
    }
}

fn echo(icmp: &[u8]) -> Option<Payload> {
    const ECHO_REQUEST: u8 = 8;
    (*icmp.first()? == ECHO_REQUEST).then_some(Payload::EchoRequest { length: icmp.len() })
}

fn vxlan(udp: &[u8]) -> Option<Payload> {
    let (header, rest) = udp.split_at_checked(8)?;
    let (vxlan, frame) = rest.split_at_checked(8)?;
    let port = number(header, 2)?;
    if port != DEFAULT_PORT {
        return None;
    }
    Some(Payload::Vxlan(Box::new(Vxlan {
        source_port: number(header, 0)?,
        port,
        checksum: number(header, 6)?,
        flags: vxlan[0],
        vni: u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]),
        inner: Packet::parse(frame)?,
    })))
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?))
}

fn mac(bytes: &[u8], at: usize) -> Option<Mac> {
    Some(Mac::new(*bytes.get(at..)?.first_chunk()?))
}

/// The frames in the output of `tcpdump -xx`: a line for each, then lines as `\t0x0010:  4500 ...`.
pub(super) fn frames(text: &str) -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for line in text.lines() {
        match line
            .trim_start()
            .strip_prefix("0x")
            .and_then(|line| line.split_once(':'))
        {
            Some((_, digits)) => {
                if let Some(frame) = frames.last_mut() {
                    frame.extend(bytes(digits));
                }
            }
            None => frames.push(Vec::new()),
        }
    }
    frames
}

fn bytes(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks_exact(2);
    pairs
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `tcpdump -xx` printed on the underlay for a ping with 8 bytes of data.
    const CAPTURED: &str = "\
12:08:06.527117 IP 192.168.50.1.51234 > 192.168.50.2.8472: VXLAN, flags [I] (0x08), vni 1\n\
IP 10.244.1.2 > 10.244.2.3: ICMP echo request, id 1, seq 1, length 16\n\
\t0x0000:  0202 0000 0002 0202 0000 0001 0800 4500\n\
\t0x0010:  0056 0000 4000 4011 5543 c0a8 3201 c0a8\n\
\t0x0020:  3202 c822 2118 0042 0000 0800 0000 0000\n\
\t0x0030:  0100 0e00 c0a8 3202 0e00 c0a8 3201 0800\n\
\t0x0040:  4500 0024 0000 4000 3f01 2441 0af4 0102\n\
\t0x0050:  0af4 0203 0800 e5ca 0001 0001 0001 0203\n\
\t0x0060:  0405 0607\n";

    #[test]
    fn a_captured_packet_is_taken_apart() {
        let (from, to) = (Ipv4Addr::new(10, 244, 1, 2), Ipv4Addr::new(10, 244, 2, 3));
        let frames = frames(CAPTURED);
        let packet = frames
            .iter()
            .find_map(|frame| Packet::parse(frame))
            .unwrap();
        assert_eq!(packet.length, 100);
        assert!(packet.carries_echo(from, to) && !packet.is_echo(from, to));
        let Payload::Vxlan(vxlan) = packet.payload else {
            panic!("{packet:?}");
        };
        assert_eq!((vxlan.source_port, vxlan.port), (51234, 8472));
        assert_eq!((vxlan.checksum, vxlan.flags, vxlan.vni), (0, 8, 1));
        let inner = vxlan.inner;
        assert_eq!(inner.from.to_string(), "0e:00:c0:a8:32:01");
        assert_eq!((inner.ttl, inner.header, inner.length), (63, 20, 50));
        assert_eq!(inner.payload, Payload::EchoRequest { length: 16 });
    }

    #[test]
    fn parts_of_packets_are_refused() {
        let whole = frames(CAPTURED).pop().unwrap();
        for length in 0..34 {
            assert_eq!(Packet::parse(&whole[..length]), None);
        }
        let cut = Packet::parse(&whole[..60]).unwrap();
        assert_eq!(cut.payload, Payload::Other);
    }
}
