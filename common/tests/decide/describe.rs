//! Random descriptions of packets and tables, from a universe small enough for things to meet.

use oxlan_common::addr::{Addr, Mac};
use oxlan_common::maps::{
    COPY_DSCP, Config, MAP_ABI, PodValue, RouteKey, RouteValue, UNKNOWN_NETNS, VtepValue,
    config_flags, pod_flags, route_flags,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::world::{MTU, NARROW, OWN_VTEP, PORT, World};

/// An IP packet.
#[derive(Clone, Debug)]
pub(crate) struct IpCase {
    pub(crate) src: Addr,
    pub(crate) dst: Addr,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) fragment: Fragment,
    /// IPv4's "do not fragment".
    pub(crate) df: bool,
    /// IPv6 extension headers before the fragment header and the layer above, by number.
    pub(crate) extensions: Vec<u8>,
    /// IPv4 options, in words of four bytes.
    pub(crate) options: u8,
    pub(crate) l4: L4,
    /// Bytes behind the header of the layer above.
    pub(crate) payload: usize,
    /// Added to the length in the header.
    pub(crate) lie: i16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment {
    Whole,
    First,
    /// A first fragment with fewer than eight bytes.
    Tiny,
    Later,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum L4 {
    Udp { dst_port: u16 },
    Tcp { header_words: u8 },
    Icmp6 { kind: u8, code: u8, target: Addr },
    Icmp4 { kind: u8 },
    Other,
}

#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Ip(IpCase),
    Arp {
        operation: u8,
        sender_mac: Mac,
        sender: Addr,
        target: Addr,
    },
    Other,
}

/// A frame that came in by a pod's veth.
#[derive(Clone, Debug)]
pub(crate) struct FromPodCase {
    pub(crate) ifindex: u32,
    pub(crate) mac: Mac,
    pub(crate) frame: Frame,
    pub(crate) gso_size: u32,
    pub(crate) is_tagged: bool,
}

/// The UDP checksum of a tunnel packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    None,
    Right,
    Wrong,
    /// Still to be completed by a device: the sum of the pseudo header.
    Partial,
}

/// A tunnel packet.
#[derive(Clone, Debug)]
pub(crate) struct TunnelCase {
    pub(crate) outer_src: Addr,
    pub(crate) outer_dst: Addr,
    pub(crate) outer_ecn: u8,
    pub(crate) is_fragment: bool,
    pub(crate) has_options: bool,
    pub(crate) port: u16,
    pub(crate) check: Check,
    pub(crate) flags: u32,
    pub(crate) vni: u32,
    pub(crate) inner_dst: Mac,
    pub(crate) frame: Frame,
    pub(crate) gso_size: u32,
    pub(crate) is_tagged: bool,
    pub(crate) is_to_us: bool,
    pub(crate) has_socket: bool,
    /// The device by which it comes if it comes without tunnel headers.
    pub(crate) ifindex: u32,
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> Addr {
    Addr::from_v4([a, b, c, d])
}

fn v6(text: &str) -> Addr {
    text.parse::<std::net::Ipv6Addr>().unwrap().into()
}

pub(crate) fn underlay(node: u8) -> Addr {
    v4(10, 9, 0, node)
}

pub(crate) fn underlay_v6(node: u8) -> Addr {
    v6(&format!("fd00:9::{node:x}"))
}

fn mac(node: u8) -> Mac {
    Mac::new([0x0a, 0x58, 10, 244, 1, node])
}

/// Addresses of which packets are made: pods, nodes, the host, the gateway, outsiders, special ones.
fn v4_addresses() -> Vec<Addr> {
    let pods = (1..4).flat_map(|node| [0, 2, 3, 130].map(|host| v4(10, 244, node, host)));
    let others = [
        v4(169, 254, 1, 1),
        v4(192, 0, 2, 1),
        v4(224, 0, 0, 5),
        v4(255, 255, 255, 255),
        v4(0, 0, 0, 0),
    ];
    pods.chain((1..4).map(underlay)).chain(others).collect()
}

fn v6_addresses() -> Vec<Addr> {
    let pods = (1..4).flat_map(|node| {
        ["::", "::2", "::3", ":0:0:ff::2"].map(|host| v6(&format!("fd00:{node}{host}")))
    });
    let others = ["fe80::1", "fe80::5", "2001:db8::1", "ff02::1", "::"].map(v6);
    pods.chain(others).collect()
}

fn weighted<T: Clone + std::fmt::Debug + 'static>(
    usual: T,
    unusual: Vec<T>,
) -> impl Strategy<Value = T> {
    prop_oneof![6 => Just(usual), 1 => select(unusual)]
}

