use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::host::paths::NextHop;

/// Sets that there may be.
const ROOM: u32 = 5;

fn share(index: u32, weight: u16) -> Share {
    let address: IpAddr = format!("10.0.{index}.1").parse().unwrap();
    Share {
        hop: NextHop {
            ifindex: index,
            address,
        },
        weight,
    }
}

fn path(live: &[Share], down: &[Share]) -> Path {
    Path {
        hop: live[0].hop,
        shares: live.to_vec(),
        down: down.to_vec(),
        mtu: Some(1500),
        expires: None,
    }
}

fn node() -> Addr {
    Addr::from_v4([192, 168, 50, 2])
}

/// The device of each bucket.
fn devices(path: &Path) -> Vec<u32> {
    let set = set(path, node()).unwrap();
    let device = |at: &u8| set.hops[usize::from(*at)].ifindex;
    set.buckets.iter().map(device).collect()
}

fn parts(path: &Path) -> BTreeMap<u32, usize> {
    let mut parts = BTreeMap::new();
    for device in devices(path) {
        *parts.entry(device).or_default() += 1;
    }
    parts
}

#[test]
fn parts_are_as_large_as_weights() {
    let even = path(&[share(1, 1), share(2, 1)], &[]);
    assert_eq!(parts(&even), BTreeMap::from([(1, 32), (2, 32)]));
    let uneven = path(&[share(1, 3), share(2, 1)], &[]);
    assert_eq!(parts(&uneven), BTreeMap::from([(1, 48), (2, 16)]));
    let three = path(&[share(1, 1), share(2, 1), share(3, 1)], &[]);
    assert_eq!(parts(&three), BTreeMap::from([(1, 21), (2, 22), (3, 21)]));
}

#[test]
fn one_next_hop_needs_no_set() {
    assert_eq!(set(&path(&[share(1, 1)], &[share(2, 1)]), node()), None);
    let mut sets = Sets::with_room(ROOM);
    assert_eq!(sets.key_of(&path(&[share(1, 1)], &[]), node()), 0);
    assert!(sets.values.is_empty());
}

#[test]
fn nodes_behind_the_same_next_hops_share_a_set() {
    let mut sets = Sets::with_room(ROOM);
    let fabric = path(&[share(1, 1), share(2, 1)], &[]);
    let key = sets.key_of(&fabric, node());
    assert_ne!(key, 0);
    assert_eq!(sets.key_of(&fabric, Addr::from_v4([192, 168, 50, 3])), key);
    let other_order = path(&[share(2, 1), share(1, 1)], &[]);
    assert_eq!(sets.key_of(&other_order, node()), key);
    // And so do nodes on a link, whose next hops are they themselves.
    let on_link = |address: [u8; 4]| {
        let mut path = fabric.clone();
        for share in &mut path.shares {
            share.hop.address = IpAddr::from(address);
        }
        path
    };
    let second = sets.key_of(&on_link([192, 168, 50, 2]), node());
    let third = sets.key_of(
        &on_link([192, 168, 50, 3]),
        Addr::from_v4([192, 168, 50, 3]),
    );
    assert_eq!(second, third);
    assert_eq!(sets.values.len(), 2);
    assert_eq!(sets.unspread, Unspread::default());
}

#[test]
fn what_has_no_room_has_one_next_hop() {
    let mut sets = Sets::with_room(ROOM);
    for index in 1..=ROOM + 3 {
        let key = sets.key_of(&path(&[share(index, 1), share(index + 1, 1)], &[]), node());
        assert_eq!(key == 0, index > ROOM, "{index}");
    }
    assert_eq!(sets.unspread, Unspread { no_room: 3, cut: 0 });
    // Who has one keeps it.
    assert_ne!(
        sets.key_of(&path(&[share(1, 1), share(2, 1)], &[]), node()),
        0
    );
}

#[test]
fn more_next_hops_than_fit_are_left_out() {
    let many: Vec<Share> = (1..=12).map(|index| share(index, 1)).collect();
    let parts = parts(&path(&many, &[share(13, 1)]));
    assert_eq!(parts.len(), MAX_HOPS);
    assert!(parts.values().all(|part| *part == 8), "{parts:?}");
    let mut sets = Sets::with_room(ROOM);
    for shares in [&many[..], &many[..MAX_HOPS + 1], &many[..MAX_HOPS]] {
        sets.key_of(&path(shares, &[share(13, 1)]), node());
    }
    assert_eq!(sets.unspread, Unspread { no_room: 0, cut: 2 });
}

proptest! {
    #[test]
    fn a_next_hop_that_goes_moves_only_its_own_flows(
        weights in proptest::collection::vec(1_u16..=256, 3..=8),
        gone in any::<prop::sample::Index>(),
    ) {
        let all: Vec<Share> = (1..).zip(&weights).map(|(at, weight)| share(at, *weight)).collect();
        let gone = all[gone.index(all.len())];
        let live: Vec<Share> = all.iter().copied().filter(|s| *s != gone).collect();
        let before = devices(&path(&all, &[]));
        let after = devices(&path(&live, &[gone]));
        for (before, after) in before.iter().zip(&after) {
            prop_assert_ne!(*after, gone.hop.ifindex);
            prop_assert!(before == after || *before == gone.hop.ifindex);
        }
    }
}
