//! Examples of single deviations, and the property that a plan, carried out, leaves nothing to do.

use super::*;
use proptest::prelude::*;

const OVERLAY: &str = "oxlan0";

const BUCKET: TokenBucket = TokenBucket {
    rate: 125_000,
    burst: 65_536,
};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn mac(last: u8) -> Mac {
    Mac::new([0x0e, 0, 0, 0, 0, last])
}

fn on(name: &str) -> Via {
    Via::Device {
        name: name.into(),
        source: Some("10.244.1.0".parse().unwrap()),
        mtu: None,
    }
}

fn desired() -> Desired {
    let pod = "10.244.1.2".parse().unwrap();
    Desired {
        overlay: Overlay {
            name: OVERLAY.into(),
            port: 8472,
            mac: mac(1),
            mtu: 1450,
        },
        pods: BTreeMap::from([(
            "oxl1".into(),
            PodDevice {
                ifindex: 7,
                mac: mac(2),
                mtu: 1450,
                limit: Some(BUCKET),
            },
        )]),
        addresses: BTreeSet::from([net("10.244.1.0/32")]),
        routes: BTreeMap::from([
            ((net("10.244.0.0/16"), 0), on(OVERLAY)),
            ((net("10.244.1.0/24"), 4096), Via::Unreachable),
            ((net("10.244.1.2/32"), 0), on("oxl1")),
        ]),
        neighbours: BTreeMap::from([(("oxl1".into(), pod), mac(3))]),
        sysctls: vec![
            Sysctl {
                key: "net/ipv4/ip_forward".into(),
                value: "1",
                device: None,
            },
            Sysctl {
                key: "net/ipv4/conf/oxl1/forwarding".into(),
                value: "1",
                device: Some("oxl1".into()),
            },
        ],
    }
}

fn device(name: &str, ifindex: u32) -> Device {
    Device {
        name: name.into(),
        ifindex,
        mtu: 1500,
        mac: mac(9),
        up: false,
        arp: true,
        makes_address: true,
        ethernet: true,
        nowhere: false,
        vxlan: None,
    }
}

/// What the kernel would do.
fn carry_out(actual: &mut Actual, step: &Step) {
    match step {
        Step::CreateOverlay { name, port, mac } => {
            let mut made = device(name, 100);
            made.mac = *mac;
            made.vxlan = Some(Vxlan {
                port: *port,
                external: true,
            });
            actual.devices.insert(name.clone(), made);
        }
        Step::SetLimit(name, bucket) => {
            actual.limits.insert(name.clone(), Present::of(bucket));
        }
        Step::RemoveDevice(name) => {
            actual.devices.remove(name);
            if name == OVERLAY {
                actual.addresses.clear();
            }
            actual.routes.retain(|_, via| via.device() != Some(name));
            actual.neighbours.retain(|(n, _), _| n != name);
        }
        Step::ChangeDevice(name, change) => {
            let device = actual.devices.get_mut(name).expect("it exists");
            device.mac = change.mac.unwrap_or(device.mac);
            device.mtu = change.mtu.unwrap_or(device.mtu);
            device.arp = change.arp.unwrap_or(device.arp);
            device.makes_address = change.makes_address.unwrap_or(device.makes_address);
            device.up |= change.up;
        }
        Step::AddAddress(name, address) => {
            assert!(actual.devices.contains_key(name), "no {name} for {address}");
            actual.addresses.insert(*address);
        }
        Step::RemoveAddress(_, address) => {
            assert!(actual.addresses.remove(address), "{address} is not there");
        }
        Step::SetRoute(to, metric, via) => {
            if let Some(name) = via.device() {
                assert!(actual.devices.contains_key(name), "no {name} for {to}");
            }
            actual.routes.insert((*to, *metric), via.clone());
        }
        Step::RemoveRoute(to, metric, _) => {
            assert!(actual.routes.remove(&(*to, *metric)).is_some());
        }
        Step::SetNeighbour(name, address, mac) => {
            assert!(actual.devices.contains_key(name), "no {name} for {address}");
            let key = (name.clone(), *address);
            actual.neighbours.insert(key, (*mac, true));
        }
        Step::SetSysctl(sysctl) => {
            actual
                .sysctls
                .insert(sysctl.key.clone(), sysctl.value.to_owned());
        }
    }
}

/// A host on which everything is as desired.
fn settled() -> Actual {
    let mut actual = Actual::default();
    actual.devices.insert("oxl1".into(), device("oxl1", 7));
    for planned in plan(&desired(), &actual).steps {
        carry_out(&mut actual, &planned.step);
    }
    actual
}