fn l4(is_v4: bool) -> BoxedStrategy<L4> {
    let target = select(if is_v4 {
        v4_addresses()
    } else {
        v6_addresses()
    });
    let kind = select(vec![2_u8, 128, 133, 134, 135, 135, 136, 143]);
    let icmp = (kind, weighted(0, vec![1]), target).prop_map(|(kind, code, target)| L4::Icmp6 {
        kind,
        code,
        target,
    });
    prop_oneof![
        3 => select(vec![53, PORT]).prop_map(|dst_port| L4::Udp { dst_port }),
        2 => (5_u8..=15).prop_map(|header_words| L4::Tcp { header_words }),
        2 => icmp,
        1 => select(vec![0_u8, 3, 4, 5, 8, 11, 12, 13]).prop_map(|kind| L4::Icmp4 { kind }),
        1 => Just(L4::Other),
    ]
    .boxed()
}

/// Mostly from and to the addresses that end in an accepted packet, by family.
fn ip_case(usual: [[Addr; 2]; 2]) -> impl Strategy<Value = IpCase> {
    any::<bool>().prop_flat_map(move |is_v4| {
        let addresses = if is_v4 {
            v4_addresses()
        } else {
            v6_addresses()
        };
        let [src, dst] = usual[usize::from(!is_v4)]
            .map(|usual| prop_oneof![1 => Just(usual), 1 => select(addresses.clone())]);
        let fragments = vec![Fragment::First, Fragment::Tiny, Fragment::Later];
        let extensions = proptest::collection::vec(select(vec![0_u8, 43, 51, 60]), 0..8);
        let payload = prop_oneof![3 => 0_usize..60, 1 => 1150_usize..1500];
        (
            (src, dst),
            weighted(64, vec![0_u8, 1, 2, 255]),
            (0_u8..4, select(vec![0_u8, 0xb8])).prop_map(|(ecn, dscp)| ecn | dscp),
            (weighted(Fragment::Whole, fragments), any::<bool>()),
            prop_oneof![3 => Just(vec![]), 1 => extensions],
            weighted(0_u8, vec![1, 10]),
            l4(is_v4),
            payload,
            weighted(0_i16, vec![-2000, -1, 1, 100]),
        )
            .prop_map(
                |((src, dst), ttl, tos, (fragment, df), extensions, options, l4, payload, lie)| {
                    IpCase {
                        src,
                        dst,
                        ttl,
                        tos,
                        fragment,
                        df,
                        extensions,
                        options,
                        l4,
                        payload,
                        lie,
                    }
                },
            )
    })
}

fn frame(usual: [[Addr; 2]; 2]) -> impl Strategy<Value = Frame> {
    let address = move || prop_oneof![Just(usual[0][0]), select(v4_addresses())];
    let arp = (
        1_u8..4,
        weighted(mac(2), vec![mac(3)]),
        address(),
        address(),
    )
        .prop_map(|(operation, sender_mac, sender, target)| Frame::Arp {
            operation,
            sender_mac,
            sender,
            target,
        });
    prop_oneof![8 => ip_case(usual).prop_map(Frame::Ip), 2 => arp, 1 => Just(Frame::Other)]
}

