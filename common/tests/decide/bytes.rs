//! Bytes from descriptions.

use oxlan_common::addr::{Addr, Mac};
use oxlan_common::packet::Packet;
use oxlan_common::packet::ip::Ip;

use crate::describe::{Check, Fragment, Frame, FromPodCase, IpCase, L4, TunnelCase};

/// A packet in ordinary memory.
pub(crate) struct SlicePacket {
    pub(crate) bytes: Vec<u8>,
    pub(crate) ifindex: u32,
    pub(crate) gso_size: u32,
    pub(crate) is_tagged: bool,
    pub(crate) is_to_us: bool,
    /// Whether there is a connection for the packet in each namespace.
    pub(crate) has_socket: bool,
}

impl Packet for SlicePacket {
    fn read(&self, offset: u32, into: &mut [u8]) -> bool {
        let start = usize::try_from(offset).unwrap();
        let Some(bytes) = self.bytes.get(start..start + into.len()) else {
            return false;
        };
        into.copy_from_slice(bytes);
        true
    }

    fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap()
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn gso_size(&self) -> u32 {
        self.gso_size
    }

    fn is_tagged(&self) -> bool {
        self.is_tagged
    }

    fn is_to_us(&self) -> bool {
        self.is_to_us
    }

    fn has_tcp_socket(&self, _ip: &Ip, netns: i32) -> bool {
        assert!(
            netns >= 0,
            "a negative number means the node's own namespace"
        );
        self.has_socket
    }
}

pub(crate) fn pod_frame(case: &FromPodCase) -> Vec<u8> {
    frame(Mac::BROADCAST, case.mac, &case.frame)
}

pub(crate) fn inner_frame(case: &TunnelCase) -> Vec<u8> {
    frame(case.inner_dst, Mac::ZERO, &case.frame)
}

pub(crate) fn tunnel_frame(case: &TunnelCase) -> Vec<u8> {
    let inner = inner_frame(case);
    let mut vxlan = case.flags.to_be_bytes().to_vec();
    // The last byte of the header is reserved: a flag in the description's lowest bit stands for it.
    vxlan.extend((case.vni << 8).to_be_bytes());
    vxlan.extend(inner);
    let mut udp = [40000, case.port].map(u16::to_be_bytes).concat();
    udp.extend(length(8 + vxlan.len()));
    udp.extend([0, 0]);
    udp.extend(vxlan);
    let pseudo = pseudo_sum(case.outer_src, case.outer_dst, 17, udp.len());
    let right = match !folded(pseudo + sum(&udp)) {
        0 => 0xffff,
        right => right,
    };
    let check = match case.check {
        Check::None => 0,
        Check::Right => right,
        Check::Wrong => (right ^ 0x0180).max(1),
        Check::Partial => folded(pseudo),
    };
    udp[6..8].copy_from_slice(&check.to_be_bytes());
    if case.outer_dst.is_v4() {
        ethernet(Mac::ZERO, Mac::ZERO, [8, 0], &outer_v4(case, &udp))
    } else {
        ethernet(Mac::ZERO, Mac::ZERO, [0x86, 0xdd], &outer_v6(case, &udp))
    }
}

fn outer_v4(case: &TunnelCase, udp: &[u8]) -> Vec<u8> {
    let options = usize::from(case.has_options);
    let fragment = if case.is_fragment { 0x20 } else { 0 };
    let mut ip = vec![0x45 + u8::from(case.has_options), case.outer_ecn];
    ip.extend(length(20 + 4 * options + udp.len()));
    ip.extend([0, 0, fragment, 0, 64, 17, 0, 0]);
    ip.extend(case.outer_src.low_bytes());
    ip.extend(case.outer_dst.low_bytes());
    ip.extend(vec![0; 4 * options]);
    ip.extend(udp);
    ip
}

