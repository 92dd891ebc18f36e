//! A node as the programs see it: devices, and maps filled for many pods and nodes.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aya::maps::{Map, MapData, MapInfo, PerCpuArray, PerCpuValues};
use aya::programs::{SchedClassifier, Xdp};
use aya::util::nr_cpus;
use aya_obj::programs::XdpAttachType;
use bytemuck::Zeroable as _;
use oxlan::datapath::{Datapath, Options, Program, remove_all};
use oxlan_common::addr::{Addr, Mac};
use oxlan_common::limit::ANSWER_BUCKETS;
use oxlan_common::maps::{
    Config, FlowKey, FlowValue, HOP_BUCKETS, Hop, HopsValue, MAP_ABI, PodValue, RouteKey,
    RouteValue, UNKNOWN_NETNS, VtepValue, config_flags, pod_flags, route_flags,
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
pub(super) const MTU: u16 = 1450;

/// Underlay addresses of this node.
pub(super) const OWN_UNDERLAY: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
pub(super) const OWN_UNDERLAY_V6: Ipv6Addr = Ipv6Addr::new(0xfdff, 0, 0, 0, 0, 0, 0xffff, 1);

/// This node's own overlay addresses.
pub(super) const OWN_OVERLAY: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 0);
const OWN_OVERLAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x8000, 0, 0, 0, 2, 0, 0);

/// Number of the set of next hops that all nodes are behind.
const HOP_SET: u32 = 1;

/// How other nodes are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By VXLAN over IPv4.
    Vxlan,
    /// By VXLAN over IPv6.
    VxlanV6,
    /// The same as the first over two equal next hops.
    EqualHops,
    /// Without encapsulation.
    Direct,
}

impl Way {
    pub(super) const ALL: [Self; 4] = [Self::Vxlan, Self::VxlanV6, Self::EqualHops, Self::Direct];

    /// Underlay address of another node.
    pub(super) fn underlay(self, node: u32) -> Addr {
        if self == Self::VxlanV6 {
            let [a, b, c, d] = node.to_be_bytes().map(u16::from);
            Ipv6Addr::new(0xfdff, 0, 0, 0, 0, 0, a << 8 | b, c << 8 | d).into()
        } else {
            Ipv4Addr::from(0xac10_0000 + node).into()
        }
    }
}

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
    size: Size,
}

impl TestNode {
    /// Loads the programs and fills the maps.
    pub(super) fn start(bpf_dir: &Path, size: Size) -> Result<Self> {
        let options = Options {
            bpf_dir: bpf_dir.to_owned(),
            // In both families: the pods, one more with translated flows, and the node itself.
            max_pod_addresses: 2 * (size.pods + 2),
            ..Options::default()
        };
        let node = Self {
            datapath: Datapath::open(options)?,
            bpf_dir: bpf_dir.to_owned(),
            size,
        };
        node.datapath.commit()?;
        node.datapath.hops().set(&HOP_SET, &hops())?;
        for v6 in [false, true] {
            node.add_pods(v6)?;
        }
        node.reach_others(Way::Vxlan)?;
        Ok(node)
    }

    /// Changes how all other nodes are reached.
    pub(super) fn reach_others(&self, way: Way) -> Result<()> {
        for number in 1..self.size.nodes {
            let underlay = way.underlay(number);
            for v6 in [false, true] {
                let key = remote_prefix(number, v6);
                self.datapath.routes().set(&key, &route(way, underlay))?;
            }
            for former in Way::ALL.map(|former| former.underlay(number)) {
                if former != underlay {
                    self.datapath.vteps().remove(&former)?;
                }
            }
            let mut vtep = VtepValue::zeroed();
            vtep.mac = OTHER_VTEP;
            vtep.other = underlay;
            self.datapath.vteps().set(&underlay, &vtep)?;
        }
        Ok(self.datapath.set_config(&config(way))?)
    }

    /// Attaches a program to a device of the calling thread's namespace.
    pub(super) fn attach(&self, program: Program, device: &str, ifindex: u32) -> Result<()> {
        self.datapath.attach(program, device, ifindex)?;
        Ok(())
    }

    pub(super) fn program(&self, program: Program) -> Result<SchedClassifier> {
        SchedClassifier::from_pin(self.pin(program)).context("the program is not pinned")
    }

    pub(super) fn xdp(&self) -> Result<Xdp> {
        self.datapath.load(Program::XdpUplink)?;
        let pin = self.pin(Program::XdpUplink);
        Xdp::from_pin(pin, XdpAttachType::Interface).context("the program is not pinned")
    }

    /// Where a program is pinned.
    fn pin(&self, program: Program) -> PathBuf {
        self.bpf_dir.join("progs").join(program.name())
    }

