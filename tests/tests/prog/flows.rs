//! Flows between pods that the host translates: what is remembered, and what then goes by the host.

use oxlan::datapath::{Datapath, Options, Program};
use oxlan_common::counters::Verdict;
use oxlan_common::counters::Verdict::{LocalPod, ToOverlay, ToVtep, Translated};
use oxlan_common::maps::{
    Config, FlowKey, FlowValue, RouteKey, config_flags, pod_flags, route_flags,
};
use oxlan_common::packet::{ICMP, SCTP};
use oxlan_tests::packet::{ICMPV6, Ip, TCP, UDP, addr, icmpv6, udp};

use crate::case::{Case, Outcome};
use crate::programs::Programs;
use crate::tunnel;
use crate::world::{
    GATEWAY, MAC_A, MAC_B, OTHER_MAC, OVERLAY, OwnWorld, POD_A, UPLINK, UPLINK_MAC, VTEP, World,
    config,
};

const FROM_A: (Program, u32) = (Program::FromPod, POD_A);
const TO_A: (Program, u32) = (Program::ToPod, POD_A);
const TO_OVERLAY: (Program, u32) = (Program::ToOverlay, OVERLAY);

/// Pod A, pod B, another node's pod, own node and another node, by family.
const NAMES: [[&str; 5]; 2] = [
    [
        "10.244.1.2",
        "10.244.1.3",
        "10.244.2.9",
        "10.244.1.0",
        "10.244.2.0",
    ],
    [
        "fd00:1::2",
        "fd00:1::3",
        "fd00:2::9",
        "fd00:1::",
        "fd00:2::",
    ],
];

const PORTS: [u16; 2] = [1000, 53];

fn key(src: &str, dst: &str, protocol: u8) -> FlowKey {
    let [client, server] = if matches!(protocol, TCP | UDP | SCTP) {
        PORTS
    } else {
        [0; 2]
    };
    FlowKey {
        src: addr(src),
        dst: addr(dst),
        src_port: server.to_be_bytes(),
        dst_port: client.to_be_bytes(),
        protocol,
        pad: [0; 3],
    }
}

/// The beginning of any of these protocols' headers, with enough behind it.
fn segment(ports: [u16; 2], tcp_flags: u8) -> Vec<u8> {
    let mut header = ports.map(u16::to_be_bytes).concat();
    header.extend([0; 8]);
    header.extend([0x50, tcp_flags]);
    header.extend([0; 26]);
    header
}

fn from_client() -> Vec<u8> {
    segment(PORTS, 0x10)
}

fn from_server() -> Vec<u8> {
    segment([PORTS[1], PORTS[0]], 0x10)
}

fn remembered(world: &Programs) -> Vec<FlowKey> {
    let entries = world.datapath.flows().entries().unwrap();
    entries.into_iter().map(|(key, _)| key).collect()
}

fn is_marked(world: &Programs, pod: &str) -> bool {
    let pod = world.datapath.pods().get(&addr(pod)).unwrap().unwrap();
    pod.flags & pod_flags::TRANSLATED != 0
}

fn remember(world: &Programs, src: &str, dst: &str, protocol: u8) {
    let ip = Ip::new(src, dst, protocol);
    let sent = ip.frame(MAC_A, GATEWAY, &from_client());
    world.check(&Case::new("to the pod", TO_A, sent, Outcome::NotOurs));
}

#[test]
fn what_the_host_sends_from_pod_to_pod_is_remembered() {
    let Some(world) = World::new() else { return };
    for [a, b, far, own_node, other_node] in NAMES {
        let outside = if a.contains(':') {
            "2001:db8::1"
        } else {
            "192.0.2.1"
        };
        for src in [own_node, outside] {
            remember(&world, src, a, UDP);
            assert_eq!(remembered(&world), [], "from {src}");
        }
        assert!(!is_marked(&world, a));
        for protocol in [TCP, UDP, SCTP, 47] {
            for src in [b, far, other_node] {
                remember(&world, src, a, protocol);
                remember(&world, src, a, protocol);
                let wanted = key(a, src, protocol);
                assert_eq!(remembered(&world), [wanted], "{protocol} from {src}");
                world.datapath.flows().remove(&wanted).unwrap();
            }
        }
        assert!(is_marked(&world, a) && is_marked(&world, b));
        assert!(!is_marked(&world, own_node));
    }
}

