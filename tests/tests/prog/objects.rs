//! Programs, maps and links as objects: pinned, taken over, attached, replaced, removed.

use std::fs;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkOrder};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{SchedClassifier, TcAttachType};
use oxlan::datapath::{
    AttachMode, Attached, Datapath, DatapathError, Options, Program, remove_all,
};
use oxlan_common::maps::VtepValue;
use oxlan_tests::packet::addr;
use oxlan_tests::run::host;

use crate::world::{OwnWorld, POD_A, UPLINK, VTEP};

#[test]
fn a_successor_takes_the_maps_over() {
    let Some(world) = OwnWorld::new() else { return };
    assert!(!world.datapath.taken_over());
    let successor = Datapath::open(world.options()).unwrap();
    assert!(successor.taken_over());
    assert_eq!(
        sorted(successor.pods().entries().unwrap()),
        sorted(world.datapath.pods().entries().unwrap())
    );
    assert_eq!(successor.config().unwrap(), crate::world::config());
}

#[test]
fn other_capacities_make_new_maps_that_wait_for_the_commit() {
    let Some(world) = OwnWorld::new() else { return };
    let options = Options {
        max_routes: 7,
        ..world.options()
    };
    let larger = Datapath::open(options.clone()).unwrap();
    assert!(!larger.taken_over());
    assert!(larger.routes().entries().unwrap().is_empty());
    // Until then, an agent with the old capacities finds the old maps.
    assert!(Datapath::open(world.options()).unwrap().taken_over());
    let larger = Datapath::open(options.clone()).unwrap();
    larger.set_config(&crate::world::config()).unwrap();
    larger.commit().unwrap();
    assert!(Datapath::open(options).unwrap().taken_over());
}

#[test]
fn maps_of_another_abi_are_not_used() {
    let Some(world) = OwnWorld::new() else { return };
    let mut config = crate::world::config();
    config.abi += 1;
    world.datapath.set_config(&config).unwrap();
    assert!(!Datapath::open(world.options()).unwrap().taken_over());
}