/// The words of the one repair after a change.
#[track_caller]
fn repair(damage: impl FnOnce(&mut Actual)) -> String {
    let mut actual = settled();
    damage(&mut actual);
    let steps = plan(&desired(), &actual).steps;
    assert_eq!(steps.len(), 1, "{steps:#?}");
    steps[0].as_repair()
}

#[test]
fn nothing_is_done_when_all_is_right() {
    assert_eq!(plan(&desired(), &settled()), Plan::default());
}

#[test]
fn each_deviation_has_one_repair_that_says_what_it_was() {
    let words = repair(|a| drop(a.routes.remove(&(net("10.244.0.0/16"), 0))));
    assert_eq!(
        words,
        "put back the route 10.244.0.0/16 dev oxlan0 src 10.244.1.0, which somebody removed"
    );
    let words = repair(|a| a.devices.get_mut(OVERLAY).unwrap().mac = mac(0x55));
    assert_eq!(
        words,
        "put back the device oxlan0, MAC 0e:00:00:00:00:01, which somebody changed to MAC 0e:00:00:00:00:55"
    );
    let words = repair(|a| a.devices.get_mut("oxl1").unwrap().up = false);
    assert_eq!(
        words,
        "put back the device oxl1, up, which somebody changed to down"
    );
    let words = repair(|a| assert!(a.addresses.insert(net("10.9.9.9/32"))));
    assert_eq!(
        words,
        "removed the address 10.9.9.9/32 on oxlan0, which somebody added"
    );
    let words = repair(|a| drop(a.sysctls.insert("net/ipv4/ip_forward".into(), "0".into())));
    assert_eq!(
        words,
        "put back the sysctl net.ipv4.ip_forward = 1, which somebody changed to 0"
    );
    let words = repair(|a| a.neighbours.clear());
    assert_eq!(
        words,
        "put back the neighbour 10.244.1.2 lladdr 0e:00:00:00:00:03 on oxl1, which somebody removed"
    );
    let words = repair(|a| drop(a.routes.insert((net("10.1.0.0/16"), 0), on(OVERLAY))));
    assert!(
        words.starts_with("removed the route 10.1.0.0/16"),
        "{words}"
    );
}

#[test]
fn a_neighbour_must_be_permanent() {
    let words = repair(|a| a.neighbours.values_mut().for_each(|n| n.1 = false));
    assert!(words.contains("not permanent"), "{words}");
}

#[test]
fn an_overlay_with_another_port_is_made_again_with_all_that_hangs_on_it() {
    let mut actual = settled();
    actual.devices.get_mut(OVERLAY).unwrap().vxlan = Some(Vxlan {
        port: 1,
        external: true,
    });
    let steps: Vec<Step> = plan(&desired(), &actual)
        .steps
        .into_iter()
        .map(|p| p.step)
        .collect();
    assert!(matches!(&steps[0], Step::RemoveDevice(name) if name == OVERLAY));
    assert!(matches!(&steps[1], Step::CreateOverlay { port: 8472, .. }));
    assert!(steps.contains(&Step::AddAddress(OVERLAY.into(), net("10.244.1.0/32"))));
    assert!(steps.contains(&Step::SetRoute(net("10.244.0.0/16"), 0, on(OVERLAY))));
    assert!(!steps.iter().any(|s| matches!(s, Step::SetNeighbour(..))));
}

#[test]
fn a_lost_pod_is_reported_and_nothing_is_tried_for_it() {
    let mut actual = settled();
    carry_out(&mut actual, &Step::RemoveDevice("oxl1".into()));
    actual.sysctls.remove("net/ipv4/conf/oxl1/forwarding");
    let found = plan(&desired(), &actual);
    assert_eq!(found.lost, ["oxl1"]);
    assert_eq!(found.steps, []);
    // Another device of the same name is not the pod's.
    actual.devices.insert("oxl1".into(), device("oxl1", 8));
    assert_eq!(plan(&desired(), &actual), found);
}

fn any_device() -> impl Strategy<Value = Device> {
    let vxlan = prop_oneof![
        Just(None),
        (8470u16..8474, any::<bool>()).prop_map(|(port, external)| Some(Vxlan { port, external })),
    ];
    let name = prop_oneof![Just(OVERLAY), Just("oxl1"), Just("oxl2"), Just("eth0")];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (name, 6u32..9, 1449u32..1451, 1u8..4, flags, vxlan).prop_map(
        |(name, ifindex, mtu, last, (up, arp, makes_address), vxlan)| Device {
            name: name.into(),
            ifindex,
            mtu,
            mac: mac(last),
            up,
            arp,
            makes_address,
            ethernet: true,
            nowhere: false,
            vxlan,
        },
    )
}