#[test]
fn what_the_host_sends_to_another_node_for_a_pod_is_remembered() {
    let Some(world) = World::new() else { return };
    for [a, _, far, own_node, _] in NAMES {
        let check = |src| {
            let frame = |dst| Ip::new(src, far, UDP).frame(dst, VTEP[1], &from_client());
            let case = Case::new(src, TO_OVERLAY, frame(VTEP[1]), Outcome::Done(ToVtep));
            world.check(&case.out(frame(VTEP[2])));
        };
        check(own_node);
        assert_eq!(remembered(&world), []);
        check(a);
        assert_eq!(remembered(&world), [key(far, a, UDP)]);
        assert!(is_marked(&world, a));
        world.datapath.flows().remove(&key(far, a, UDP)).unwrap();
    }
}

#[test]
fn answers_go_by_the_host_and_nothing_else() {
    let Some(world) = World::new() else { return };
    for [a, b, far, _, _] in NAMES {
        for (to, direct) in [(b, LocalPod), (far, ToVtep)] {
            for protocol in [TCP, UDP] {
                let ip = Ip::new(a, to, protocol);
                let verdict = |payload: &[u8]| counted(&world, &case(&ip, payload, direct));
                assert_eq!(verdict(&from_server()), [direct], "before, {a} to {to}");
                remember(&world, to, a, protocol);
                world.check(&case(&ip, &from_server(), Translated));
                let others = segment([PORTS[1], 7], 0x10);
                assert_eq!(verdict(&others), [direct], "other ports, {a} to {to}");
                let flow = key(a, to, protocol);
                world.datapath.flows().remove(&flow).unwrap();
                assert_eq!(verdict(&from_server()), [direct], "after, {a} to {to}");
            }
        }
    }
}

/// The verdicts that a run of a row adds to.
fn counted(world: &Programs, case: &Case) -> Vec<Verdict> {
    let (_, counted) = world.counted(case);
    let slots: Vec<u32> = counted.iter().map(|(slot, _)| *slot).collect();
    let verdicts = Verdict::ALL.iter().copied();
    verdicts.filter(|v| slots.contains(&v.slot())).collect()
}

fn case(ip: &Ip, payload: &[u8], verdict: Verdict) -> Case {
    let sent = ip.frame(GATEWAY, MAC_A, payload);
    Case::new("an answer", FROM_A, sent, Outcome::Done(verdict))
}

/// The host puts fragments together before it translates, so it needs all of them.
#[test]
fn fragments_of_a_pod_with_translated_flows_go_by_the_host() {
    let Some(world) = World::new() else { return };
    remember(&world, "10.244.1.3", "10.244.1.2", UDP);
    let mut ip = Ip::new("10.244.1.2", "10.244.1.3", UDP);
    for fragment in [0x2000, 0x2001, 0x0002] {
        ip.fragment = fragment;
        world.check(&case(&ip, &[7; 16], Translated));
    }
}

/// An error names the packet that it is about.
#[test]
fn icmp_errors_go_the_way_of_what_they_are_about() {
    let Some(world) = World::new() else { return };
    for [a, b, _, _, _] in NAMES {
        remember(&world, b, a, UDP);
        let quoted = Ip::new(b, a, UDP).with(&udp(PORTS[0], PORTS[1], b"query"));
        let other = Ip::new(b, a, UDP).with(&udp(7, PORTS[1], b"query"));
        let error = |quoted: &[u8]| {
            let body = [&[0; 4], quoted].concat();
            if a.contains(':') {
                let ip = Ip::new(a, b, ICMPV6);
                let message = icmpv6(&ip, 1, &body);
                (ip, message)
            } else {
                (Ip::new(a, b, ICMP), [&[3, 3, 0, 0][..], &body].concat())
            }
        };
        let (ip, message) = error(&quoted);
        world.check(&case(&ip, &message, Translated));
        let (ip, message) = error(&other);
        let routed = Ip {
            ttl: 63,
            ..ip.clone()
        }
        .frame(MAC_B, GATEWAY, &message);
        world.check(&case(&ip, &message, LocalPod).out(routed));
        // It ends before the ports.
        let (ip, message) = error(&quoted[..quoted.len() - 10]);
        let routed = Ip {
            ttl: 63,
            ..ip.clone()
        }
        .frame(MAC_B, GATEWAY, &message);
        world.check(&case(&ip, &message, LocalPod).out(routed));
    }
}