#[test]
fn a_full_map_names_the_option() {
    let Some(world) = OwnWorld::new() else { return };
    let options = Options {
        max_vteps: 1,
        ..world.options()
    };
    let small = Datapath::open(options).unwrap();
    let vtep = VtepValue {
        other: addr("10.9.0.9"),
        mac: VTEP[2],
        flags: 0,
    };
    small.vteps().set(&addr("10.9.0.2"), &vtep).unwrap();
    small.vteps().set(&addr("10.9.0.2"), &vtep).unwrap();
    let error = small.vteps().set(&addr("10.9.0.3"), &vtep).unwrap_err();
    assert!(
        matches!(error, DatapathError::Full { capacity: 1, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("--max-nodes"), "{error}");
    small.vteps().remove(&addr("10.9.0.2")).unwrap();
    small.vteps().remove(&addr("10.9.0.2")).unwrap();
    small.vteps().set(&addr("10.9.0.3"), &vtep).unwrap();
    assert_eq!(small.vteps().get(&addr("10.9.0.2")).unwrap(), None);
}

#[test]
fn attaching_keeps_replaces_and_repairs() {
    let Some(world) = OwnWorld::with_tcx() else {
        return;
    };
    let attach = |datapath: &Datapath| datapath.attach(Program::FromUplink, "up0", UPLINK).unwrap();
    assert_eq!(attach(&world.datapath), Attached::New);
    assert_eq!(attach(&world.datapath), Attached::Kept);
    let successor = Datapath::open(world.options()).unwrap();
    assert_eq!(attach(&successor), Attached::Replaced);
    assert_eq!(attached_programs(), 1);
    assert_eq!(alive(&successor), [true]);
    // Somebody detaches it.
    let pin = world.options().bpf_dir.join("links/from_uplink-up0-103");
    host(&format!("bpftool link detach pinned {}", pin.display())).unwrap();
    assert_eq!(alive(&successor), [false]);
    assert_eq!(attach(&successor), Attached::New);
    // Somebody removes the pin: the program stays, and the pin comes back.
    fs::remove_file(&pin).unwrap();
    assert_eq!(attached_programs(), 1);
    assert_eq!(
        successor.repair_pins().unwrap(),
        [pin.display().to_string()]
    );
    assert_eq!(alive(&successor), [true]);
    for _ in 0..2 {
        successor
            .detach(Program::FromUplink, "up0", UPLINK)
            .unwrap();
    }
    wait_for_no_programs();
}

#[test]
fn pins_of_maps_come_back() {
    let Some(world) = OwnWorld::new() else { return };
    let pin = world.options().bpf_dir.join("maps/pods");
    fs::remove_file(&pin).unwrap();
    assert_eq!(
        world.datapath.repair_pins().unwrap(),
        [pin.display().to_string()]
    );
    assert!(Datapath::open(world.options()).unwrap().taken_over());
}

#[test]
fn an_unmounted_bpffs_detaches_no_link() {
    let Some(world) = OwnWorld::with_tcx() else {
        return;
    };
    unmount_bpffs(&world, AttachMode::Tcx, attached_programs);
    wait_for_no_programs();
}

#[test]
fn an_unmounted_bpffs_removes_no_filter() {
    let Some(world) = OwnWorld::new() else { return };
    unmount_bpffs(&world, AttachMode::Clsact, || filters("up0"));
}

/// What is attached to the uplink stays there, and is known again when the bpffs is back.
fn unmount_bpffs(world: &OwnWorld, mode: AttachMode, attached: impl Fn() -> usize) {
    let bpffs = Bpffs::new(mode);
    bpffs.mount();
    let options = Options {
        bpf_dir: bpffs.0.join("oxlan"),
        ..world.options()
    };
    let datapath = Datapath::open_with(options, mode).unwrap();
    datapath.commit().unwrap();
    let attach = || datapath.attach(Program::FromUplink, "up0", UPLINK);
    attach().unwrap();
    bpffs.unmount().unwrap();
    for _ in 0..2 {
        let refused = attach().unwrap_err();
        assert!(
            matches!(refused, DatapathError::NoBpffs { .. }),
            "{refused}"
        );
        datapath.repair_pins().unwrap_err();
        assert_eq!(attached(), 1);
    }
    bpffs.mount();
    let repaired = datapath.repair_pins().unwrap();
    // A filter has no pin of its own that could be put back before it is attached again.
    let (links, again) = match mode {
        AttachMode::Tcx => (1, Attached::Kept),
        AttachMode::Clsact => (0, Attached::Replaced),
    };
    let loaded = Program::ALL.into_iter().filter(|p| !p.is_optional());
    let pins = 7 + loaded.count() + links;
    assert_eq!(repaired.len(), pins, "{repaired:?}");
    assert_eq!(attach().unwrap(), again);
    assert_eq!(attached(), 1);
    assert_eq!(alive(&datapath), [true]);
}

/// A BPF file system of the test's own, which goes with it.
struct Bpffs(PathBuf);

impl Bpffs {
    fn new(mode: AttachMode) -> Self {
        let name = format!("oxlan-bpffs-{}-{mode:?}", std::process::id());
        let mount = std::env::temp_dir().join(name);
        fs::create_dir(&mount).unwrap();
        Self(mount)
    }

    fn mount(&self) {
        host(&format!("mount -t bpf bpf {}", self.0.display())).unwrap();
    }

    fn unmount(&self) -> anyhow::Result<()> {
        host(&format!("umount -l {}", self.0.display())).map(drop)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // A test that fails may have unmounted it already.
        let _ = self.unmount();
        // With what was made on the file system below while nothing was mounted on it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_device_that_is_gone() {
    let Some(world) = OwnWorld::with_tcx() else {
        return;
    };
    let attach = |name, index| world.datapath.attach(Program::FromPod, name, index);
    attach("pod-a", 101).unwrap();
    assert!(matches!(
        attach("pod-a", 102),
        Err(DatapathError::NoDevice { .. })
    ));
    host("ip link del pod-a").unwrap();
    assert_eq!(alive(&world.datapath), [false]);
    world
        .datapath
        .detach(Program::FromPod, "pod-a", 101)
        .unwrap();
    assert!(alive(&world.datapath).is_empty());
    host("ip link add pod-a index 105 type veth").unwrap();
    assert_eq!(attach("pod-a", 105).unwrap(), Attached::New);
}

#[test]
fn removing_everything_detaches() {
    let Some(world) = OwnWorld::with_tcx() else {
        return;
    };
    let options = world.options();
    let successor = Datapath::open(options.clone()).unwrap();
    for (program, name, index) in [
        (Program::FromUplink, "up0", UPLINK),
        (Program::FromPod, "pod-a", 101),
    ] {
        successor.attach(program, name, index).unwrap();
    }
    drop(successor);
    assert_eq!(attached_programs(), 1);
    assert_eq!(filters("pod-a"), 1);
    let removed = remove_all(&options.bpf_dir).unwrap();
    assert_eq!(removed.len(), 7 + 6 + 2, "{removed:?}");
    assert!(!options.bpf_dir.exists());
    assert!(remove_all(&options.bpf_dir).unwrap().is_empty());
    wait_for_no_programs();
    let left = host("tc qdisc show dev pod-a").unwrap();
    assert!(!left.contains("clsact"), "{left}");
}

#[test]
fn pods_have_filters_as_links_take_too_long_to_make() {
    let Some(world) = OwnWorld::with_tcx() else {
        return;
    };
    let attach = |datapath: &Datapath| datapath.attach(Program::FromPod, "pod-a", POD_A).unwrap();
    assert_eq!(attach(&world.datapath), Attached::New);
    assert_eq!(attach(&world.datapath), Attached::Kept);
    assert_eq!((attached_programs(), filters("pod-a")), (0, 1));
    let successor = Datapath::open(world.options()).unwrap();
    assert_eq!(alive(&successor), [true]);
    assert_eq!(attach(&successor), Attached::Replaced);
    assert_eq!((attached_programs(), filters("pod-a")), (0, 1));
    // Somebody removes the filter.
    host("tc filter delete dev pod-a ingress").unwrap();
    assert_eq!(alive(&successor), [false]);
    assert_eq!(attach(&successor), Attached::New);
    successor.detach(Program::FromPod, "pod-a", POD_A).unwrap();
    assert_eq!((attached_programs(), filters("pod-a")), (0, 0));
    assert!(alive(&successor).is_empty());
}

#[test]
fn a_link_on_a_pods_device_stays_a_link() {
    let Some(world) = OwnWorld::with_tcx() else {
        return;
    };
    let pin = world
        .options()
        .bpf_dir
        .join(format!("links/from_pod-pod-a-{POD_A}"));
    link_by_hand(&world, &pin);
    let successor = Datapath::open(world.options()).unwrap();
    let attach = || successor.attach(Program::FromPod, "pod-a", POD_A).unwrap();
    assert_eq!(alive(&successor), [true]);
    assert_eq!(attach(), Attached::Replaced);
    assert_eq!((attached_programs(), filters("pod-a")), (1, 0));
    assert_eq!(attach(), Attached::Kept);
    // When it is lost, a filter takes its place, and the link does not come back.
    host(&format!("bpftool link detach pinned {}", pin.display())).unwrap();
    assert_eq!(alive(&successor), [false]);
    assert_eq!(attach(), Attached::New);
    assert_eq!((attached_programs(), filters("pod-a")), (0, 1));
    assert_eq!(successor.repair_pins().unwrap(), Vec::<String>::new());
    assert_eq!(alive(&successor), [true]);
    successor.detach(Program::FromPod, "pod-a", POD_A).unwrap();
    assert_eq!((attached_programs(), filters("pod-a")), (0, 0));
}

/// A pinned TCX link of `from_pod` on pod A's device.
fn link_by_hand(world: &OwnWorld, pin: &Path) {
    let program = world.options().bpf_dir.join("progs/from_pod");
    let mut program = SchedClassifier::from_pin(program).unwrap();
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program
        .attach_with_options("pod-a", TcAttachType::Ingress, options)
        .unwrap();
    let link: FdLink = program.take_link(id).unwrap().try_into().unwrap();
    link.pin(pin).unwrap();
}

#[test]
fn filters_of_older_kernels() {
    let Some(world) = OwnWorld::new() else { return };
    let options = world.options();
    let open = || Datapath::open_with(options.clone(), AttachMode::Clsact).unwrap();
    let attach = |datapath: &Datapath| datapath.attach(Program::FromUplink, "up0", UPLINK).unwrap();
    assert_eq!(attach(&open()), Attached::New);
    assert_eq!(attach(&open()), Attached::Replaced);
    let filters = host("tc filter show dev up0 ingress").unwrap();
    assert_eq!(filters.matches("direct-action").count(), 1, "{filters}");
    let datapath = open();
    assert_eq!(alive(&datapath), [true]);
    assert_eq!(attach(&datapath), Attached::Replaced);
    assert_eq!(attach(&datapath), Attached::Kept);
    host("tc filter delete dev up0 ingress").unwrap();
    assert_eq!(alive(&datapath), [false]);
    assert_eq!(attach(&datapath), Attached::New);
    datapath.detach(Program::FromUplink, "up0", UPLINK).unwrap();
    assert_eq!(host("tc filter show dev up0 ingress").unwrap().trim(), "");
    attach(&datapath);
    // A filter of which no pin tells is somebody else's: it stays, and the discipline with it.
    datapath.attach(Program::ToOverlay, "up0", UPLINK).unwrap();
    let pins = options.bpf_dir.join("links");
    fs::remove_file(pins.join(format!("to_overlay-up0-{UPLINK}"))).unwrap();
    remove_all(&options.bpf_dir).unwrap();
    let foreign = host("tc filter show dev up0 egress").unwrap();
    assert!(foreign.contains("direct-action"), "{foreign}");
    assert_eq!(host("tc filter show dev up0 ingress").unwrap().trim(), "");
    host("tc filter delete dev up0 egress").unwrap();
    attach(&open());
    remove_all(&options.bpf_dir).unwrap();
    let left = host("tc qdisc show dev up0").unwrap();
    assert!(!left.contains("clsact"), "{left}");
}

fn alive(datapath: &Datapath) -> Vec<bool> {
    let attachments = datapath.attachments().unwrap();
    attachments.iter().map(|one| one.alive).collect()
}

/// Filters on the ingress of a device.
fn filters(device: &str) -> usize {
    let filters = host(&format!("tc filter show dev {device} ingress")).unwrap();
    filters.matches("direct-action").count()
}

/// Links on the ingress of the devices of this namespace, as the kernel says.
fn attached_programs() -> usize {
    let on = |device| {
        SchedClassifier::query_tcx(device, TcAttachType::Ingress)
            .unwrap()
            .1
            .len()
    };
    on("up0") + on("pod-a")
}

/// The kernel lets a removed pin go a little later.
fn wait_for_no_programs() {
    let limit = std::time::Duration::from_secs(2);
    oxlan_tests::wait::until_true(
        limit,
        "nothing is attached",
        || Ok(attached_programs() == 0),
    )
    .unwrap();
}

fn sorted<T: Ord + Copy, V: Copy>(mut entries: Vec<(T, V)>) -> Vec<(T, V)> {
    entries.sort_by_key(|(key, _)| *key);
    entries
}
