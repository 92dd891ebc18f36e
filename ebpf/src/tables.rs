//! The tables of the decision, on BPF maps; and what the programs write: counters and marks.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_ns};
use oxlan_common::addr::Addr;
use oxlan_common::counters::{DropReason, Verdict};
use oxlan_common::decide::Tables;
use oxlan_common::limit::{self, ANSWER_BUCKETS};
use oxlan_common::maps::{
    Config, FlowKey, FlowValue, HopsValue, PodValue, RouteKey, RouteValue, VtepValue, pod_flags,
};

use crate::maps::{ANSWERS, BULK, CONFIG, COUNTERS, FLOWS, HOPS, PODS, ROUTES, VTEPS};

/// Ticks for which the followers of an aggregate go its way: longer than a softirq delays it.
const FOLLOW_JIFFIES: u64 = 2;

/// The maps of this object.
pub(crate) struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        CONFIG.get(0)
    }

    #[inline(always)]
    fn pod(&self, addr: &Addr) -> Option<&PodValue> {
        // SAFETY: the kernel keeps the memory as long as a program may use it. It may use it for
        // another entry of the same map meanwhile: then one packet goes by the old and the new value,
        // which are both numbers without rules.
        unsafe { PODS.get(addr) }
    }

    #[inline(always)]
    fn route(&self, key: &RouteKey) -> Option<&RouteValue> {
        // SAFETY: as for `pod`.
        unsafe { ROUTES.get(key) }
    }

    #[inline(always)]
    fn hops(&self, set: u32) -> Option<&HopsValue> {
        // SAFETY: as for `pod`.
        unsafe { HOPS.get(set) }
    }

    #[inline(always)]
    fn vtep(&self, underlay: &Addr) -> Option<&VtepValue> {
        // SAFETY: as for `pod`.
        unsafe { VTEPS.get(underlay) }
    }

    #[inline(always)]
    fn follows_aggregate(&self, bucket: u32) -> bool {
        let Some(&last) = BULK.get(bucket) else {
            return false;
        };
        last != 0 && now() - last <= FOLLOW_JIFFIES
    }

    #[inline(always)]
    fn is_translated(&self, flow: &FlowKey) -> bool {
        FLOWS.get_ptr(flow).is_some()
    }
}

/// Notes that the host's stack translates a flow, the answers to which this is the key of.
#[inline(always)]
pub(crate) fn remember(flow: &FlowKey, ifindex: u32) {
    if FLOWS.get_ptr(flow).is_none() {
        // A map that evicts has room. If the kernel has no memory, the flow's next packet tries again.
        let _ = FLOWS.insert(flow, FlowValue { ifindex }, 0);
    }
    // The flow first: who finds the mark looks for it.
    mark_translated(&flow.src);
    mark_translated(&flow.dst);
}

/// Forgets a flow.
#[inline(always)]
pub(crate) fn forget(flow: &FlowKey) {
    // That it is not there is what is wanted.
    let _ = FLOWS.remove(flow);
}

/// Notes that `FLOWS` has flows of this pod, if it is one of this node.
#[inline(always)]
fn mark_translated(addr: &Addr) {
    let Some(pod) = PODS.get_ptr_mut(addr) else {
        return;
    };
    // SAFETY: the kernel keeps the memory as long as a program may use it. The agent replaces entries
    // as a whole and never writes into one, and two programs that set the same bit agree.
    unsafe {
        if (*pod).flags & pod_flags::TRANSLATED == 0 {
            (*pod).flags |= pod_flags::TRANSLATED;
        }
    }
}

/// Notes that a packet of this bucket of flows went by the overlay device.
#[inline(always)]
pub(crate) fn mark_aside(bucket: u32) {
    if let Some(last) = BULK.get_ptr_mut(bucket) {
        // SAFETY: the pointer is to this CPU's slot, which no other program on this CPU writes meanwhile.
        unsafe { *last = now() };
    }
}

/// Whether the pod behind this device may get one more answer now.
#[inline(always)]
pub(crate) fn may_answer(ifindex: u32) -> bool {
    let Some(full) = ANSWERS.get_ptr_mut(ifindex % ANSWER_BUCKETS) else {
        return false;
    };
    // SAFETY: the helper has no arguments and no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the pointer is to this CPU's slot, which no other program on this CPU writes meanwhile.
    limit::allow(unsafe { &mut *full }, now)
}

/// Counts a packet that was not dropped.
#[inline(always)]
pub(crate) fn count(verdict: Verdict, bytes: u32) {
    add(verdict.slot(), bytes);
}

/// Counts a dropped packet.
#[inline(always)]
pub(crate) fn count_drop(reason: DropReason, bytes: u32) {
    add(reason.slot(), bytes);
}

/// Packets of a verdict on this CPU so far.
#[inline(always)]
pub(crate) fn packets(verdict: Verdict) -> u64 {
    COUNTERS
        .get(verdict.slot())
        .map_or(0, |counter| counter.packets)
}

#[inline(always)]
fn add(slot: u32, bytes: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: the pointer is to this CPU's slot. A program that interrupts this one on the same
        // CPU may make an increment lost, never a value torn.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(bytes);
        }
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no arguments and no preconditions.
    unsafe { bpf_jiffies64() }
}
