//! A node as the programs see it: devices, and maps filled for many pods and nodes.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::programs::SchedClassifier;
use bytemuck::Zeroable as _;
use oxlan::datapath::{Datapath, Options, Program, remove_all};
use oxlan_common::addr::{Addr, Mac};
use oxlan_common::counters::Verdict;
use oxlan_common::maps::{
    Config, MAP_ABI, PodValue, RouteKey, RouteValue, UNKNOWN_NETNS, VtepValue, pod_flags,
    route_flags,
};
use oxlan_common::wire::{DEFAULT_PORT, DEFAULT_VNI, GATEWAY_MAC};

use super::Size;
use crate::run::host;

/// Interface index of the loopback of every namespace.
const LOOPBACK: u32 = 1;
/// Interface indices: the pods' device, which stands for that of every pod, the uplink, the overlay device.
pub(super) const POD: u32 = 101;
pub(super) const UPLINK: u32 = 102;
pub(super) const OVERLAY: u32 = 103;

pub(super) const GATEWAY: Mac = Mac::new(GATEWAY_MAC);
pub(super) const POD_MAC: Mac = Mac::new([0x0a, 0x58, 10, 128, 0, 0]);
pub(super) const UPLINK_MAC: Mac = Mac::new([2, 0, 0, 0, 0, 1]);
/// VTEP of this node, and that of every other.
pub(super) const OWN_VTEP: Mac = Mac::new([0x0e, 0, 0, 0, 0, 1]);
pub(super) const OTHER_VTEP: Mac = Mac::new([0x0e, 0, 0, 0, 0, 2]);

/// MTU of the pods, bytes.
const MTU: u16 = 1450;

/// Underlay address of this node.
pub(super) const OWN_UNDERLAY: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);

/// Address of a pod of this node, from 0 on, in the family that is asked for.
pub(super) fn pod(number: u32, v6: bool) -> Addr {
    if v6 {
        let [.., a, b, c, d] = number.to_be_bytes().map(u16::from);
        Ipv6Addr::new(0xfd00, 0x8000, 0, 0, 0, 1, a << 8 | b, c << 8 | d).into()
    } else {
        Ipv4Addr::from(0x0a80_0000 + number).into()
    }
}

/// Address of a pod of another node, from 1 on.
pub(super) fn remote_pod(node: u32, v6: bool) -> Addr {
    let prefix = remote_prefix(node, v6).prefix;
    let mut bytes = prefix.bytes;
    bytes[15] |= 9;
    Addr { bytes }
}

/// Underlay address of another node.
pub(super) fn underlay(node: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xac10_0000 + node)
}

fn remote_prefix(node: u32, v6: bool) -> RouteKey {
    if v6 {
        let [a, b, c, d] = node.to_be_bytes().map(u16::from);
        let prefix = Ipv6Addr::new(0xfd00, 0, a << 8 | b, c << 8 | d, 0, 0, 0, 0);
        RouteKey {
            prefix: prefix.into(),
            prefix_len: 64,
        }
    } else {
        RouteKey {
            prefix: Ipv4Addr::from(0x0a00_0000 + (node << 8)).into(),
            prefix_len: 96 + 24,
        }
    }
}

/// Makes the devices, in the namespace of the caller.
pub(super) fn add_devices() -> Result<()> {
    for (index, name, mac) in [
        (POD, "pod0", GATEWAY),
        (UPLINK, "eth0", UPLINK_MAC),
        (OVERLAY, "oxlan0", OWN_VTEP),
    ] {
        host(&format!(
            "ip link add {name} index {index} address {mac} type veth peer name p-{name}"
        ))?;
    }
    Ok(())
}

/// The programs and their maps; dropping it unpins them.
pub(super) struct TestNode {
    datapath: Datapath,
    bpf_dir: PathBuf,
}

