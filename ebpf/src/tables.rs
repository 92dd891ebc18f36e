//! The tables of the decision, on BPF maps; and what the programs write: counters and marks.

use aya_ebpf::helpers::bpf_jiffies64;
use oxlan_common::addr::Addr;
use oxlan_common::counters::{DropReason, Verdict};
use oxlan_common::decide::Tables;
use oxlan_common::maps::{Config, PodValue, RouteKey, RouteValue, VtepValue};

use crate::maps::{BULK, CONFIG, COUNTERS, PODS, ROUTES, VTEPS};

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
}

/// Notes that an aggregate of this bucket of flows went by the overlay device.
#[inline(always)]
pub(crate) fn mark_aggregate(bucket: u32) {
    if let Some(last) = BULK.get_ptr_mut(bucket) {
        // SAFETY: the pointer is to this CPU's slot, which no other program on this CPU writes meanwhile.
        unsafe { *last = now() };
    }
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
