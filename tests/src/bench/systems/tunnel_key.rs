//! Programs that put tunnel metadata on packets and leave encapsulation to a VXLAN device in
//! collect-metadata mode, as Cilium and Calico do. The programs are in `ebpf/src/bench.rs`.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use aya::maps::HashMap;
use aya::programs::links::LinkOrder;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use oxlan_common::bench::Endpoint;

use super::cable::{Cable, MTU, POD_MTU};
use super::{Path, System};
use crate::binaries::bench_object;
use crate::netns::Netns;
use crate::underlay::node_v4;

/// The VXLAN device of each node.
const DEVICE: &str = "key0";

/// Its UDP port (RFC 7348, section 5).
const PORT: u16 = 4789;

/// MAC of every device on the nodes: then a frame is for whichever it comes in by.
const NODE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

/// The programs of both nodes; dropping it detaches them.
pub(super) struct Programs {
    _nodes: Vec<Ebpf>,
    _cable: Cable,
}

/// Two nodes with a pod each.
pub(super) fn start() -> Result<(Programs, Path)> {
    let cable = Cable::create(MTU)?;
    let mut nodes = Vec::new();
    let mut pods = Vec::new();
    for (number, netns) in (1..).zip(&cable.nodes) {
        let pod = cable.scope.netns(&format!("pod-{number}"))?;
        add_devices(netns, &pod, number)?;
        nodes.push(netns.inside(|| load(netns, number))?);
        pods.push(pod);
    }
    let server = pods.pop().context("a server")?;
    let path = Path {
        system: System::TunnelKey,
        client: pods.pop().context("a client")?,
        server,
        address: address(2).into(),
    };
    let programs = Programs {
        _nodes: nodes,
        _cable: cable,
    };
    Ok((programs, path))
}

/// The pod of a node.
fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, number, 10)
}

fn pod_mac(number: u8) -> [u8; 6] {
    [0x02, 0, 0, 0, 1, number]
}

fn add_devices(node: &Netns, pod: &Netns, number: u8) -> Result<()> {
    let node_mac = text(NODE_MAC);
    node.run_all(&[
        &format!(
            "ip link add {DEVICE} address {node_mac} mtu {POD_MTU} type vxlan external dstport {PORT}"
        ),
        &format!("ip link set {DEVICE} up"),
        &format!(
            "ip link add pod0 address {node_mac} mtu {POD_MTU} type veth \
             peer name eth0 address {} mtu {POD_MTU} netns {}",
            text(pod_mac(number)),
            pod.name()
        ),
        "ip link set pod0 up",
    ])?;
    pod.run_all(&[
        "ip link set eth0 up",
        &format!("ip address add {}/32 dev eth0", address(number)),
        &format!("ip neighbour add 169.254.1.1 lladdr {node_mac} dev eth0 nud permanent"),
        "ip route add 169.254.1.1 dev eth0",
        "ip route add default via 169.254.1.1 dev eth0",
    ])
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Loads the programs of a node and attaches them; to be called in its namespace.
fn load(node: &Netns, number: u8) -> Result<Ebpf> {
    let device = node.ifindex(DEVICE)?;
    let mut loader = EbpfLoader::new();
    loader.override_global("DEVICE", &device, true);
    let mut ebpf = loader.load(&bench_object()?)?;
    let map = ebpf.take_map("ENDPOINTS").context("no map ENDPOINTS")?;
    let mut endpoints: HashMap<_, [u8; 4], Endpoint> = HashMap::try_from(map)?;
    for pod in [1, 2] {
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&pod_mac(pod));
        macs[6..].copy_from_slice(&NODE_MAC);
        let endpoint = if pod == number {
            Endpoint {
                ifindex: node.ifindex("pod0")?,
                remote: [0; 4],
                macs,
            }
        } else {
            Endpoint {
                ifindex: 0,
                remote: node_v4(pod).octets(),
                macs,
            }
        };
        endpoints.insert(address(pod).octets(), endpoint, 0)?;
    }
    for (program, device) in [("key_from_pod", "pod0"), ("key_from_tunnel", DEVICE)] {
        attach(&mut ebpf, program, device)
            .with_context(|| format!("cannot attach {program} to {device}"))?;
    }
    Ok(ebpf)
}

/// By TCX where the kernel has it, which is the faster way, as both have it.
fn attach(ebpf: &mut Ebpf, program: &str, device: &str) -> Result<()> {
    let program: &mut SchedClassifier = ebpf
        .program_mut(program)
        .context("no such program")?
        .try_into()?;
    program.load()?;
    let tcx = TcAttachOptions::TcxOrder(LinkOrder::default());
    if program
        .attach_with_options(device, TcAttachType::Ingress, tcx)
        .is_err()
    {
        aya::programs::tc::qdisc_add_clsact(device)?;
        program.attach(device, TcAttachType::Ingress)?;
    }
    Ok(())
}
