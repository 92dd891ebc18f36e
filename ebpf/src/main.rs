//! Oxlan's programs for TC and XDP. Each entry point is one match from decision to action.
#![no_std]
#![no_main]
#![expect(
    clippy::cast_possible_truncation,
    reason = "the helpers take sizes of headers as u32 and return TC's verdicts as i64"
)]

mod actions;
mod maps;
mod probe;
mod skb;
mod socket;
mod tables;
mod tunnel_key;
mod watch;
mod xdp;

use aya_ebpf::macros::{classifier, fexit, xdp};
use aya_ebpf::programs::{FExitContext, TcContext, XdpContext};
use oxlan_common::counters::{DropReason, Verdict};
use oxlan_common::decide::{
    self, Aside, FromOverlay, FromPeer, FromPod, FromUplink, ToOverlay, ToPod, XdpUplink,
};
use oxlan_common::packet::Front;

use actions::PASS;
use skb::Skb;
use tables::Maps;
use xdp::Frame;

/// TC ingress on the host side of each pod's veth.
#[classifier]
fn from_pod(ctx: TcContext) -> i32 {
    let skb = &mut Skb::new(ctx);
    let front = &mut Front::empty();
    if !front.read(skb, 0) {
        return actions::drop(skb, DropReason::Truncated);
    }
    let decision = decide::from_pod(skb, front, &Maps);
    if let FromPod::Deliver { opens: true, .. }
    | FromPod::Encapsulate { opens: true, .. }
    | FromPod::Route { opens: true, .. } = decision
    {
        actions::forget_former_flow(skb, front);
    }
    match decision {
        FromPod::Unconfigured => PASS,
        FromPod::Deliver { pod, .. } => actions::deliver(skb, front, pod, Verdict::LocalPod),
        FromPod::Encapsulate { route, config, .. } => {
            actions::encapsulate(skb, front, route, config)
        }
        FromPod::Route { route, .. } => actions::route(skb, front, route),
        FromPod::ToHost(task) => actions::to_host(skb, task),
        FromPod::ArpReply(arp) => actions::arp_reply(skb, front, &arp),
        FromPod::NdReply(target) => actions::nd_reply(skb, front, &target),
        FromPod::TooBig(answer) => actions::too_big(skb, front, &answer),
        FromPod::Ignore => actions::ignore(skb),
        FromPod::Drop(reason) => actions::drop(skb, reason),
    }
}

/// TC ingress on the uplink.
#[classifier]
fn from_uplink(ctx: TcContext) -> i32 {
    let skb = &mut Skb::new(ctx);
    let front = &mut Front::empty();
    match decide::from_uplink(skb, front, &Maps) {
        FromUplink::NotOurs => from_peer(skb, front),
        FromUplink::Deliver { pod, ecn, outer } => {
            actions::end_former_flow(skb, front, outer.len, pod);
            actions::decapsulate(skb, front, pod, ecn, outer)
        }
        FromUplink::DeliverAggregate {
            pod,
            ecn,
            outer,
            bucket,
        } => actions::decapsulate_aggregate(skb, front, pod, (ecn, outer), bucket),
        FromUplink::ToOverlay(aside) => {
            match aside {
                Aside::Aggregate { bucket } | Aside::Checksum { bucket } => {
                    tables::mark_aside(bucket);
                }
                Aside::Follower | Aside::Host => {}
            }
            actions::pass(skb, Verdict::ToOverlay)
        }
        FromUplink::Drop(reason) => actions::drop(skb, reason),
    }
}

/// XDP on the uplink: before there is a packet for `from_uplink`.
#[xdp(frags)]
fn xdp_uplink(ctx: XdpContext) -> u32 {
    let frame = &mut Frame::new(ctx);
    let front = &mut Front::empty();
    match decide::xdp_uplink(frame, front, &Maps) {
        XdpUplink::Pass => xdp::pass(),
        XdpUplink::PassFlow { bucket } => {
            tables::mark_aside(bucket);
            xdp::pass()
        }
        XdpUplink::Redirect { pod, ecn, outer } => xdp::redirect(frame, front, pod, ecn, outer),
        XdpUplink::Drop(reason) => xdp::drop(frame, reason),
    }
}

/// What is left when it is no VXLAN.
#[inline(always)]
fn from_peer(skb: &mut Skb, front: &mut Front) -> i32 {
    match decide::from_peer(skb, front, &Maps) {
        FromPeer::NotOurs => PASS,
        FromPeer::Deliver { pod } => {
            actions::end_former_flow(skb, front, 0, pod);
            actions::deliver(skb, front, pod, Verdict::FromPeer)
        }
        FromPeer::ToHost(task) => actions::to_host(skb, task),
    }
}

/// TC ingress on the overlay device.
#[classifier]
fn from_overlay(ctx: TcContext) -> i32 {
    let skb = &mut Skb::new(ctx);
    let front = &mut Front::empty();
    if !front.read(skb, 0) {
        return actions::drop(skb, DropReason::Truncated);
    }
    let key = tunnel_key::of(skb);
    match decide::from_overlay(skb, front, key.as_ref(), &Maps) {
        FromOverlay::Unconfigured => PASS,
        FromOverlay::Deliver { pod } => {
            actions::end_former_flow(skb, front, 0, pod);
            actions::deliver(skb, front, pod, Verdict::FromVtep)
        }
        FromOverlay::ToHost(task) => actions::to_host(skb, task),
        FromOverlay::Drop(reason) => actions::drop(skb, reason),
    }
}

/// TC egress on the overlay device.
#[classifier]
fn to_overlay(ctx: TcContext) -> i32 {
    let skb = &mut Skb::new(ctx);
    let front = &mut Front::empty();
    if !front.read(skb, 0) {
        return actions::drop(skb, DropReason::Truncated);
    }
    match decide::to_overlay(skb, front, &Maps) {
        ToOverlay::Unconfigured => PASS,
        ToOverlay::Send {
            route,
            config,
            remember,
        } => {
            if remember {
                actions::remember_flow(skb, front);
            }
            actions::hand_to_vtep(skb, front, route, config)
        }
        ToOverlay::Route { route, remember } => {
            if remember {
                actions::remember_flow(skb, front);
            }
            actions::send_on(skb, front, route)
        }
        ToOverlay::Ignore => actions::ignore(skb),
        ToOverlay::Drop(reason) => actions::drop(skb, reason),
    }
}

/// TC egress on the host side of each pod's veth.
#[classifier]
fn to_pod(ctx: TcContext) -> i32 {
    let skb = &mut Skb::new(ctx);
    let front = &mut Front::empty();
    if front.read(skb, 0) {
        match decide::to_pod(skb, front, &Maps) {
            ToPod::Remember => actions::remember_flow(skb, front),
            ToPod::Pass => {}
        }
    }
    PASS
}

/// End of each `bpf` system call.
#[fexit]
fn watch_bpf(ctx: FExitContext) -> i32 {
    watch::bpf_call(&ctx);
    0
}

/// Never attached: see [`probe`].
#[classifier]
fn probe_room(ctx: TcContext) -> i32 {
    probe::shrink(&ctx)
}

/// The compiler wants it; the verifier proves that it is never reached.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel demands a licence that goes with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