    /// Packets that are counted in this slot so far; without one, in any.
    pub(super) fn counted(&self, slot: Option<u32>) -> Result<u64> {
        let counters = self.datapath.counters()?;
        let counters = counters
            .iter()
            .filter(|(s, _)| slot.is_none_or(|slot| slot == *s));
        Ok(counters.map(|(_, counter)| counter.packets).sum())
    }

    /// Notes that the host translates these flows.
    pub(super) fn translate(&self, flows: &[FlowKey]) -> Result<()> {
        let value = FlowValue { ifindex: POD };
        let mut flows = flows.iter();
        Ok(flows.try_for_each(|flow| self.datapath.flows().set(flow, &value))?)
    }

    /// The programs' notes of when pods may get answers again: a map that only they use, so it is not pinned.
    pub(super) fn answers(&self) -> Result<Answers> {
        let info = self.program(Program::FromPod)?.info()?;
        for id in info.map_ids()?.context("the kernel does not say")? {
            let map = MapInfo::from_id(id)?;
            if map.name_as_str() == Some("ANSWERS") {
                let map = Map::from_map_data(MapData::from_id(id)?)?;
                return Ok(Answers(map.try_into()?));
            }
        }
        bail!("from_pod has no map ANSWERS")
    }

    fn add_pods(&self, v6: bool) -> Result<()> {
        let mut value = PodValue::zeroed();
        value.ifindex = POD;
        value.flags = pod_flags::FRAMES;
        value.netns = UNKNOWN_NETNS;
        value.mac = POD_MAC;
        value.host_mac = GATEWAY;
        for number in 0..self.size.pods {
            self.datapath.pods().set(&pod(number, v6), &value)?;
        }
        value.flags |= pod_flags::TRANSLATED;
        self.datapath
            .pods()
            .set(&translated_pod(self.size, v6), &value)?;
        value.ifindex = OVERLAY;
        value.flags = pod_flags::HOST;
        let own: Addr = if v6 {
            OWN_OVERLAY_V6.into()
        } else {
            OWN_OVERLAY.into()
        };
        self.datapath.pods().set(&own, &value)?;
        Ok(self.datapath.routes().set(&own_prefix(v6), &own_route())?)
    }
}

/// The pod that has translated flows.
pub(super) fn translated_pod(size: Size, v6: bool) -> Addr {
    pod(size.pods, v6)
}

/// When each pod may get answers again.
pub(super) struct Answers(PerCpuArray<MapData, u64>);

impl Answers {
    /// Lets the pod have as many answers at once as it may ever have.
    pub(super) fn allow(&mut self) -> Result<()> {
        let full = vec![0; nr_cpus().map_err(|(_, error)| error)?];
        Ok(self
            .0
            .set(POD % ANSWER_BUCKETS, PerCpuValues::try_from(full)?, 0)?)
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

fn route(way: Way, underlay: Addr) -> RouteValue {
    let mut route = RouteValue::zeroed();
    route.underlay = underlay;
    route.next_hop = underlay;
    route.ifindex = UPLINK;
    route.vni = DEFAULT_VNI;
    route.mac = OTHER_VTEP;
    route.mtu = MTU;
    match way {
        Way::Vxlan | Way::VxlanV6 => {}
        Way::EqualHops => route.hops = HOP_SET,
        Way::Direct => route.flags = route_flags::DIRECT,
    }
    route
}

/// The nodes themselves, and a gateway.
pub(super) fn hops() -> HopsValue {
    let mut set = HopsValue::zeroed();
    let addresses = [Addr::UNSPECIFIED, Ipv4Addr::new(172, 31, 0, 2).into()];
    for (hop, address) in set.hops.iter_mut().zip(addresses) {
        *hop = Hop {
            address,
            ifindex: UPLINK,
        };
    }
    set.buckets[HOP_BUCKETS / 2..].fill(1);
    set
}

fn config(way: Way) -> Config {
    let mut config = Config::zeroed();
    config.abi = MAP_ABI;
    config.vni = DEFAULT_VNI;
    config.port = DEFAULT_PORT;
    config.mtu = MTU;
    config.uplink = UPLINK;
    config.overlay = OVERLAY;
    config.underlay_v4 = OWN_UNDERLAY.into();
    config.underlay_v6 = OWN_UNDERLAY_V6.into();
    config.overlay_v4 = OWN_OVERLAY.into();
    config.overlay_v6 = OWN_OVERLAY_V6.into();
    config.vtep_mac = OWN_VTEP;
    if way == Way::Direct {
        config.flags = config_flags::DIRECT;
    }
    // A test run that names no device runs on the loopback.
    for (slot, ifindex) in config.xdp_uplinks.iter_mut().zip([LOOPBACK, UPLINK]) {
        slot.ifindex = ifindex;
        slot.mac = UPLINK_MAC;
    }
    config.prefix_lens_v4[..2].copy_from_slice(&[96 + 24, 96 + 9]);
    config.prefix_lens_v6[0] = 64;
    config
}
