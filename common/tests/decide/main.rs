//! The forwarding decision against a plain model of its rules, over random packets and tables.
//!
//! The model sees descriptions, the decision sees the bytes made from them; so this tests the
//! reading of headers, too. The model is written for reading, not for speed, and shares no code
//! with what it checks.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod bytes;
mod describe;
mod flow_hash;
mod model;
mod world;

use bytes::{SlicePacket, pod_frame, tunnel_frame};
use describe::{FromPodCase, TunnelCase, from_pod_case, tunnel_case, world as any_world};
use oxlan_common::addr::Addr;
use oxlan_common::decide::{
    self, FromOverlay, FromPeer, FromPod, FromUplink, HostTask, ToOverlay, TunnelKey,
};
use oxlan_common::packet::encap::{Carried, Encapsulation, Tunnel};
use oxlan_common::packet::{Front, Packet as _};
use proptest::prelude::*;
use world::{Outcome, World};

fn decide_from_pod(case: &FromPodCase, world: &World) -> Outcome {
    let packet = SlicePacket {
        bytes: pod_frame(case),
        ifindex: case.ifindex,
        gso_size: case.gso_size,
        is_tagged: case.is_tagged,
        is_to_us: true,
        has_socket: false,
    };
    let mut front = Front::empty();
    assert!(front.read(&packet, 0));
    match decide::from_pod(&packet, &front, world) {
        FromPod::Unconfigured => Outcome::Next,
        FromPod::Deliver { pod, .. } => Outcome::Pod(pod.ifindex),
        FromPod::Encapsulate { route, config, .. } => {
            let Some(sum) = decide::outer_sum(&packet, &front, route) else {
                return Outcome::Host;
            };
            let traffic_class = config.outer_traffic_class(front.traffic_class());
            let tunnel = Tunnel {
                src: *config.underlay_like(&route.underlay),
                dst: route.underlay,
                port: config.port,
                vni: route.vni,
                dst_mac: route.mac,
                src_mac: config.vtep_mac,
            };
            check_encapsulation(&packet, front, &tunnel, (traffic_class, sum));
            Outcome::Vtep(route.underlay, traffic_class)
        }
        FromPod::Route { route, .. } => Outcome::Peer(route.next_hop),
        FromPod::ToHost(HostTask::Translate) => Outcome::Translated,
        FromPod::ToHost(_) => Outcome::Host,
        FromPod::ArpReply(arp) => Outcome::Answer(arp.target),
        FromPod::NdReply(target) => Outcome::Answer(target),
        FromPod::TooBig(answer) => Outcome::TooBig(answer.source, answer.mtu),
        FromPod::Ignore => Outcome::Ignored,
        FromPod::Drop(reason) => Outcome::Dropped(reason),
    }
}

/// The outer headers say what they should, and the checksums that they have are right.
fn check_encapsulation(
    packet: &SlicePacket,
    mut front: Front,
    tunnel: &Tunnel,
    (traffic_class, sum): (u8, u32),
) {
    let difference = front.decrement_hop_limit();
    let carried = Carried {
        frame_len: packet.len(),
        traffic_class,
        hash: 7,
        id: 9,
        sum: sum + difference,
    };
    let headers = Encapsulation::new(tunnel, &front, &carried);
    // The kernel has put the room behind the Ethernet header, in front of the inner IP header.
    let written = &packet.bytes[14 + 12..];
    let outer = [headers.bytes(), written].concat();
    let inner_len = packet.bytes.len() + 16;
    if tunnel.dst.is_v4() {
        assert_eq!(outer.len(), 20 + inner_len);
        assert_eq!((outer[0], outer[1]), (0x45, traffic_class));
        assert_eq!(bytes::folded(bytes::sum(&outer[..20])), 0xffff);
        assert_eq!(outer[26..28], [0, 0], "no UDP checksum");
    } else {
        assert_eq!(outer.len(), 40 + inner_len);
        let first = u16::from_be_bytes([outer[0], outer[1]]);
        assert_eq!(first, 0x6000 | u16::from(traffic_class) << 4);
        assert_ne!(outer[46..48], [0, 0]);
        let pseudo = bytes::pseudo_sum(tunnel.src, tunnel.dst, 17, inner_len);
        let all = pseudo + bytes::sum(&outer[40..]);
        assert_eq!(bytes::folded(all), 0xffff, "UDP checksum");
    }
}

fn decide_from_uplink(case: &TunnelCase, world: &World) -> Outcome {
    let packet = SlicePacket {
        bytes: tunnel_frame(case),
        ifindex: 103,
        gso_size: case.gso_size,
        is_tagged: case.is_tagged,
        is_to_us: case.is_to_us,
        has_socket: case.has_socket,
    };
    let mut front = Front::empty();
    match decide::from_uplink(&packet, &mut front, world) {
        FromUplink::NotOurs => Outcome::Next,
        FromUplink::Deliver { pod, ecn, outer } => {
            assert_eq!(outer.is_v6, !case.outer_dst.is_v4());
            assert_eq!(outer.len, if outer.is_v6 { 70 } else { 50 });
            Outcome::Decapsulated(pod.ifindex, ecn)
        }
        FromUplink::DeliverAggregate {
            pod, ecn, outer, ..
        } => {
            assert_eq!(outer.is_v6, !case.outer_dst.is_v4());
            Outcome::Aggregate(pod.ifindex, ecn)
        }
        FromUplink::ToOverlay(_) => Outcome::Overlay,
        FromUplink::Drop(reason) => Outcome::Dropped(reason),
    }
}

