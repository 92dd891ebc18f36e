//! The hash of a flow: what counts for it, and what does not.

use oxlan_common::packet::flow_hash::flow_hash;
use oxlan_common::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Front, ICMP, TCP, UDP};
use oxlan_common::wire::flow_port;
use proptest::prelude::*;

use crate::bytes::SlicePacket;

/// The hash of a packet with this IP header and these bytes behind it.
fn hash(l3: &[u8], l4: &[u8]) -> u32 {
    let is_v6 = l3.len() == 40;
    let ethertype = if is_v6 {
        ETHERTYPE_IPV6
    } else {
        ETHERTYPE_IPV4
    };
    let packet = SlicePacket {
        bytes: [&[0; 12], &ethertype[..], l3, l4].concat(),
        ifindex: 1,
        gso_size: 0,
        is_tagged: false,
        is_to_us: true,
        has_socket: false,
    };
    let mut front = Front::empty();
    assert!(front.read(&packet, 0));
    flow_hash(&packet, &front)
}

fn v4(protocol: u8, src: [u8; 4], fragment: [u8; 2]) -> [u8; 20] {
    let mut l3 = [0; 20];
    l3[0] = 0x45;
    l3[6..8].copy_from_slice(&fragment);
    l3[9] = protocol;
    l3[12..16].copy_from_slice(&src);
    l3[16..].copy_from_slice(&[10, 0, 2, 1]);
    l3
}

fn v6(protocol: u8, src: u8) -> [u8; 40] {
    let mut l3 = [0; 40];
    l3[0] = 0x60;
    l3[6] = protocol;
    l3[8..24].fill(src);
    l3[24..].fill(0xfd);
    l3
}

const POD: [u8; 4] = [10, 0, 1, 1];
const WHOLE: [u8; 2] = [0x40, 0];

#[test]
fn each_part_of_a_flow_counts() {
    let hashes = [
        hash(&v4(TCP, POD, WHOLE), &[0, 80, 1, 1]),
        hash(&v4(UDP, POD, WHOLE), &[0, 80, 1, 1]),
        hash(&v4(TCP, [10, 0, 1, 2], WHOLE), &[0, 80, 1, 1]),
        hash(&v4(TCP, POD, WHOLE), &[0, 81, 1, 1]),
        hash(&v4(TCP, POD, WHOLE), &[1, 1, 0, 80]),
        hash(&v6(TCP, 1), &[0, 80, 1, 1]),
        hash(&v6(TCP, 2), &[0, 80, 1, 1]),
        hash(&v6(TCP, 1), &[0, 80, 1, 2]),
    ];
    let mut distinct = hashes.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), hashes.len(), "{hashes:x?}");
}

#[test]
fn fragments_of_a_packet_stay_together() {
    let first = hash(&v4(UDP, POD, [0x20, 0]), &[0, 80, 1, 1]);
    assert_eq!(first, hash(&v4(UDP, POD, [0x20, 9]), &[0xaa; 4]));
    assert_eq!(first, hash(&v4(UDP, POD, [0x00, 18]), &[]));
}

#[test]
fn what_has_no_ports_is_a_flow_of_its_addresses() {
    let echo = |l4: &[u8]| hash(&v4(ICMP, POD, WHOLE), l4);
    assert_eq!(echo(&[8, 0, 1, 2]), echo(&[8, 0, 3, 4]));
    // Behind an extension header, and cut off.
    assert_eq!(hash(&v6(60, 1), &[1; 8]), hash(&v6(60, 1), &[2; 8]));
    assert_eq!(
        hash(&v4(TCP, POD, WHOLE), &[0, 80]),
        hash(&v4(TCP, POD, WHOLE), &[])
    );
}

/// Many connections between two pods must use many source ports of the tunnel.
#[test]
fn neighbouring_ports_are_spread() {
    for l3 in [&v4(TCP, POD, WHOLE)[..], &v6(TCP, 1)[..]] {
        let mut ports: Vec<u16> = (0..1_000_u16)
            .map(|n| hash(l3, &[&(40_000 + n).to_be_bytes()[..], &[0, 80]].concat()))
            .map(flow_port)
            .collect();
        ports.sort_unstable();
        ports.dedup();
        // 1,000 balls into 28,231 urns leave 983 of them with one.
        assert!(ports.len() > 960, "{} ports", ports.len());
    }
}

proptest! {
    /// What routers change, and what differs from packet to packet, does not.
    #[test]
    fn packets_of_a_flow_have_one_hash(tos: u8, ttl: u8, len: u16, id: u16, rest: u32) {
        let mut l3 = v4(TCP, POD, WHOLE);
        let before = hash(&l3, &[0, 80, 1, 1, 9]);
        l3[1] = tos;
        l3[2..4].copy_from_slice(&len.to_be_bytes());
        l3[4..6].copy_from_slice(&id.to_be_bytes());
        l3[8] = ttl;
        let [a, b, c, d] = rest.to_be_bytes();
        prop_assert_eq!(before, hash(&l3, &[0, 80, 1, 1, a, b, c, d]));
    }
}