pub(crate) fn from_pod_case() -> impl Strategy<Value = FromPodCase> {
    let usual = [
        [v4(10, 244, 1, 2), v4(10, 244, 2, 2)],
        [v6("fd00:1::2"), v6("fd00:2::2")],
    ];
    (
        weighted(101_u32, vec![102]),
        weighted(mac(2), vec![mac(3)]),
        frame(usual),
        weighted(
            0_u32,
            vec![100, 1202, 1203, 1230, 1402, 1403, 1410, 1411, 1422, 1423],
        ),
        weighted(false, vec![true]),
    )
        .prop_map(|(ifindex, mac, frame, gso_size, is_tagged)| FromPodCase {
            ifindex,
            mac,
            frame,
            gso_size,
            is_tagged,
        })
}

pub(crate) fn tunnel_case() -> impl Strategy<Value = TunnelCase> {
    let rare = || prop_oneof![12 => Just(false), 1 => Just(true)];
    let others = |of: fn(u8) -> Addr| (of(1), of(3), of(9), of(7));
    let endpoints = |of: fn(u8) -> Addr| {
        let (own, third, stranger, elsewhere) = others(of);
        (
            weighted(of(2), vec![own, third, stranger]),
            weighted(own, vec![elsewhere]),
        )
    };
    let endpoints = prop_oneof![endpoints(underlay), endpoints(underlay_v6)];
    let outer = (
        endpoints,
        0_u8..4,
        rare(),
        rare(),
        weighted(PORT, vec![4789]),
        select(vec![
            Check::None,
            Check::Right,
            Check::Wrong,
            Check::Partial,
        ]),
    );
    let tunnel = (
        weighted(0x0800_0000_u32, vec![0, 0x0800_0001, 0x0c00_0000]),
        weighted(1_u32, vec![0, 2, 0xff_ffff]),
        weighted(OWN_VTEP, vec![mac(2), Mac::BROADCAST]),
    );
    let meta = (
        weighted(0_u32, vec![1000]),
        rare(),
        rare(),
        any::<bool>(),
        weighted(103_u32, vec![105]),
    );
    let usual = [
        [v4(10, 244, 2, 2), v4(10, 244, 1, 2)],
        [v6("fd00:2::2"), v6("fd00:1::2")],
    ];
    (outer, tunnel, frame(usual), meta).prop_map(|(outer, tunnel, frame, meta)| TunnelCase {
        outer_src: outer.0.0,
        outer_dst: outer.0.1,
        outer_ecn: outer.1,
        is_fragment: outer.2,
        has_options: outer.3,
        port: outer.4,
        check: outer.5,
        flags: tunnel.0,
        vni: tunnel.1,
        inner_dst: tunnel.2,
        frame,
        gso_size: meta.0,
        is_tagged: meta.1,
        is_to_us: !meta.2,
        has_socket: meta.3,
        ifindex: meta.4,
    })
}

pub(crate) fn world() -> impl Strategy<Value = World> {
    let pods = all_pods();
    let routes = all_routes();
    // Node 2 has both families, of node 3 each address counts as another node.
    let vtep = |(key, other)| {
        let value = VtepValue {
            mac: OWN_VTEP,
            flags: 0,
            other,
        };
        (key, value)
    };
    let vteps = [
        (underlay(2), underlay_v6(2)),
        (underlay_v6(2), underlay(2)),
        (underlay(3), underlay(3)),
        (underlay_v6(3), underlay_v6(3)),
    ]
    .map(vtep)
    .to_vec();
    (
        mostly(pods),
        mostly(routes),
        mostly(vteps),
        weighted(Some(MAP_ABI), vec![Some(0), Some(MAP_ABI + 1), None]),
        weighted(false, vec![true]),
        select(vec![0, 46, COPY_DSCP]),
        (any::<bool>(), any::<bool>()),
        subsequence(vec![underlay(2), underlay(3)], 0..=2),
    )
        .prop_map(
            |(pods, routes, vteps, abi, follows, dscp, (marked, translates), direct)| World {
                config: abi.map(|abi| config(abi, dscp, !direct.is_empty())),
                pods: pods.into_iter().map(|pod| mark(pod, marked)).collect(),
                routes: routes.into_iter().map(|r| be_direct(r, &direct)).collect(),
                hops: Vec::new(),
                vteps,
                follows,
                translates,
            },
        )
}