fn outer_v6(case: &TunnelCase, udp: &[u8]) -> Vec<u8> {
    let (next, extension): (u8, &[u8]) = match (case.is_fragment, case.has_options) {
        (true, _) => (44, &[17, 0, 0, 1, 0, 0, 0, 7]),
        (false, true) => (60, &[17, 0, 1, 4, 0, 0, 0, 0]),
        (false, false) => (17, &[]),
    };
    let mut ip = vec![0x60, case.outer_ecn << 4, 0, 0];
    ip.extend(length(extension.len() + udp.len()));
    ip.extend([next, 64]);
    ip.extend(case.outer_src.bytes);
    ip.extend(case.outer_dst.bytes);
    ip.extend(extension);
    ip.extend(udp);
    ip
}

/// Sum of words, the plain way.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2);
    words
        .map(|word| u64::from(word[0]) << 8 | word.get(1).map_or(0, |low| u64::from(*low)))
        .sum()
}

pub(crate) fn pseudo_sum(src: Addr, dst: Addr, protocol: u8, length: usize) -> u64 {
    let addresses = if src.is_v4() {
        [src.low_bytes(), dst.low_bytes()].concat()
    } else {
        [src.bytes, dst.bytes].concat()
    };
    sum(&addresses) + u64::from(protocol) + u64::try_from(length).unwrap()
}

pub(crate) fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum.try_into().unwrap()
}

fn frame(dst: Mac, src: Mac, frame: &Frame) -> Vec<u8> {
    match frame {
        Frame::Ip(ip) if ip.src.is_v4() => ethernet(dst, src, [8, 0], &ipv4(ip)),
        Frame::Ip(ip) => ethernet(dst, src, [0x86, 0xdd], &ipv6(ip)),
        Frame::Arp {
            operation,
            sender_mac,
            sender,
            target,
        } => {
            let mut arp = vec![0, 1, 8, 0, 6, 4, 0, *operation];
            arp.extend(sender_mac.bytes);
            arp.extend(sender.low_bytes());
            arp.extend([0; 6]);
            arp.extend(target.low_bytes());
            ethernet(dst, src, [8, 6], &arp)
        }
        Frame::Other => ethernet(dst, src, [0x88, 0xcc], &[0; 60]),
    }
}

