//! Sets of equal next hops (ECMP) for `HOPS`, and the flows that each next hop gets.

use std::collections::BTreeMap;

use bytemuck::Zeroable;
use oxlan_common::addr::Addr;
use oxlan_common::maps::{HOP_BUCKETS, Hop, HopsValue, MAX_HOPS};

use crate::host::paths::{Path, Share};

/// The sets that routes refer to.
///
/// The key of a set follows from what is in it, so a set never changes while routes refer to it: a route
/// goes over to another set.
#[derive(Debug)]
pub(super) struct Sets {
    /// By key.
    pub(super) values: BTreeMap<u32, HopsValue>,
    /// What the routes do not get.
    pub(super) unspread: Unspread,
    /// So many sets may be there.
    room: usize,
}

/// Routes whose flows are not spread as the kernel's routes say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unspread {
    /// There was no room for their set, so they have the first next hop only.
    pub no_room: usize,
    /// They have more next hops than a set takes.
    pub cut: usize,
}

impl Sets {
    /// None yet, and room for so many.
    pub(super) fn with_room(room: u32) -> Self {
        Self {
            values: BTreeMap::new(),
            unspread: Unspread::default(),
            room: usize::try_from(room).unwrap_or(usize::MAX),
        }
    }

    /// The key of the next hops of the way to `underlay`; 0 if there is only one, or no room.
    pub(super) fn key_of(&mut self, path: &Path, underlay: Addr) -> u32 {
        let Some(set) = set(path, underlay) else {
            return 0;
        };
        let mut key = key(&set);
        self.unspread.cut += usize::from(path.shares.len() > MAX_HOPS);
        loop {
            match self.values.get(&key) {
                Some(have) if *have == set => return key,
                // Two sets with one key are as rare as it gets.
                Some(_) => key = key.wrapping_add(1).max(1),
                None if self.values.len() < self.room => {
                    self.values.insert(key, set);
                    return key;
                }
                None => {
                    self.unspread.no_room += 1;
                    return 0;
                }
            }
        }
    }
}

/// A next hop among its equals.
struct Candidate {
    hop: Hop,
    weight: u32,
    live: bool,
}

/// The set of a way's next hops; none if packets have only one to take.
fn set(path: &Path, underlay: Addr) -> Option<HopsValue> {
    let candidate = |live| {
        move |share: &Share| Candidate {
            hop: Hop {
                address: Addr::from(share.hop.address),
                ifindex: share.hop.ifindex,
            },
            weight: share.weight.into(),
            live,
        }
    };
    let live = path.shares.iter().map(candidate(true)).take(MAX_HOPS);
    let down = path.down.iter().map(candidate(false));
    let mut all: Vec<Candidate> = live.chain(down).take(MAX_HOPS).collect();
    if all.iter().filter(|c| c.live).count() < 2 {
        return None;
    }
    // The kernel's order says nothing.
    all.sort_by_key(|c| c.hop);
    let mut value = HopsValue::zeroed();
    for (entry, candidate) in value.hops.iter_mut().zip(all.iter().filter(|c| c.live)) {
        *entry = candidate.hop;
        if candidate.hop.address == underlay {
            entry.address = Addr::UNSPECIFIED;
        }
    }
    value.buckets = buckets(&all);
    Some(value)
}

/// The index among the live ones for each bucket.
///
/// First as if all were alive; then the live ones take those of the others. So a next hop that goes or
/// comes moves no flows but its own.
fn buckets(all: &[Candidate]) -> [u8; HOP_BUCKETS] {
    let everyone: Vec<u32> = all.iter().map(|c| c.weight).collect();
    let whole = divide(HOP_BUCKETS, &everyone);
    let live: Vec<u32> = all.iter().filter(|c| c.live).map(|c| c.weight).collect();
    let orphans = whole.iter().filter(|at| !all[usize::from(**at)].live);
    let mut heirs = divide(orphans.count(), &live).into_iter();
    let mut buckets = [0; HOP_BUCKETS];
    for (bucket, at) in buckets.iter_mut().zip(whole) {
        let before = all.iter().take(at.into()).filter(|c| c.live).count();
        *bucket = if all[usize::from(at)].live {
            u8::try_from(before).unwrap_or_default()
        } else {
            heirs.next().unwrap_or_default()
        };
    }
    buckets
}

/// Gives each of `count` places to somebody, in proportion to weights, as the kernel does: the upper end of
/// somebody's share is the rounded sum of the weights so far (net/ipv4/fib_semantics.c, `fib_rebalance`).
fn divide(count: usize, weights: &[u32]) -> Vec<u8> {
    let total = weights.iter().map(|w| u64::from(*w)).sum::<u64>().max(1);
    let count = u64::try_from(count).unwrap_or_default();
    let mut places = Vec::new();
    let mut so_far = 0;
    for (at, weight) in (0_u8..).zip(weights) {
        so_far += u64::from(*weight);
        let end = (so_far * count + total / 2) / total;
        places.resize(usize::try_from(end).unwrap_or_default(), at);
    }
    places
}

/// FNV-1a, the same in each version of the agent; never 0.
fn key(set: &HopsValue) -> u32 {
    let bytes = bytemuck::bytes_of(set);
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    hash.max(1)
}

#[cfg(test)]
mod tests;
