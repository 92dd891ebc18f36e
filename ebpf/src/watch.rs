//! Tells the agent when another process has changed BPF objects.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, bpf_cmd};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::bpf_ringbuf_query;
use aya_ebpf::programs::{FExitContext, ProbeContext};
use oxlan_common::maps::AuditRecord;

use crate::maps::{AGENT_PID, AUDIT};

/// Runs at the end of each `bpf` system call.
#[inline(always)]
pub(crate) fn bpf_call(ctx: &FExitContext) {
    let pid = ctx.tgid();
    if pid == AGENT_PID.load() {
        return;
    }
    let Some(command) = command(ctx).filter(|command| is_change(*command)) else {
        return;
    };
    let result: i64 = ctx.arg(1);
    // An unread record says "look" already, and the agent has yet to look.
    if result >= 0 && !has_unread() {
        // A full ring cannot be: it was just found empty. If it is, the same holds.
        let _ = AUDIT.output(AuditRecord { pid, command }, 0);
    }
}

/// First argument of the system call, from the registers that its entry function gets a pointer to.
#[inline(always)]
fn command(ctx: &FExitContext) -> Option<u32> {
    let registers: *mut c_void = ctx.arg(0);
    ProbeContext::new(registers).arg(0)
}

/// Whether there are records that the agent has not read yet.
#[inline(always)]
fn has_unread() -> bool {
    let ring = core::ptr::from_ref(&AUDIT).cast_mut().cast();
    // SAFETY: the pointer is to a ring buffer map, which is all that the helper asks for.
    unsafe { bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA)) != 0 }
}

/// Whether a command changes what we rely on: contents of maps, and what is attached where.
#[inline(always)]
fn is_change(command: u32) -> bool {
    matches!(
        command,
        bpf_cmd::BPF_MAP_UPDATE_ELEM
            | bpf_cmd::BPF_MAP_DELETE_ELEM
            | bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_ELEM
            | bpf_cmd::BPF_MAP_UPDATE_BATCH
            | bpf_cmd::BPF_MAP_DELETE_BATCH
            | bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_BATCH
            | bpf_cmd::BPF_PROG_ATTACH
            | bpf_cmd::BPF_PROG_DETACH
            | bpf_cmd::BPF_LINK_CREATE
            | bpf_cmd::BPF_LINK_UPDATE
            | bpf_cmd::BPF_LINK_DETACH
    )
}
