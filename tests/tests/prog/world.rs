//! A node as the programs see it: devices in a namespace of the test's own, and filled maps.
//!
//! Pod A (10.244.1.2, fd00:1::2) and pod B (.3, ::3) are here, 10.244.2.0/24 and fd00:2::/64 are on
//! another node, 10.244.3.0/24 is on a node that cannot be reached, and 10.244.4.0/24 and fd00:4::/64
//! are behind an IPv6 underlay.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::sched::{CloneFlags, unshare};
use oxlan::datapath::{AttachMode, Options, Program, remove_all};
use oxlan_common::addr::{Addr, Mac};
use oxlan_common::maps::{
    Config, MAP_ABI, PodValue, RouteKey, RouteValue, UNKNOWN_NETNS, VtepValue, XdpUplink,
    pod_flags, route_flags,
};
use oxlan_common::wire::{DEFAULT_PORT, DEFAULT_VNI, GATEWAY_MAC};
use oxlan_tests::packet::addr;
use oxlan_tests::run::host;
use oxlan_tests::skip::skip;

use crate::programs::{Programs, program_pin};

pub(crate) const POD_A: u32 = 101;
pub(crate) const POD_B: u32 = 102;
pub(crate) const UPLINK: u32 = 103;
pub(crate) const OVERLAY: u32 = 104;
/// Where a frame comes in by if a test run names no device.
const LOOPBACK: u32 = 1;

pub(crate) const GATEWAY: Mac = Mac::new(GATEWAY_MAC);
pub(crate) const MAC_A: Mac = Mac::new([0x0a, 0x58, 10, 244, 1, 2]);
pub(crate) const MAC_B: Mac = Mac::new([0x0a, 0x58, 10, 244, 1, 3]);
pub(crate) const UPLINK_MAC: Mac = Mac::new([2, 0, 0, 0, 0, 1]);
pub(crate) const OTHER_MAC: Mac = Mac::new([2, 0, 0, 0, 0, 2]);
/// Own VTEP, and those of the other nodes.
pub(crate) const VTEP: [Mac; 4] = [
    Mac::ZERO,
    Mac::new([0x0e, 0, 10, 9, 0, 1]),
    Mac::new([0x0e, 0, 10, 9, 0, 2]),
    Mac::new([0x0e, 0, 10, 9, 0, 3]),
];

/// The MTU of the pods.
pub(crate) const MTU: u16 = 1450;

/// Loaded programs that no test uses at the moment.
static SPARE: Mutex<Vec<Programs>> = Mutex::new(Vec::new());

/// A node with programs that are pinned nowhere.
pub(crate) struct World {
    /// There until the end.
    programs: Option<Programs>,
}

/// A node whose programs are its own, and pinned.
pub(crate) struct OwnWorld {
    programs: Programs,
    bpf_dir: PathBuf,
}

impl World {
    /// A node with filled maps; `None`, with the reason printed, where that is not allowed.
    pub(crate) fn new() -> Option<Self> {
        let world = Self::empty()?;
        world.fill();
        Some(world)
    }