fn any_via() -> impl Strategy<Value = Via> {
    let name = prop_oneof![Just(OVERLAY), Just("oxl1"), Just("eth0")];
    let source = prop_oneof![
        Just(None),
        Just(Some("10.244.1.0".parse::<IpAddr>().unwrap()))
    ];
    prop_oneof![
        Just(Via::Unreachable),
        (
            name.clone(),
            source.clone(),
            prop_oneof![Just(None), Just(Some(1400))]
        )
            .prop_map(|(name, source, mtu)| Via::Device {
                name: name.into(),
                source,
                mtu,
            }),
        (name, source).prop_map(|(name, source)| Via::Gateway {
            name: name.into(),
            gateway: "192.168.50.2".parse().unwrap(),
            source
        }),
    ]
}

fn any_route() -> impl Strategy<Value = ((IpNet, u32), Via)> {
    let to = prop_oneof![
        Just(net("10.244.0.0/16")),
        Just(net("10.244.1.0/24")),
        Just(net("10.244.1.2/32")),
        Just(net("10.9.0.0/16"))
    ];
    (to, prop_oneof![Just(0u32), Just(4096)], any_via()).prop_map(|(to, m, via)| ((to, m), via))
}

prop_compose! {
    /// Any host that the kernel allows: what hangs on a device is gone when the device is.
    fn any_actual()(
        devices in prop::collection::vec(any_device(), 0..5),
        addresses in prop::collection::btree_set(
            prop_oneof![Just(net("10.244.1.0/32")), Just(net("10.7.7.7/24"))], 0..3),
        routes in prop::collection::btree_map(any_route().prop_map(|r| r.0), any_via(), 0..6),
        neighbour in prop::option::of((1u8..5, any::<bool>())),
        sysctls in prop::collection::vec(prop_oneof![Just("0"), Just("1")], 2),
    ) -> Actual {
        let devices: BTreeMap<String, Device> =
            devices.into_iter().map(|d| (d.name.clone(), d)).collect();
        let mut actual = Actual { devices, addresses, routes, ..Actual::default() };
        if !actual.devices.contains_key(OVERLAY) {
            actual.addresses.clear();
        }
        let devices = &actual.devices;
        let is_there = |via: &Via| via.device().is_none_or(|name| devices.contains_key(name));
        actual.routes.retain(|_, via| is_there(via));
        if let Some((last, permanent)) = neighbour.filter(|_| devices.contains_key("oxl1")) {
            let key = ("oxl1".to_owned(), "10.244.1.2".parse().unwrap());
            actual.neighbours.insert(key, (mac(last), permanent));
        }
        for (sysctl, value) in desired().sysctls.iter().zip(sysctls) {
            actual.sysctls.insert(sysctl.key.clone(), value.to_owned());
        }
        actual
    }
}

proptest! {
    #[test]
    fn a_plan_carried_out_leaves_nothing_to_do(actual in any_actual()) {
        let mut now = actual;
        let first = plan(&desired(), &now);
        for planned in &first.steps {
            carry_out(&mut now, &planned.step);
        }
        let second = plan(&desired(), &now);
        prop_assert_eq!(&second.steps, &vec![]);
        prop_assert_eq!(second.lost, first.lost);
    }

    #[test]
    fn what_is_not_ours_stays(actual in any_actual()) {
        for planned in plan(&desired(), &actual).steps {
            match planned.step {
                Step::RemoveDevice(name) => prop_assert_eq!(name, OVERLAY),
                Step::ChangeDevice(name, _) => prop_assert!(name == OVERLAY || name == "oxl1"),
                Step::RemoveAddress(name, _) => prop_assert_eq!(name, OVERLAY),
                // Only routes with our protocol number are in `actual`.
                Step::RemoveRoute(to, metric, _) => {
                    prop_assert!(actual.routes.contains_key(&(to, metric)));
                    prop_assert!(!desired().routes.contains_key(&(to, metric)));
                }
                Step::CreateOverlay { .. }
                | Step::AddAddress(..)
                | Step::SetRoute(..)
                | Step::SetNeighbour(..)
                | Step::SetLimit(..)
                | Step::SetSysctl(_) => {}
            }
        }
    }
}
