//! Programs that call one helper of the kernel each: what a call costs, as part of what a packet costs.
//!
//! Each returns `TC_ACT_UNSPEC` if the helper did what it is called for, and `TC_ACT_SHOT` if not.

use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_NO_PREALLOC, TC_ACT_REDIRECT,
    TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_fib_lookup as FibLookup,
    bpf_redir_neigh, bpf_tunnel_key,
};
use aya_ebpf::btf_maps::{HashMap, ProgramArray};
use aya_ebpf::helpers::{
    bpf_fib_lookup, bpf_get_hash_recalc, bpf_redirect_neigh, bpf_redirect_peer,
    bpf_skb_set_tunnel_key, bpf_skb_store_bytes,
};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use oxlan_common::addr::Addr;
use oxlan_common::bench::{HOP_SETS, LOOKED_UP, VNI};
use oxlan_common::maps::{HOP_BUCKETS, HopsValue, MAX_HOPS, PodValue};
use oxlan_common::wire::OVERHEAD_V4;

use crate::{DESTINATION, DEVICE};

/// `AF_INET` (include/linux/socket.h).
const AF_INET: u32 = 2;

/// Bytes of the headers that are written to the front of an encapsulated packet.
const WRITTEN: usize = 64;

/// A map like the agent's, with as many entries as the node has pods.
#[btf_map]
static ADDRESSES: HashMap<Addr, PodValue, 4096, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Sets of next hops, as the agent's map has them.
#[btf_map]
static SETS: HashMap<u32, HopsValue, { HOP_SETS as usize }, 0> = HashMap::new();

/// The agent's `from_overlay`.
#[btf_map]
static FROM_OVERLAY: ProgramArray<1> = ProgramArray::new();

/// Where an Ethernet frame with IPv4 has the source address.
const SOURCE: usize = DESTINATION - 4;

#[classifier]
fn call_lookup(_ctx: TcContext) -> i32 {
    // SAFETY: nobody writes the map while packets flow.
    verdict(unsafe { ADDRESSES.get(LOOKED_UP) }.is_some())
}

/// As for a packet whose route has several next hops and whose flow's hash is known.
#[classifier]
fn call_hops(ctx: TcContext) -> i32 {
    // SAFETY: nobody writes the map while packets flow.
    let Some(set) = (unsafe { SETS.get(HOP_SETS / 2) }) else {
        return TC_ACT_SHOT;
    };
    // SAFETY: the context is the one that the kernel called the program with.
    let hash = unsafe { (*ctx.skb.skb).hash };
    let bucket = set.buckets[hash as usize % HOP_BUCKETS];
    verdict(set.hops[usize::from(bucket) % MAX_HOPS].ifindex != 0)
}

/// The way to an IPv4 packet's destination with the next hop's MAC, as the kernel would forward the packet.
#[classifier]
fn call_fib(ctx: TcContext) -> i32 {
    let Ok(destination) = ctx.load::<[u8; 4]>(DESTINATION) else {
        return TC_ACT_SHOT;
    };
    // SAFETY: all zero is a value of this structure of numbers.
    let mut way: FibLookup = unsafe { core::mem::zeroed() };
    way.family = AF_INET as u8;
    // SAFETY: the context is the one that the kernel called the program with.
    way.ifindex = unsafe { (*ctx.skb.skb).ifindex };
    way.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination);
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: the context is the program's; pointer and size are those of a structure that lives during the call.
    let found = unsafe { bpf_fib_lookup(ctx.skb.skb.cast(), &raw mut way, size, 0) };
    verdict(found == 0)
}

/// What [`call_from_overlay`] does before.
#[classifier]
fn with_tunnel_key(ctx: TcContext) -> i32 {
    verdict(came_by_tunnel(&ctx))
}

/// The agent's program over a packet that the overlay device seems to have decapsulated.
#[classifier]
fn call_from_overlay(ctx: TcContext) -> i32 {
    if came_by_tunnel(&ctx) {
        // SAFETY: the context is the one that the kernel called the program with. It comes back only if
        // there is no program.
        unsafe { FROM_OVERLAY.tail_call(&ctx, 0) };
    }
    TC_ACT_SHOT
}

/// Gives an IPv4 packet the metadata of a tunnel from its sender's node: that of 10.A.B.0/24 is 172.16.A.B
/// (tests/src/bench/programs/node.rs).
#[inline(always)]
fn came_by_tunnel(ctx: &TcContext) -> bool {
    let Ok([_, a, b, _]) = ctx.load::<[u8; 4]>(SOURCE) else {
        return false;
    };
    // SAFETY: all zero is a value of this structure of numbers.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = VNI;
    // The kernel keeps the sender where a packet that is to be sent has its own address.
    key.__bindgen_anon_3.local_ipv4 = u32::from_be_bytes([172, 16, a, b]);
    let size = size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: the context is the program's; pointer and size are those of a structure that lives during the call.
    unsafe { bpf_skb_set_tunnel_key(ctx.skb.skb, &raw mut key, size, 0) == 0 }
}

#[classifier]
fn call_hash(ctx: TcContext) -> i32 {
    // SAFETY: the context is the one that the kernel called the program with.
    verdict(unsafe { bpf_get_hash_recalc(ctx.skb.skb) } != 0)
}

#[classifier]
fn call_grow(ctx: TcContext) -> i32 {
    let flags = BPF_F_ADJ_ROOM_ENCAP_L2_ETH
        | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
        | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
        | BPF_F_ADJ_ROOM_FIXED_GSO;
    let flags = u64::from(flags) | 14 << 56;
    let grown = ctx.adjust_room(OVERHEAD_V4.into(), BPF_ADJ_ROOM_MAC, flags);
    verdict(grown.is_ok())
}

#[classifier]
fn call_shrink(ctx: TcContext) -> i32 {
    let flags = BPF_F_ADJ_ROOM_NO_CSUM_RESET.into();
    let shrunk = ctx.adjust_room(-i32::from(OVERHEAD_V4), BPF_ADJ_ROOM_MAC, flags);
    verdict(shrunk.is_ok())
}

#[classifier]
fn call_store(ctx: TcContext) -> i32 {
    let headers = [0_u8; WRITTEN];
    // SAFETY: the context is the program's; pointer and length are those of an array that lives during the call.
    let stored = unsafe {
        bpf_skb_store_bytes(
            ctx.skb.skb.cast(),
            0,
            headers.as_ptr().cast(),
            WRITTEN as u32,
            0,
        )
    };
    verdict(stored == 0)
}

#[classifier]
fn call_redirect_peer(_ctx: TcContext) -> i32 {
    // SAFETY: the helper takes two numbers and has no preconditions.
    let action = unsafe { bpf_redirect_peer(DEVICE.load(), 0) };
    verdict(action == TC_ACT_REDIRECT.into())
}

#[classifier]
fn call_redirect_neigh(_ctx: TcContext) -> i32 {
    // SAFETY: all zero is a value of this structure of numbers.
    let mut neighbour: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    neighbour.nh_family = AF_INET;
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the pointer and the size are those of a structure that lives during the call.
    let action = unsafe { bpf_redirect_neigh(DEVICE.load(), &raw mut neighbour, size, 0) };
    verdict(action == TC_ACT_REDIRECT.into())
}

#[inline(always)]
const fn verdict(is_done: bool) -> i32 {
    if is_done { TC_ACT_UNSPEC } else { TC_ACT_SHOT }
}