/// A direct connection with the ports of a translated one that is over.
#[test]
fn a_pod_that_opens_a_connection_ends_what_was_remembered() {
    let Some(world) = World::new() else { return };
    for [a, b, far, _, _] in NAMES {
        for to in [b, far] {
            // Pod A is the one that began: answers would come to it.
            let flow = key(to, a, TCP);
            world.datapath.flows().set(&flow, &flow_value()).unwrap();
            remember(&world, to, a, UDP);
            let run = |flags| {
                let packet = Ip::new(a, to, TCP).frame(GATEWAY, MAC_A, &segment(PORTS, flags));
                world.run(&Case::new("a segment", FROM_A, packet, Outcome::NotOurs));
            };
            for flags in [0x10, 0x12] {
                run(flags);
                assert!(world.datapath.flows().get(&flow).unwrap().is_some());
            }
            run(0x02);
            assert!(world.datapath.flows().get(&flow).unwrap().is_none());
        }
    }
}

/// The same from the other side: a pod of another node has had the ports of its new connection before, then as a
/// service's client whose packets this host has translated.
#[test]
fn a_connection_from_another_node_ends_what_was_remembered() {
    let Some(world) = World::new() else { return };
    let config = Config {
        flags: config_flags::DIRECT,
        ..config()
    };
    world.datapath.set_config(&config).unwrap();
    for [a, _, far, _, _] in NAMES {
        // Pod A is the one that answered.
        let flow = key(a, far, TCP);
        remember(&world, far, a, UDP);
        let ip = Ip::new(far, a, TCP);
        let run = |direct: bool, flags| {
            world.datapath.flows().set(&flow, &flow_value()).unwrap();
            let segment = segment(PORTS, flags);
            let packet = if direct {
                ip.frame(UPLINK_MAC, OTHER_MAC, &segment)
            } else {
                let inner = ip.frame(VTEP[1], VTEP[2], &segment);
                tunnel::Tunnel::around(inner).frame()
            };
            set_direct(&world, far, direct);
            world.run(&Case::new(
                "a segment",
                tunnel::HOOK,
                packet,
                Outcome::NotOurs,
            ));
            world.datapath.flows().get(&flow).unwrap().is_some()
        };
        for direct in [false, true] {
            for flags in [0x10, 0x12] {
                assert!(run(direct, flags), "{far} direct {direct} {flags:#x}");
            }
            assert!(!run(direct, 0x02), "{far} direct {direct}");
        }
    }
}

/// Whether packets of the prefix of another node's pod come without encapsulation.
fn set_direct(world: &Programs, pod: &str, direct: bool) {
    let prefix_len = if pod.contains(':') { 64 } else { 120 };
    let key = RouteKey {
        prefix: addr(pod).masked(u8::try_from(prefix_len).unwrap()),
        prefix_len,
    };
    let mut route = world.datapath.routes().get(&key).unwrap().unwrap();
    route.flags = if direct { route_flags::DIRECT } else { 0 };
    world.datapath.routes().set(&key, &route).unwrap();
}

fn flow_value() -> FlowValue {
    FlowValue { ifindex: UPLINK }
}