/// The ways to the nodes with these addresses are without encapsulation.
fn be_direct((key, mut route): (RouteKey, RouteValue), direct: &[Addr]) -> (RouteKey, RouteValue) {
    if direct.contains(&route.underlay) {
        route.flags |= route_flags::DIRECT;
    }
    (key, route)
}

fn mark((addr, mut pod): (Addr, PodValue), marked: bool) -> (Addr, PodValue) {
    if marked {
        pod.flags |= pod_flags::TRANSLATED;
    }
    (addr, pod)
}

/// All of them or a part.
fn mostly<T: Clone + std::fmt::Debug + 'static>(all: Vec<T>) -> impl Strategy<Value = Vec<T>> {
    let len = all.len();
    prop_oneof![3 => Just(all.clone()), 1 => subsequence(all, 0..=len)]
}

fn all_pods() -> Vec<(Addr, PodValue)> {
    let entry = |addr, ifindex, flags, mac| {
        // The second pod is one of an agent that did not ask for the namespace's number.
        let netns = if ifindex == 101 { 7 } else { UNKNOWN_NETNS };
        let pod = PodValue {
            ifindex,
            flags,
            mac,
            host_mac: OWN_VTEP,
            netns,
        };
        (addr, pod)
    };
    vec![
        entry(v4(10, 244, 1, 2), 101, 0, mac(2)),
        entry(v6("fd00:1::2"), 101, 0, mac(2)),
        entry(v4(10, 244, 1, 3), 102, 0, mac(3)),
        entry(v6("fd00:1::3"), 102, 0, mac(3)),
        entry(v4(10, 244, 1, 0), 104, pod_flags::HOST, OWN_VTEP),
        entry(v6("fd00:1::"), 104, pod_flags::HOST, OWN_VTEP),
    ]
}

/// In the description of a route only.
const OVER_V6: u16 = 0x8000;

fn all_routes() -> Vec<(RouteKey, RouteValue)> {
    let entry = |prefix, prefix_len, node, flags| {
        let address = if flags & OVER_V6 == 0 {
            underlay(node)
        } else {
            underlay_v6(node)
        };
        let flags = flags & !OVER_V6;
        let value = RouteValue {
            underlay: address,
            next_hop: address,
            ifindex: 103,
            vni: 1,
            mac: mac(node),
            flags,
            mtu: if node == 3 { NARROW } else { MTU },
            pad: [0; 2],
            hops: 0,
        };
        (RouteKey { prefix, prefix_len }, value)
    };
    vec![
        entry(v4(10, 244, 1, 0), 120, 1, route_flags::LOCAL),
        entry(v6("fd00:1::"), 64, 1, route_flags::LOCAL),
        entry(v4(10, 244, 2, 0), 120, 2, 0),
        entry(v6("fd00:2::"), 64, 2, OVER_V6),
        entry(v4(10, 244, 2, 128), 121, 3, OVER_V6),
        entry(v6("fd00:2:0:0:ff::"), 80, 3, 0),
        entry(v4(10, 244, 3, 0), 120, 3, route_flags::UNREACHABLE),
        entry(v6("fd00:3::"), 64, 3, route_flags::UNREACHABLE),
    ]
}

fn config(abi: u32, dscp: u8, takes_plain: bool) -> Config {
    Config {
        abi,
        vni: 1,
        port: PORT,
        mtu: MTU,
        uplink: 103,
        overlay: 104,
        underlay_v4: underlay(1),
        underlay_v6: underlay_v6(1),
        overlay_v4: v4(10, 244, 1, 0),
        overlay_v6: v6("fd00:1::"),
        vtep_mac: OWN_VTEP,
        dscp,
        flags: if takes_plain { config_flags::DIRECT } else { 0 },
        prefix_lens_v4: [121, 120, 0, 0, 0, 0, 0, 0],
        prefix_lens_v6: [80, 64, 0, 0, 0, 0, 0, 0],
        xdp_uplinks: bytemuck::Zeroable::zeroed(),
    }
}
