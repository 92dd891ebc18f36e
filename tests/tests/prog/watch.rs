//! Changes of BPF objects by other processes are noticed, own ones are not.

use std::time::Duration;

use oxlan::datapath::{ChangeWatcher, DatapathError};
use oxlan_common::maps::VtepValue;
use oxlan_tests::packet::addr;
use oxlan_tests::run::host;
use oxlan_tests::skip::skip;
use tokio::time::timeout;

use crate::world::{OwnWorld, VTEP};

/// `BPF_MAP_UPDATE_ELEM` and `BPF_MAP_DELETE_ELEM` (include/uapi/linux/bpf.h).
const UPDATE: u32 = 2;
const DELETE: u32 = 3;

#[tokio::test]
async fn changes_by_others() {
    let Some(world) = OwnWorld::new() else { return };
    let mut watcher = match world.datapath.watch_changes() {
        Ok(watcher) => watcher,
        Err(error @ DatapathError::WatchUnsupported { .. }) => return skip(&error.to_string()),
        Err(error) => panic!("{error}"),
    };
    let again = world.datapath.watch_changes();
    assert!(matches!(again, Err(DatapathError::AlreadyWatched)));
    quiet(&mut watcher).await;

    let vtep = VtepValue {
        other: addr("10.9.0.9"),
        mac: VTEP[2],
        flags: 0,
    };
    world
        .datapath
        .vteps()
        .set(&addr("10.9.0.9"), &vtep)
        .unwrap();
    let pin = world.options().bpf_dir.join("maps/vteps");
    let pin = pin.display();
    assert!(!changed(&mut watcher, UPDATE).await, "own changes count");

    let key = "0 0 0 0 0 0 0 0 0 0 255 255 10 9 0 9";
    host(&format!("bpftool map delete pinned {pin} key {key}")).unwrap();
    assert!(changed(&mut watcher, DELETE).await, "a deleted entry");
    host(&format!("bpftool map delete pinned {pin} key {key}")).unwrap_err();
    assert!(!changed(&mut watcher, DELETE).await, "a failed call");
}

/// Other tests of this machine change things, too: reads away what they did so far.
async fn quiet(watcher: &mut ChangeWatcher) {
    while timeout(Duration::from_millis(100), watcher.changed())
        .await
        .is_ok()
    {}
}

/// Whether a change with this command is reported soon.
async fn changed(watcher: &mut ChangeWatcher, command: u32) -> bool {
    let found = async { while watcher.changed().await.unwrap().command != command {} };
    timeout(Duration::from_millis(500), found).await.is_ok()
}
