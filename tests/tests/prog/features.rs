//! What the agent finds out about the kernel by trying, against what is known of Linux's releases.

use aya::util::KernelVersion;
use oxlan::datapath::{Feature, Probed};
use oxlan::host::shaper;
use oxlan_tests::fact::tell;

use crate::world::OwnWorld;

/// The releases of Linux that brought the features that only trying tells of.
const SINCE: [(Feature, (u8, u8)); 4] = [
    (Feature::TcxLinks, (6, 6)),
    (Feature::OtherFamily, (6, 3)),
    (Feature::FrameFragments, (6, 3)),
    (Feature::AggregateMarks, (7, 3)),
];

/// None of these kernels has features of later ones.
#[test]
fn features_are_found_by_trying() {
    let Some(world) = OwnWorld::empty() else {
        return;
    };
    let now = KernelVersion::current().unwrap();
    let probed = world.datapath.features(None, None);
    for (feature, (major, minor)) in SINCE {
        let found = of(&probed, feature);
        let expected = now >= KernelVersion::new(major, minor, 0);
        assert_eq!(found.refusal.is_none(), expected, "{found:?}");
    }
}

/// Only a watcher tells whether changes can be watched; the reason is repeated.
#[tokio::test]
async fn all_are_told() {
    let Some(world) = OwnWorld::empty() else {
        return;
    };
    let unwatched = world.datapath.watch_changes().err().map(|e| e.to_string());
    let unlimited = shaper::refusal();
    let probed = world.datapath.features(unwatched.clone(), unlimited);
    assert_eq!(of(&probed, Feature::ChangeEvents).refusal, unwatched);
    for Probed { feature, refusal } in &probed {
        let state = if refusal.is_none() { "yes" } else { "no" };
        tell(&format!("feature {} {state}", feature.name()));
    }
}

fn of(probed: &[Probed], feature: Feature) -> &Probed {
    let mut found = probed.iter().filter(|one| one.feature == feature);
    let one = found.next().expect("every feature is probed");
    assert!(found.next().is_none(), "{feature:?} is there once");
    one
}
