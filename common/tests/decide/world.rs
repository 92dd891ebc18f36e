//! Tables as plain lists, and what can come out of a decision.

use oxlan_common::addr::{Addr, Mac};
use oxlan_common::counters::DropReason;
use oxlan_common::decide::Tables;
use oxlan_common::maps::{Config, FlowKey, HopsValue, PodValue, RouteKey, RouteValue, VtepValue};

/// What happens to a packet, in words that decision and model share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Next,
    Pod(u32),
    Decapsulated(u32, Option<u8>),
    Vtep(Addr, u8),
    Peer(Addr),
    Received(u32),
    Host,
    Translated,
    Overlay,
    /// To which pod, and with which new mark.
    Aggregate(u32, Option<u8>),
    Answer(Addr),
    TooBig(Addr, u16),
    Ignored,
    Dropped(DropReason),
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) config: Option<Config>,
    pub(crate) pods: Vec<(Addr, PodValue)>,
    pub(crate) routes: Vec<(RouteKey, RouteValue)>,
    pub(crate) hops: Vec<(u32, HopsValue)>,
    pub(crate) vteps: Vec<(Addr, VtepValue)>,
    /// The answer for every bucket.
    pub(crate) follows: bool,
    /// The answer for every flow.
    pub(crate) translates: bool,
}

pub(crate) const OWN_VTEP: Mac = Mac::new([0x0e, 0, 10, 9, 0, 1]);
pub(crate) const MTU: u16 = 1450;
/// The largest packet to node 3: less than IPv6 needs.
pub(crate) const NARROW: u16 = 1250;
pub(crate) const PORT: u16 = 8472;

impl Tables for World {
    fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    fn pod(&self, addr: &Addr) -> Option<&PodValue> {
        find(&self.pods, addr)
    }

    fn route(&self, key: &RouteKey) -> Option<&RouteValue> {
        find(&self.routes, key)
    }

    fn hops(&self, set: u32) -> Option<&HopsValue> {
        find(&self.hops, &set)
    }

    fn vtep(&self, underlay: &Addr) -> Option<&VtepValue> {
        find(&self.vteps, underlay)
    }

    fn follows_aggregate(&self, _bucket: u32) -> bool {
        self.follows
    }

    fn is_translated(&self, _flow: &FlowKey) -> bool {
        self.translates
    }
}

fn find<'a, K: PartialEq, V>(entries: &'a [(K, V)], key: &K) -> Option<&'a V> {
    entries
        .iter()
        .find(|(have, _)| have == key)
        .map(|(_, value)| value)
}
