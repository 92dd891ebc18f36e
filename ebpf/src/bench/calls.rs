//! Programs that call one helper of the kernel each: what a call costs, as part of what a packet costs.
//!
//! Each returns `TC_ACT_UNSPEC` if the helper did what it is called for, and `TC_ACT_SHOT` if not.

use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_NO_PREALLOC, TC_ACT_REDIRECT,
    TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_redir_neigh,
};
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::helpers::{
    bpf_get_hash_recalc, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_store_bytes,
};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use oxlan_common::addr::Addr;
use oxlan_common::bench::LOOKED_UP;
use oxlan_common::maps::PodValue;
use oxlan_common::wire::OVERHEAD_V4;

use crate::DEVICE;

/// `AF_INET` (include/linux/socket.h).
const AF_INET: u32 = 2;

/// Bytes of the headers that are written to the front of an encapsulated packet.
const WRITTEN: usize = 64;

/// A map like the agent's, with as many entries as the node has pods.
#[btf_map]
static ADDRESSES: HashMap<Addr, PodValue, 4096, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

#[classifier]
fn call_lookup(_ctx: TcContext) -> i32 {
    // SAFETY: nobody writes the map while packets flow.
    verdict(unsafe { ADDRESSES.get(LOOKED_UP) }.is_some())
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