impl TestNode {
    /// Loads the programs and fills the maps.
    pub(super) fn start(bpf_dir: &Path, size: Size) -> Result<Self> {
        let options = Options {
            bpf_dir: bpf_dir.to_owned(),
            max_pod_addresses: 2 * size.pods + 2,
            ..Options::default()
        };
        let node = Self {
            datapath: Datapath::open(options)?,
            bpf_dir: bpf_dir.to_owned(),
        };
        node.datapath.commit()?;
        for v6 in [false, true] {
            node.fill(size, v6)?;
        }
        node.datapath.set_config(&config())?;
        Ok(node)
    }

    pub(super) fn program(&self, program: Program) -> Result<SchedClassifier> {
        SchedClassifier::from_pin(self.pin(program)).context("the program is not pinned")
    }

    /// Where a program is pinned.
    pub(super) fn pin(&self, program: Program) -> PathBuf {
        self.bpf_dir.join("progs").join(program.name())
    }

    /// Packets with this verdict so far.
    pub(super) fn counted(&self, verdict: Verdict) -> Result<u64> {
        let counters = self.datapath.counters()?;
        let counter = counters.iter().find(|(slot, _)| *slot == verdict.slot());
        Ok(counter.context("a counter")?.1.packets)
    }

    fn fill(&self, size: Size, v6: bool) -> Result<()> {
        let mut value = PodValue::zeroed();
        value.ifindex = POD;
        value.flags = pod_flags::FRAMES;
        value.netns = UNKNOWN_NETNS;
        value.mac = POD_MAC;
        value.host_mac = GATEWAY;
        for number in 0..size.pods {
            self.datapath.pods().set(&pod(number, v6), &value)?;
        }
        self.datapath.routes().set(&own_prefix(v6), &own_route())?;
        for number in 1..size.nodes {
            let underlay = underlay(number).into();
            let key = remote_prefix(number, v6);
            self.datapath.routes().set(&key, &remote_route(underlay))?;
            let mut vtep = VtepValue::zeroed();
            vtep.mac = OTHER_VTEP;
            vtep.other = underlay;
            self.datapath.vteps().set(&underlay, &vtep)?;
        }
        Ok(())
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Err(error) = remove_all(&self.bpf_dir) {
            eprintln!("clean-up: {error}");
        }
    }
}

fn own_prefix(v6: bool) -> RouteKey {
    RouteKey {
        prefix: pod(0, v6).masked(if v6 { 64 } else { 96 + 9 }),
        prefix_len: if v6 { 64 } else { 96 + 9 },
    }
}

fn own_route() -> RouteValue {
    let mut route = RouteValue::zeroed();
    route.flags = route_flags::LOCAL;
    route.vni = DEFAULT_VNI;
    route.mtu = MTU;
    route
}

fn remote_route(underlay: Addr) -> RouteValue {
    let mut route = RouteValue::zeroed();
    route.underlay = underlay;
    route.next_hop = underlay;
    route.ifindex = UPLINK;
    route.vni = DEFAULT_VNI;
    route.mac = OTHER_VTEP;
    route.mtu = MTU;
    route
}

fn config() -> Config {
    let mut config = Config::zeroed();
    config.abi = MAP_ABI;
    config.vni = DEFAULT_VNI;
    config.port = DEFAULT_PORT;
    config.mtu = MTU;
    config.uplink = UPLINK;
    config.overlay = OVERLAY;
    config.underlay_v4 = OWN_UNDERLAY.into();
    config.underlay_v6 = Addr::UNSPECIFIED;
    config.vtep_mac = OWN_VTEP;
    // A test run that names no device runs on the loopback.
    for (slot, ifindex) in config.xdp_uplinks.iter_mut().zip([LOOPBACK, UPLINK]) {
        slot.ifindex = ifindex;
        slot.mac = UPLINK_MAC;
    }
    config.prefix_lens_v4[..2].copy_from_slice(&[96 + 24, 96 + 9]);
    config.prefix_lens_v6[0] = 64;
    config
}