/// Answers from another node: the overlay device takes the tunnel headers off, then the host translates.
#[test]
fn answers_from_another_node_go_by_the_overlay_device() {
    let Some(world) = World::new() else { return };
    for ip in tunnel::inner_ips() {
        let tunnel = tunnel::Tunnel::around(tunnel::inner(&ip));
        let (src, dst) = (ip.src.to_string(), ip.dst.to_string());
        let mut flow = key(&src, &dst, UDP);
        flow.src_port = 1_u16.to_be_bytes();
        flow.dst_port = 53_u16.to_be_bytes();
        remember(&world, &src, &dst, TCP);
        world.datapath.flows().set(&flow, &flow_value()).unwrap();
        world.check(&tunnel::row(
            "translated",
            &tunnel,
            Outcome::Done(ToOverlay),
        ));
    }
}

#[test]
fn new_maps_keep_the_flows() {
    let Some(world) = OwnWorld::new() else { return };
    let [a, b, ..] = NAMES[0];
    remember(&world, b, a, TCP);
    let options = Options {
        max_routes: 7,
        ..world.options()
    };
    let successor = Datapath::open(options).unwrap();
    assert!(!successor.taken_over());
    let flows = successor.flows().entries().unwrap();
    assert_eq!(
        flows.iter().map(|f| f.0).collect::<Vec<_>>(),
        [key(a, b, TCP)]
    );
    let pod = world.datapath.pods().get(&addr(a)).unwrap().unwrap();
    successor.write_pod(&addr(a), pod.without_marks()).unwrap();
    assert_eq!(successor.pods().get(&addr(a)).unwrap(), Some(pod));
}

/// The predecessor's programs note flows until they are replaced, long after the new maps were made.
#[test]
fn new_maps_get_the_flows_that_begin_meanwhile() {
    let Some(world) = OwnWorld::new() else { return };
    let [a, b, far, ..] = NAMES[0];
    let options = Options {
        max_routes: 7,
        ..world.options()
    };
    let successor = Datapath::open(options).unwrap();
    let pod = |end| world.datapath.pods().get(&addr(end)).unwrap().unwrap();
    for end in [a, b] {
        successor.write_pod(&addr(end), pod(end)).unwrap();
    }
    let has = |src, dst| {
        let flow = successor.flows().get(&key(src, dst, TCP)).unwrap();
        let entry = successor.pods().get(&addr(src)).unwrap().unwrap();
        let is_marked = entry.flags & pod_flags::TRANSLATED != 0;
        assert_eq!(flow.is_some(), is_marked, "{src} to {dst}");
        flow.is_some()
    };
    assert!(!has(a, b));
    remember(&world, b, a, TCP);
    assert!(!has(a, b));
    successor.catch_up().unwrap();
    assert!(has(a, b));
    // The programs are replaced one after the other.
    remember(&world, far, a, TCP);
    successor.commit().unwrap();
    assert!(has(a, far) && has(a, b));
}

/// The agent writes entries anew without losing what the programs have noted in them.
#[test]
fn a_mark_outlives_a_change_of_the_entry() {
    let Some(world) = World::new() else { return };
    let [a, b, ..] = NAMES[0];
    remember(&world, b, a, TCP);
    let pod = world.datapath.pods().get(&addr(a)).unwrap().unwrap();
    world
        .datapath
        .write_pod(&addr(a), pod.without_marks())
        .unwrap();
    assert!(is_marked(&world, a));
}

/// A program marks the entry between the moments in which the agent reads it and replaces it: it had noted the
/// flow before, by which the agent finds out.
#[test]
fn a_mark_that_was_lost_with_the_entry_is_set_again() {
    let Some(world) = World::new() else { return };
    let [a, b, ..] = NAMES[0];
    for end in [a, b] {
        assert!(!is_marked(&world, end));
        let pod = world.datapath.pods().get(&addr(end)).unwrap().unwrap();
        world.datapath.write_pod(&addr(end), pod).unwrap();
        assert!(!is_marked(&world, end), "there is no flow");
    }
    let flow = key(a, b, TCP);
    world.datapath.flows().set(&flow, &flow_value()).unwrap();
    for end in [a, b] {
        let pod = world.datapath.pods().get(&addr(end)).unwrap().unwrap();
        world.datapath.write_pod(&addr(end), pod).unwrap();
        assert!(is_marked(&world, end), "{end}");
    }
}
