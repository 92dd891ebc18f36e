//! The order of steps, and the property that a plan, carried out, leaves nothing to do.

use super::*;
use bytemuck::Zeroable;
use oxlan_common::addr::Mac;
use proptest::prelude::*;

fn address(last: u8) -> Addr {
    Addr::from_v4([10, 244, 1, last])
}

fn route_key(third: u8) -> RouteKey {
    RouteKey {
        prefix: Addr::from_v4([10, 244, third, 0]),
        prefix_len: 120,
    }
}

fn pod(ifindex: u32) -> PodValue {
    PodValue {
        ifindex,
        ..PodValue::zeroed()
    }
}

fn route(vni: u32) -> RouteValue {
    RouteValue {
        vni,
        ..RouteValue::zeroed()
    }
}

fn hops(ifindex: u32) -> HopsValue {
    let mut set = HopsValue::zeroed();
    set.hops[0].ifindex = ifindex;
    set
}

fn vtep(last: u8) -> VtepValue {
    VtepValue {
        other: Addr::UNSPECIFIED,
        mac: Mac::new([2, 0, 0, 0, 0, last]),
        flags: 0,
    }
}

fn config(vni: u32) -> Config {
    Config {
        abi: 1,
        vni,
        ..Config::zeroed()
    }
}

fn carry_out(actual: &mut Desired, step: Step) {
    match step {
        Step::SetPod(key, value) => drop(actual.pods.insert(key, value)),
        Step::RemovePod(key) => assert!(actual.pods.remove(&key).is_some()),
        Step::SetRoute(key, value) => drop(actual.routes.insert(key, value)),
        Step::RemoveRoute(key) => assert!(actual.routes.remove(&key).is_some()),
        Step::SetHops(key, value) => drop(actual.hops.insert(key, value)),
        Step::RemoveHops(key) => assert!(actual.hops.remove(&key).is_some()),
        Step::SetVtep(key, value) => drop(actual.vteps.insert(key, value)),
        Step::RemoveVtep(key) => assert!(actual.vteps.remove(&key).is_some()),
        Step::SetConfig(value) => actual.config = value,
    }
}

fn seen(tables: &Desired) -> Actual {
    Actual {
        pods: Some(tables.pods.clone()),
        routes: Some(tables.routes.clone()),
        hops: Some(tables.hops.clone()),
        vteps: Some(tables.vteps.clone()),
        config: Some(tables.config),
    }
}

#[test]
fn nodes_are_known_before_routes_and_forgotten_after_them() {
    let desired = Desired {
        pods: BTreeMap::from([(address(2), pod(7))]),
        routes: BTreeMap::from([(route_key(2), route(1))]),
        hops: BTreeMap::from([(1, hops(2))]),
        unspread: Unspread::default(),
        vteps: BTreeMap::from([(address(20), vtep(2))]),
        config: config(1),
    };
    let actual = Desired {
        pods: BTreeMap::from([(address(3), pod(8))]),
        routes: BTreeMap::from([(route_key(3), route(1))]),
        hops: BTreeMap::from([(2, hops(2))]),
        unspread: Unspread::default(),
        vteps: BTreeMap::from([(address(30), vtep(3))]),
        config: config(0),
    };
    let steps: Vec<Step> = plan(&desired, &seen(&actual))
        .into_iter()
        .map(|p| p.step)
        .collect();
    assert_eq!(
        steps,
        [
            Step::SetVtep(address(20), vtep(2)),
            Step::SetPod(address(2), pod(7)),
            Step::SetHops(1, hops(2)),
            Step::SetRoute(route_key(2), route(1)),
            Step::SetConfig(config(1)),
            Step::RemoveRoute(route_key(3)),
            Step::RemoveVtep(address(30)),
            Step::RemovePod(address(3)),
            Step::RemoveHops(2),
        ]
    );
}

#[test]
fn what_was_not_looked_at_is_left_alone() {
    let desired = Desired {
        pods: BTreeMap::from([(address(2), pod(7))]),
        routes: BTreeMap::new(),
        hops: BTreeMap::new(),
        unspread: Unspread::default(),
        vteps: BTreeMap::new(),
        config: config(1),
    };
    assert_eq!(plan(&desired, &Actual::default()), []);
}

#[test]
fn a_changed_entry_is_told_with_what_it_was() {
    let mut desired = Desired {
        pods: BTreeMap::new(),
        routes: BTreeMap::from([(route_key(2), route(1))]),
        hops: BTreeMap::new(),
        unspread: Unspread::default(),
        vteps: BTreeMap::new(),
        config: config(1),
    };
    let actual = seen(&desired);
    desired.routes.insert(route_key(2), route(5));
    let steps = plan(&desired, &actual);
    let words = steps[0].as_repair();
    assert!(
        words.starts_with("put back the prefix 10.244.2.0/24 of ::"),
        "{words}"
    );
    assert!(words.contains("changed to underlay ::"), "{words}");
    assert!(words.contains("vni 1 "), "{words}");
}

prop_compose! {
    fn any_tables()(
        pods in prop::collection::btree_map(0u8..6, 1u32..3, 0..6),
        routes in prop::collection::btree_map(0u8..6, 1u32..3, 0..6),
        hops in prop::collection::btree_map(1u32..6, 1u32..3, 0..6),
        vteps in prop::collection::btree_map(0u8..6, 1u8..3, 0..6),
        vni in 0u32..3,
    ) -> Desired {
        Desired {
            pods: pods.into_iter().map(|(k, v)| (address(k), pod(v))).collect(),
            routes: routes.into_iter().map(|(k, v)| (route_key(k), route(v))).collect(),
            hops: hops.into_iter().map(|(k, v)| (k, self::hops(v))).collect(),
            unspread: Unspread::default(),
            vteps: vteps.into_iter().map(|(k, v)| (address(k), vtep(v))).collect(),
            config: config(vni),
        }
    }
}

proptest! {
    #[test]
    fn a_plan_carried_out_leaves_nothing_to_do(desired in any_tables(), actual in any_tables()) {
        let mut now = actual.clone();
        let steps = plan(&desired, &seen(&actual));
        for planned in &steps {
            carry_out(&mut now, planned.step);
        }
        prop_assert_eq!(&now, &desired);
        prop_assert_eq!(plan(&desired, &seen(&now)), vec![]);
        // What is right already is not touched.
        let kept = desired.pods.iter().filter(|(k, v)| actual.pods.get(k) == Some(v)).count();
        let written = steps.iter().filter(|p| matches!(p.step, Step::SetPod(..))).count();
        prop_assert_eq!(written, desired.pods.len() - kept);
    }
}
