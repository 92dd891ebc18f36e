//! Not for packets of anybody: the agent runs it over a frame of its own to learn what the kernel can do.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::programs::TcContext;
use oxlan_common::maps::PROBE_ROOM;

/// Takes tunnel headers off with the flags that the frame's first bytes hold, and returns what the kernel says.
#[inline(always)]
pub(crate) fn shrink(ctx: &TcContext) -> i32 {
    let flags = match ctx.load::<u64>(0) {
        Ok(flags) => flags,
        Err(error) => return error as i32,
    };
    match ctx.skb.adjust_room(-PROBE_ROOM, BPF_ADJ_ROOM_MAC, flags) {
        Ok(()) => 0,
        Err(error) => error as i32,
    }
}