fn decide_from_peer(case: &TunnelCase, world: &World) -> Outcome {
    let packet = SlicePacket {
        bytes: bytes::inner_frame(case),
        ifindex: case.ifindex,
        gso_size: case.gso_size,
        is_tagged: case.is_tagged,
        is_to_us: case.is_to_us,
        has_socket: false,
    };
    match decide::from_peer(&packet, &mut Front::empty(), world) {
        FromPeer::NotOurs => Outcome::Next,
        FromPeer::Deliver { pod } => Outcome::Received(pod.ifindex),
        FromPeer::ToHost(HostTask::Translate) => Outcome::Translated,
        FromPeer::ToHost(_) => Outcome::Host,
    }
}

fn decide_from_overlay(case: &TunnelCase, key: Option<TunnelKey>, world: &World) -> Outcome {
    let packet = SlicePacket {
        bytes: bytes::inner_frame(case),
        ifindex: 104,
        gso_size: case.gso_size,
        is_tagged: case.is_tagged,
        is_to_us: true,
        has_socket: case.has_socket,
    };
    let mut front = Front::empty();
    assert!(front.read(&packet, 0));
    match decide::from_overlay(&packet, &front, key.as_ref(), world) {
        FromOverlay::Unconfigured => Outcome::Next,
        FromOverlay::Deliver { pod } => Outcome::Pod(pod.ifindex),
        FromOverlay::ToHost(HostTask::Translate) => Outcome::Translated,
        FromOverlay::ToHost(_) => Outcome::Host,
        FromOverlay::Drop(reason) => Outcome::Dropped(reason),
    }
}

fn decide_to_overlay(case: &FromPodCase, world: &World) -> Outcome {
    let bytes = pod_frame(case);
    let packet = SlicePacket {
        bytes,
        ifindex: 104,
        gso_size: 0,
        is_tagged: false,
        is_to_us: true,
        has_socket: false,
    };
    let mut front = Front::empty();
    assert!(front.read(&packet, 0));
    match decide::to_overlay(&packet, &front, world) {
        ToOverlay::Unconfigured => Outcome::Next,
        ToOverlay::Send { route, .. } => Outcome::Vtep(route.underlay, 0),
        ToOverlay::Route { route, .. } => Outcome::Peer(route.next_hop),
        ToOverlay::Ignore => Outcome::Ignored,
        ToOverlay::Drop(reason) => Outcome::Dropped(reason),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(5_000) })]

    #[test]
    fn from_pod(case in from_pod_case(), world in any_world()) {
        prop_assert_eq!(decide_from_pod(&case, &world), model::from_pod(&case, &world));
    }

    #[test]
    fn from_uplink(case in tunnel_case(), world in any_world()) {
        prop_assert_eq!(decide_from_uplink(&case, &world), model::from_uplink(&case, &world));
    }

    /// The same packets without tunnel headers.
    #[test]
    fn from_peer(case in tunnel_case(), world in any_world()) {
        prop_assert_eq!(decide_from_peer(&case, &world), model::from_peer(&case, &world));
    }

    #[test]
    fn from_overlay(case in tunnel_case(), has_key: bool, world in any_world()) {
        let key = has_key.then_some(TunnelKey { remote: case.outer_src, vni: case.vni });
        let wanted = model::from_overlay(&case, key.is_some(), &world);
        prop_assert_eq!(decide_from_overlay(&case, key, &world), wanted);
    }

    #[test]
    fn to_overlay(case in from_pod_case(), world in any_world()) {
        prop_assert_eq!(decide_to_overlay(&case, &world), model::to_overlay(&case, &world));
    }

    /// Bytes without any sense are judged, too, and never read beyond their end.
    #[test]
    fn noise(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..4, world in any_world()) {
        let mut bytes = bytes;
        let ethertypes = [[8, 0], [8, 6], [0x86, 0xdd], [0x12, 0x34]];
        if bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&ethertypes[kind]);
        }
        let packet = SlicePacket { bytes, ifindex: 101, gso_size: 0, is_tagged: false, is_to_us: true, has_socket: false };
        let mut front = Front::empty();
        if front.read(&packet, 0) {
            let _ = decide::from_pod(&packet, &front, &world);
            let _ = decide::to_overlay(&packet, &front, &world);
            let key = TunnelKey { remote: Addr::from_v4([10, 9, 0, 2]), vni: 1 };
            let _ = decide::from_overlay(&packet, &front, Some(&key), &world);
        }
        let _ = decide::from_uplink(&packet, &mut front, &world);
        let _ = decide::from_peer(&packet, &mut front, &world);
    }
}