    /// A node with empty maps.
    pub(crate) fn empty() -> Option<Self> {
        enter_namespace()?;
        let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let programs = if let Some(programs) = spare {
            programs.empty();
            programs
        } else {
            let options = options(own_bpf_dir());
            let programs = Programs::load(options.clone());
            remove_all(&options.bpf_dir).expect("pins can be removed");
            programs
        };
        Some(Self {
            programs: Some(programs),
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A test that fails may have left anything.
        if !std::thread::panicking() {
            let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
            spare.extend(self.programs.take());
        }
    }
}

impl Deref for World {
    type Target = Programs;

    fn deref(&self) -> &Programs {
        self.programs.as_ref().expect("it is there until the end")
    }
}

impl OwnWorld {
    /// A node with filled maps; `None`, with the reason printed, where that is not allowed.
    pub(crate) fn new() -> Option<Self> {
        let world = Self::empty()?;
        world.fill();
        Some(world)
    }

    /// The same where links can be pinned.
    pub(crate) fn with_tcx() -> Option<Self> {
        if AttachMode::of_this_kernel() == AttachMode::Tcx {
            return Self::new();
        }
        skip("TCX links need Linux 6.6 (commit e420bed02507)");
        None
    }

    /// A node with empty maps.
    pub(crate) fn empty() -> Option<Self> {
        enter_namespace()?;
        let options = options(own_bpf_dir());
        Some(Self {
            programs: Programs::load(options.clone()),
            bpf_dir: options.bpf_dir,
        })
    }

    pub(crate) fn options(&self) -> Options {
        options(self.bpf_dir.clone())
    }

    pub(crate) fn program_pin(&self, program: Program) -> PathBuf {
        program_pin(&self.bpf_dir, program)
    }
}

impl Deref for OwnWorld {
    type Target = Programs;

    fn deref(&self) -> &Programs {
        &self.programs
    }
}

impl Drop for OwnWorld {
    fn drop(&mut self) {
        remove_all(&self.bpf_dir).expect("pins can be removed");
    }
}

/// Moves to a new namespace with the devices of a node; the test's thread alone does so, and it ends with the test.
fn enter_namespace() -> Option<()> {
    if !nix::unistd::geteuid().is_root() {
        skip("loading BPF programs needs root");
        return None;
    }
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    for (index, name, mac) in [
        (POD_A, "pod-a", GATEWAY),
        (POD_B, "pod-b", GATEWAY),
        (UPLINK, "up0", UPLINK_MAC),
        (OVERLAY, "oxlan0", VTEP[1]),
    ] {
        host(&format!(
            "ip link add {name} index {index} address {mac} type veth peer name p-{name}"
        ))
        .expect("a device");
    }
    Some(())
}

impl Programs {
    fn fill(&self) {
        let frames = pod_flags::FRAMES;
        let pods = [("10.244.1.2", "fd00:1::2", POD_A, MAC_A, frames)]
            .into_iter()
            .chain([("10.244.1.3", "fd00:1::3", POD_B, MAC_B, 0)])
            .chain([("10.244.1.0", "fd00:1::", OVERLAY, VTEP[1], pod_flags::HOST)]);
        for (v4, v6, ifindex, mac, flags) in pods {
            let pod = PodValue {
                ifindex,
                flags,
                mac,
                host_mac: GATEWAY,
                netns: UNKNOWN_NETNS,
            };
            for ip in [v4, v6] {
                self.datapath.pods().set(&addr(ip), &pod).expect(ip);
            }
        }
        self.route("10.244.1.0", 24, "fd00:1::", 1, route_flags::LOCAL);
        self.route("10.244.2.0", 24, "fd00:2::", 2, 0);
        let over_v6 = addr("fd00:9::3");
        self.route_over(over_v6, "10.244.4.0", 24, "fd00:4::", 3, 0);
        self.route("10.244.3.0", 24, "fd00:3::", 3, route_flags::UNREACHABLE);
        // Within the prefix above, to see that the longer one wins.
        self.route("10.244.2.128", 28, "fd00:2:0:0:ff::", 3, 0);
        for node in [2, 3] {
            let [v4, v6] = [format!("10.9.0.{node}"), format!("fd00:9::{node}")].map(|a| addr(&a));
            let vtep = |other| VtepValue {
                mac: VTEP[node],
                flags: 0,
                other,
            };
            self.datapath.vteps().set(&v6, &vtep(v4)).expect("a VTEP");
            let (key, vtep) = (v4, vtep(v6));
            self.datapath.vteps().set(&key, &vtep).expect("a VTEP");
        }
        self.datapath
            .set_config(&config())
            .expect("a configuration");
    }

    fn route(&self, v4: &str, v4_len: u32, v6: &str, node: usize, flags: u16) {
        let underlay = addr(&format!("10.9.0.{node}"));
        self.route_over(underlay, v4, v4_len, v6, node, flags);
    }

    fn route_over(&self, underlay: Addr, v4: &str, v4_len: u32, v6: &str, node: usize, flags: u16) {
        let value = RouteValue {
            underlay,
            next_hop: underlay,
            ifindex: UPLINK,
            vni: DEFAULT_VNI,
            mac: VTEP[node],
            flags,
            mtu: MTU,
            pad: [0; 2],
            hops: 0,
        };
        let v6_len = if v4_len == 24 { 64 } else { 80 };
        for (prefix, prefix_len) in [(v4, 96 + v4_len), (v6, v6_len)] {
            let key = RouteKey {
                prefix: addr(prefix),
                prefix_len,
            };
            self.datapath.routes().set(&key, &value).expect(prefix);
        }
    }
}

pub(crate) fn config() -> Config {
    Config {
        abi: MAP_ABI,
        vni: DEFAULT_VNI,
        port: DEFAULT_PORT,
        mtu: MTU,
        uplink: UPLINK,
        overlay: OVERLAY,
        underlay_v4: addr("10.9.0.1"),
        underlay_v6: addr("fd00:9::1"),
        overlay_v4: addr("10.244.1.0"),
        overlay_v6: addr("fd00:1::"),
        vtep_mac: VTEP[1],
        dscp: 0,
        flags: 0,
        prefix_lens_v4: [96 + 28, 96 + 24, 0, 0, 0, 0, 0, 0],
        prefix_lens_v6: [80, 64, 0, 0, 0, 0, 0, 0],
        xdp_uplinks: [LOOPBACK, UPLINK, 0, 0].map(|ifindex| XdpUplink {
            ifindex,
            mac: UPLINK_MAC,
            pad: [0; 2],
        }),
    }
}

fn options(bpf_dir: PathBuf) -> Options {
    Options {
        bpf_dir,
        ..Options::default()
    }
}

fn own_bpf_dir() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!(
        "/sys/fs/bpf/oxlan-prog-{}-{count}",
        std::process::id()
    ))
}