fn ipv4(ip: &IpCase) -> Vec<u8> {
    let l4 = l4(ip);
    let header = 20 + 4 * usize::from(ip.options);
    let fragment: u16 = match ip.fragment {
        Fragment::Whole => 0,
        Fragment::First | Fragment::Tiny => 0x2000,
        Fragment::Later => 0x0003,
    };
    let fragment = fragment | if ip.df { 0x4000 } else { 0 };
    let mut bytes = vec![0x45 + ip.options, ip.tos];
    bytes.extend(told_length(ip, header + l4.len()));
    bytes.extend([0, 7]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([ip.ttl, protocol(ip.l4), 0, 0]);
    bytes.extend(ip.src.low_bytes());
    bytes.extend(ip.dst.low_bytes());
    bytes.extend(vec![1; header - 20]);
    let check = !folded(sum(&bytes));
    bytes[10..12].copy_from_slice(&check.to_be_bytes());
    bytes.extend(l4);
    bytes
}

fn ipv6(ip: &IpCase) -> Vec<u8> {
    let (first, mut rest) = extensions(ip);
    rest.extend(l4(ip));
    let mut bytes = vec![0x60 | ip.tos >> 4, ip.tos << 4, 0, 0];
    bytes.extend(told_length(ip, rest.len()));
    bytes.extend([first, ip.ttl]);
    bytes.extend(ip.src.bytes);
    bytes.extend(ip.dst.bytes);
    bytes.extend(rest);
    bytes
}

/// The first header's number, and the extension headers, each with the next one's number.
fn extensions(ip: &IpCase) -> (u8, Vec<u8>) {
    let mut numbers = ip.extensions.clone();
    if ip.fragment != Fragment::Whole {
        numbers.push(44);
    }
    numbers.push(protocol(ip.l4));
    let mut bytes = Vec::new();
    for pair in numbers.windows(2) {
        match pair[0] {
            44 => bytes.extend([pair[1], 0, 0, fragment_v6(ip.fragment), 0, 0, 0, 7]),
            51 => bytes.extend([&[pair[1], 2], &[0; 14][..]].concat()),
            _ => bytes.extend([&[pair[1], 1], &[0; 14][..]].concat()),
        }
    }
    (numbers[0], bytes)
}

fn fragment_v6(fragment: Fragment) -> u8 {
    match fragment {
        Fragment::Whole => 0,
        Fragment::First | Fragment::Tiny => 1,
        Fragment::Later => 8,
    }
}

fn l4(ip: &IpCase) -> Vec<u8> {
    let mut bytes = match ip.l4 {
        L4::Udp { dst_port } => [&[0, 1], &dst_port.to_be_bytes()[..], &[0; 4]].concat(),
        L4::Tcp { header_words } => {
            let mut header = vec![0; 4 * usize::from(header_words)];
            header[12] = header_words << 4;
            header
        }
        L4::Icmp6 { kind, code, target } => {
            [&[kind, code, 0, 0, 0, 0, 0, 0][..], &target.bytes].concat()
        }
        L4::Icmp4 { kind } => vec![kind, 0, 0, 0, 0, 0, 0, 0],
        L4::Other => vec![0; 8],
    };
    if ip.fragment == Fragment::Tiny {
        bytes.truncate(7);
        return bytes;
    }
    bytes.extend((0_u8..=255).cycle().take(ip.payload));
    fill_in_checksum(ip, &mut bytes);
    bytes
}

/// Makes the checksum right, and the length of a UDP datagram.
fn fill_in_checksum(ip: &IpCase, l4: &mut [u8]) {
    let at = match ip.l4 {
        L4::Udp { .. } => {
            let told = length(l4.len());
            l4[4..6].copy_from_slice(&told);
            6
        }
        L4::Tcp { .. } => 16,
        L4::Icmp4 { .. } | L4::Icmp6 { .. } => 2,
        L4::Other => return,
    };
    let pseudo = match ip.l4 {
        L4::Icmp4 { .. } => 0,
        L4::Udp { .. } | L4::Tcp { .. } | L4::Icmp6 { .. } | L4::Other => {
            pseudo_sum(ip.src, ip.dst, protocol(ip.l4), l4.len())
        }
    };
    let check = match !folded(pseudo + sum(l4)) {
        0 => 0xffff,
        check => check,
    };
    if at != 6 || has_udp_checksum(ip) {
        l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
    }
}

/// Some datagrams go without.
pub(crate) fn has_udp_checksum(ip: &IpCase) -> bool {
    !ip.payload.is_multiple_of(4)
}

pub(crate) fn protocol(l4: L4) -> u8 {
    match l4 {
        L4::Udp { .. } => 17,
        L4::Tcp { .. } => 6,
        L4::Icmp6 { .. } => 58,
        L4::Icmp4 { .. } => 1,
        L4::Other => 132,
    }
}

/// Length of the IP packet as it is.
pub(crate) fn ip_len(ip: &IpCase) -> usize {
    if ip.src.is_v4() {
        ipv4(ip).len()
    } else {
        ipv6(ip).len()
    }
}

/// What the header says about its length: a lie cannot go below nothing.
pub(crate) fn told(ip: &IpCase, true_length: usize) -> u16 {
    let length = i32::try_from(true_length).unwrap() + i32::from(ip.lie);
    u16::try_from(length.max(0)).unwrap()
}

fn told_length(ip: &IpCase, true_length: usize) -> [u8; 2] {
    told(ip, true_length).to_be_bytes()
}

fn length(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap().to_be_bytes()
}

fn ethernet(dst: Mac, src: Mac, ethertype: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&dst.bytes[..], &src.bytes, &ethertype, payload].concat()
}

/// The four or sixteen bytes of an address as a number, v4-mapped.
pub(crate) fn number(addr: Addr) -> u128 {
    u128::from_be_bytes(addr.bytes)
}
