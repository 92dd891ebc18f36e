//! The link of the XDP program: attached, replaced, repaired, refused, removed.

use std::fs;

use aya::programs::ProgramInfo;
use oxlan::datapath::{
    AttachMode, Attached, Datapath, DatapathError, Options, Program, attached_xdp, remove_all,
};
use oxlan_tests::run::host;

use crate::world::{OwnWorld, UPLINK};

const PROGRAM: Program = Program::XdpUplink;

fn attach(datapath: &Datapath) -> Result<Attached, DatapathError> {
    datapath.attach(PROGRAM, "up0", UPLINK)
}

fn alive(datapath: &Datapath) -> Vec<bool> {
    let attachments = datapath.attachments().unwrap();
    attachments.iter().map(|one| one.alive).collect()
}

/// As filters of `clsact` are, so that it holds on kernels without TCX, too.
#[test]
fn it_outlives_the_agent_and_is_replaced() {
    let Some(world) = OwnWorld::new() else { return };
    let open = || Datapath::open_with(world.options(), AttachMode::Clsact).unwrap();
    let first = open();
    assert_eq!(attach(&first).unwrap(), Attached::New);
    assert_eq!(attach(&first).unwrap(), Attached::Kept);
    let before = attached_xdp(UPLINK);
    drop(first);
    assert!(before.is_some() && attached_xdp(UPLINK) == before);
    let successor = open();
    assert_eq!(attach(&successor).unwrap(), Attached::Replaced);
    let after = attached_xdp(UPLINK);
    assert!(after.is_some() && after != before);
    assert_eq!(alive(&successor), [true]);
    let device = host("ip -details link show up0").unwrap();
    assert!(
        device.contains(" xdp ") && !device.contains("xdpgeneric"),
        "{device}"
    );

    let pin = world.options().bpf_dir.join("links/xdp_uplink-up0-103");
    host(&format!("bpftool link detach pinned {}", pin.display())).unwrap();
    assert_eq!(
        (alive(&successor), attached_xdp(UPLINK)),
        (vec![false], None)
    );
    assert_eq!(attach(&successor).unwrap(), Attached::New);
    fs::remove_file(&pin).unwrap();
    assert!(attached_xdp(UPLINK).is_some(), "the agent holds the link");
    let repaired = successor.repair_pins().unwrap();
    assert_eq!(repaired, [pin.display().to_string()]);
    successor.detach(PROGRAM, "up0", UPLINK).unwrap();
    successor.detach(PROGRAM, "up0", UPLINK).unwrap();
    wait_until_free();

    attach(&successor).unwrap();
    drop(successor);
    remove_all(&world.options().bpf_dir).unwrap();
    wait_until_free();
}

/// Who does not use it need not wait for the verifier, and has no pin of a predecessor's.
#[test]
fn it_is_loaded_where_it_is_attached() {
    let Some(world) = OwnWorld::new() else { return };
    let pin = world.program_pin(PROGRAM);
    assert!(pin.exists(), "the world has loaded it");
    let successor = Datapath::open(world.options()).unwrap();
    successor.commit().unwrap();
    assert!(!pin.exists() && successor.repair_pins().unwrap().is_empty());
    assert_eq!(attach(&successor).unwrap(), Attached::New);
    assert!(pin.exists());
    fs::remove_file(&pin).unwrap();
    let repaired = successor.repair_pins().unwrap();
    assert_eq!(repaired, [pin.display().to_string()]);
    successor.detach(PROGRAM, "up0", UPLINK).unwrap();
}

/// Nothing of the predecessor's is touched until the successor's own program, on other maps, takes its place.
#[test]
fn it_is_replaced_by_one_with_other_maps() {
    let Some(world) = OwnWorld::new() else { return };
    attach(&world.datapath).unwrap();
    let pinned = || {
        ProgramInfo::from_pin(world.program_pin(PROGRAM))
            .unwrap()
            .id()
    };
    let before = pinned();
    let options = Options {
        max_routes: 7,
        ..world.options()
    };
    let successor = Datapath::open(options).unwrap();
    assert!(!successor.taken_over());
    successor.load(PROGRAM).unwrap();
    assert_eq!((attached_xdp(UPLINK), pinned()), (Some(before), before));
    assert_eq!(attach(&successor).unwrap(), Attached::Replaced);
    successor.commit().unwrap();
    assert_ne!(pinned(), before);
    assert_eq!(attached_xdp(UPLINK), Some(pinned()));
    successor.detach(PROGRAM, "up0", UPLINK).unwrap();
}

#[test]
fn a_device_that_somebody_else_has_is_left_alone() {
    let Some(world) = OwnWorld::new() else { return };
    let pin = world.program_pin(PROGRAM);
    for mode in ["xdp", "xdpgeneric"] {
        host(&format!(
            "ip link set dev up0 {mode} pinned {}",
            pin.display()
        ))
        .unwrap();
        let foreign = attached_xdp(UPLINK);
        let refused = attach(&world.datapath).unwrap_err();
        assert!(matches!(refused, DatapathError::XdpTaken), "{refused}");
        assert!(foreign.is_some() && attached_xdp(UPLINK) == foreign);
        host(&format!("ip link set dev up0 {mode} off")).unwrap();
    }
    assert_eq!(attach(&world.datapath).unwrap(), Attached::New);
}

#[test]
fn a_driver_without_native_xdp_is_named_as_the_reason() {
    let Some(world) = OwnWorld::new() else { return };
    host("ip link add br0 index 110 type bridge").unwrap();
    let refused = world.datapath.attach(PROGRAM, "br0", 110).unwrap_err();
    assert!(
        matches!(refused, DatapathError::XdpUnsupported),
        "{refused}"
    );
    assert_eq!(attached_xdp(110), None);
    assert!(alive(&world.datapath).is_empty());
}

/// The kernel lets a removed pin go a little later.
fn wait_until_free() {
    let limit = oxlan_tests::wait::SOON;
    let free = || Ok(attached_xdp(UPLINK).is_none());
    oxlan_tests::wait::until_true(limit, "no XDP program on the device", free).unwrap();
}
