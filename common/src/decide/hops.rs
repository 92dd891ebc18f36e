//! Equal next hops (ECMP): which one a flow takes.

use super::Tables;
use crate::addr::Addr;
use crate::maps::{BULK_BUCKETS, HOP_BUCKETS, MAX_HOPS, RouteValue};

/// Interface index and address of the next hop for packets of the flow with this hash.
///
/// The tunnel's source port is made of the same hash, and routers on the way spread flows by that port.
/// So the bits that count here are others: mixed by a multiplication, and from the other end.
#[inline(always)]
pub fn next_hop<'t, T: Tables>(tables: &'t T, route: &'t RouteValue, hash: u32) -> (u32, &'t Addr) {
    /// 2^32 divided by the golden ratio: neighbours are far apart (Knuth, TAOCP 6.4).
    const SPREAD: u32 = 0x9e37_79b1;
    /// So many of the upper bits are a bucket's number.
    const SHIFT: u32 = u32::BITS - HOP_BUCKETS.ilog2();
    if route.hops == 0 {
        return (route.ifindex, &route.next_hop);
    }
    let Some(set) = tables.hops(route.hops) else {
        return (route.ifindex, &route.next_hop);
    };
    let bucket = (hash.wrapping_mul(SPREAD) >> SHIFT) as usize % HOP_BUCKETS;
    let hop = &set.hops[usize::from(set.buckets[bucket]) % MAX_HOPS];
    let address = if hop.address.is_unspecified() {
        &route.underlay
    } else {
        &hop.address
    };
    (hop.ifindex, address)
}

/// The bucket of `BULK` in which it is noted that packets of a flow with this hash go by the overlay device.
///
/// The kernel chooses the next hop of those, and it may be another one. So if there are several, the other
/// packets of the flow follow until there have been none for a moment. Over IPv4, all go the same way.
#[inline(always)]
#[must_use]
pub const fn send_bucket(route: &RouteValue, hash: u32) -> Option<u32> {
    if route.hops == 0 || route.underlay.is_v4() {
        None
    } else {
        Some(hash % BULK_BUCKETS)
    }
}

/// Whether packets to the prefix may leave by this device, so that packets from it may come in by it.
#[inline(always)]
pub(super) fn leads_by<T: Tables>(tables: &T, route: &RouteValue, ifindex: u32) -> bool {
    if route.ifindex == ifindex {
        return true;
    }
    if route.hops == 0 {
        return false;
    }
    tables
        .hops(route.hops)
        .is_some_and(|set| set.hops.iter().any(|hop| hop.ifindex == ifindex))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::{Config, FlowKey, Hop, HopsValue, PodValue, RouteKey, VtepValue};
    use bytemuck::Zeroable as _;
    use proptest::prelude::*;

    /// Only sets of next hops; number 7 is there.
    struct Sets(HopsValue);

    impl Tables for Sets {
        fn config(&self) -> Option<&Config> {
            None
        }
        fn pod(&self, _addr: &Addr) -> Option<&PodValue> {
            None
        }
        fn route(&self, _key: &RouteKey) -> Option<&RouteValue> {
            None
        }
        fn hops(&self, set: u32) -> Option<&HopsValue> {
            (set == 7).then_some(&self.0)
        }
        fn vtep(&self, _underlay: &Addr) -> Option<&VtepValue> {
            None
        }
        fn follows_aggregate(&self, _bucket: u32) -> bool {
            false
        }
        fn is_translated(&self, _flow: &FlowKey) -> bool {
            false
        }
    }

    const GATEWAY: Addr = Addr::from_v4([10, 0, 0, 1]);
    const UNDERLAY: Addr = Addr::from_v4([192, 168, 50, 2]);

    /// Three quarters by a gateway on device 2, one quarter straight by device 3.
    fn sets() -> Sets {
        let mut set = HopsValue::zeroed();
        set.hops[0] = Hop {
            address: GATEWAY,
            ifindex: 2,
        };
        set.hops[1].ifindex = 3;
        set.buckets[HOP_BUCKETS * 3 / 4..].fill(1);
        Sets(set)
    }

    fn route(hops: u32) -> RouteValue {
        RouteValue {
            underlay: UNDERLAY,
            next_hop: GATEWAY,
            ifindex: 1,
            hops,
            ..RouteValue::zeroed()
        }
    }

    #[test]
    fn a_route_without_a_set_has_one_next_hop() {
        for number in [0, 8] {
            for hash in [0, 1, u32::MAX] {
                let route = route(number);
                assert_eq!(next_hop(&sets(), &route, hash), (1, &GATEWAY));
            }
        }
    }

    #[test]
    fn flows_are_spread_by_the_parts_of_next_hops() {
        let (sets, route) = (sets(), route(7));
        let flows = 100_000_u32;
        // As like each other as hashes can be.
        let straight = (0..flows).filter(|hash| next_hop(&sets, &route, *hash).0 == 3);
        let straight = straight.count();
        assert!((24_000..26_000).contains(&straight), "{straight}");
    }

    /// Flows that a router on the way spreads by the source port must not all have come by one next hop.
    #[test]
    fn the_source_port_tells_nothing_about_the_next_hop() {
        let (sets, route) = (sets(), route(7));
        for half in [0, 1] {
            let of_half = |hash: &u32| crate::wire::flow_port(*hash) % 2 == half;
            let hashes = || {
                (0..100_000_u32)
                    .map(|n| n.wrapping_mul(0x85eb_ca6b))
                    .filter(of_half)
            };
            let straight = hashes().filter(|hash| next_hop(&sets, &route, *hash).0 == 3);
            let percent = straight.count() * 100 / hashes().count();
            assert!((23..=27).contains(&percent), "{percent} of 100");
        }
    }

    #[test]
    fn a_peer_comes_by_any_device_that_leads_there() {
        let sets = sets();
        let by = |route: &RouteValue| [1, 2, 3, 4].map(|ifindex| leads_by(&sets, route, ifindex));
        assert_eq!(by(&route(7)), [true, true, true, false]);
        assert_eq!(by(&route(0)), [true, false, false, false]);
        assert_eq!(by(&route(8)), [true, false, false, false]);
    }

    #[test]
    fn only_tunnels_over_ipv6_with_a_choice_note_what_went_aside() {
        assert_eq!(send_bucket(&route(7), 5), None);
        let mut over_ipv6 = route(7);
        over_ipv6.underlay = Addr::from_v6([0xfd; 16]);
        assert_eq!(send_bucket(&over_ipv6, BULK_BUCKETS + 5), Some(5));
        over_ipv6.hops = 0;
        assert_eq!(send_bucket(&over_ipv6, 5), None);
    }

    proptest! {
        #[test]
        fn a_flow_has_one_next_hop_and_that_is_one_of_the_set(hash: u32) {
            let (sets, route) = (sets(), route(7));
            let hop = next_hop(&sets, &route, hash);
            prop_assert_eq!(hop, next_hop(&sets, &route, hash));
            prop_assert!(hop == (2, &GATEWAY) || hop == (3, &UNDERLAY));
        }
    }
}
