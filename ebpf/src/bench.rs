//! Programs that Oxlan is compared with by `cargo xtask bench`; the agent's object has none of them.
//!
//! `key_from_pod` and `key_from_tunnel` encapsulate the way Cilium and Calico do: tunnel metadata on
//! the packet, and the kernel's own VXLAN device in collect-metadata mode writes and strips the headers.
#![no_std]
#![no_main]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the helpers take sizes of headers as u32 and return verdicts, which are never negative, as i64"
)]

#[path = "bench/calls.rs"]
mod calls;

use aya_ebpf::Global;
use aya_ebpf::bindings::{
    BPF_F_ZERO_CSUM_TX, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_tunnel_key, xdp_action,
};
use aya_ebpf::btf_maps::{Array, HashMap, ProgramArray};
use aya_ebpf::helpers::{
    bpf_redirect, bpf_redirect_peer, bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key,
    bpf_xdp_store_bytes,
};
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use oxlan_common::bench::{ENDPOINTS as CAPACITY, Endpoint, HEADERS, VNI};

/// Where the EtherType is, and in an IPv4 header behind it the TTL, the checksum and the destination.
const ETHERTYPE: usize = 12;
const TTL: usize = 14 + 8;
const CHECKSUM: usize = 14 + 10;
const DESTINATION: usize = 14 + 16;

/// Pods by IPv4 address.
#[btf_map]
static ENDPOINTS: HashMap<[u8; 4], Endpoint, { CAPACITY as usize }, 0> = HashMap::new();

/// Headers of a frame as it came in.
#[btf_map]
static HEADERS_BEFORE: Array<[u8; HEADERS], 1> = Array::new();

/// The program that `xdp_call` ends with.
#[btf_map]
static PROGRAM: ProgramArray<1> = ProgramArray::new();

/// Interface index of the VXLAN device; for `xdp_redirect` the one to redirect to.
#[unsafe(no_mangle)]
static DEVICE: Global<u32> = Global::new(0);

/// Does nothing: what measuring itself costs.
#[classifier]
fn nothing(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// TC ingress on the host side of a pod's veth.
#[classifier]
fn key_from_pod(ctx: TcContext) -> i32 {
    match endpoint(&ctx) {
        None => TC_ACT_UNSPEC,
        Some(endpoint) if endpoint.remote == [0; 4] => deliver(&ctx, endpoint),
        Some(endpoint) => encapsulate(&ctx, endpoint),
    }
}

/// TC ingress on the VXLAN device.
#[classifier]
fn key_from_tunnel(ctx: TcContext) -> i32 {
    // SAFETY: all zero is a value of this structure of numbers.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    let size = size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: the context is the program's; pointer and size are those of a structure that lives during the call.
    let read = unsafe { bpf_skb_get_tunnel_key(ctx.skb.skb, &raw mut key, size, 0) };
    if read != 0 || key.tunnel_id != VNI {
        return TC_ACT_SHOT;
    }
    endpoint(&ctx).map_or(TC_ACT_UNSPEC, |endpoint| deliver(&ctx, endpoint))
}

/// The least that XDP can do with a frame for another device.
#[xdp(frags)]
fn xdp_redirect(ctx: XdpContext) -> u32 {
    if restore(&ctx).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the helper takes two numbers and has no preconditions.
    unsafe { bpf_redirect(DEVICE.load(), 0) as u32 }
}

/// The same frame for another program.
#[xdp(frags)]
fn xdp_call(ctx: XdpContext) -> u32 {
    if restore(&ctx).is_some() {
        // SAFETY: the context is the one that the kernel called the program with. It comes back only if
        // there is no program.
        unsafe { PROGRAM.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

/// The same frame for the kernel, which makes a packet of it.
#[xdp(frags)]
fn xdp_pass(ctx: XdpContext) -> u32 {
    match restore(&ctx) {
        Some(()) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Makes a frame what it was: the kernel uses a live frame again, with what programs have written into it.
#[inline(always)]
fn restore(ctx: &XdpContext) -> Option<()> {
    let headers = HEADERS_BEFORE.get(0)?;
    let bytes = headers.as_ptr().cast_mut().cast();
    // SAFETY: the context is the program's; the pointer and the length are those of a map's value, which is only read.
    (unsafe { bpf_xdp_store_bytes(ctx.ctx, 0, bytes, HEADERS as u32) } == 0).then_some(())
}

/// Where redirected packets end.
#[xdp]
fn xdp_drop(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// The pod that an IPv4 packet is for.
#[inline(always)]
fn endpoint(ctx: &TcContext) -> Option<&'static Endpoint> {
    let ethertype: [u8; 2] = ctx.load(ETHERTYPE).ok()?;
    if ethertype != [0x08, 0x00] {
        return None;
    }
    let destination: [u8; 4] = ctx.load(DESTINATION).ok()?;
    // SAFETY: nobody writes the map while packets flow.
    unsafe { ENDPOINTS.get(destination) }
}

#[inline(always)]
fn encapsulate(ctx: &TcContext, endpoint: &Endpoint) -> i32 {
    // SAFETY: all zero is a value of this structure of numbers.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = VNI;
    key.tunnel_ttl = 64;
    key.__bindgen_anon_1.remote_ipv4 = u32::from_be_bytes(endpoint.remote);
    let size = size_of::<bpf_tunnel_key>() as u32;
    let flags = u64::from(BPF_F_ZERO_CSUM_TX);
    // SAFETY: the context is the program's; pointer and size are those of a structure that lives during the call.
    if unsafe { bpf_skb_set_tunnel_key(ctx.skb.skb, &raw mut key, size, flags) } != 0 {
        return TC_ACT_SHOT;
    }
    // SAFETY: the helper takes two numbers and has no preconditions.
    unsafe { bpf_redirect(DEVICE.load(), 0) as i32 }
}

/// Routes the packet to a pod of this node.
#[inline(always)]
fn deliver(ctx: &TcContext, endpoint: &Endpoint) -> i32 {
    match route(ctx, endpoint) {
        // SAFETY: the helper takes two numbers and has no preconditions.
        Some(()) => unsafe { bpf_redirect_peer(endpoint.ifindex, 0) as i32 },
        None => TC_ACT_SHOT,
    }
}

/// Writes what a router writes: MACs, TTL and checksum.
#[inline(always)]
fn route(ctx: &TcContext, endpoint: &Endpoint) -> Option<()> {
    let [ttl, protocol]: [u8; 2] = ctx.load(TTL).ok()?;
    let old = u64::from(u16::from_ne_bytes([ttl, protocol]));
    let lower = [ttl.checked_sub(1)?, protocol];
    let new = u64::from(u16::from_ne_bytes(lower));
    ctx.l3_csum_replace(CHECKSUM, old, new, 2).ok()?;
    ctx.store(TTL, &lower, 0).ok()?;
    ctx.store(0, &endpoint.macs, 0).ok()
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
