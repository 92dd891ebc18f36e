//! The systems that are compared: each has two nodes of its own on a cable of their own.

mod cable;
mod kernel;
mod oxlan;
mod tunnel_key;

use std::net::IpAddr;

use anyhow::{Context, Result};

use super::figures::Figures;
use super::loads::Load;
use super::{Effort, Progress};
use crate::netns::Netns;

pub(super) use cable::{Cable, MTU, POD_MTU};

/// A way for packets from a client to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum System {
    /// Between two nodes without any overlay: the limit.
    Host,
    /// Between pods of two nodes over the kernel's bridge and VXLAN device, as Flannel sets them up.
    KernelVxlan,
    /// The same over programs that leave encapsulation to a VXLAN device, as Cilium and Calico do.
    TunnelKey,
    /// Over Oxlan, with its TC programs alone.
    Oxlan,
    /// Over Oxlan with XDP on the uplinks.
    OxlanXdp,
    /// Over Oxlan, with its TC programs alone and an IPv6 underlay.
    OxlanV6,
    /// Over Oxlan without encapsulation.
    OxlanDirect,
    /// Between two namespaces joined by one veth pair: the limit on one node.
    Veth,
    /// Between two pods of a node over the kernel's bridge.
    KernelBridge,
    /// Between two pods of a node over Oxlan.
    OxlanLocal,
}

impl System {
    /// Between nodes, and on one node; the first of a group is its limit.
    pub(super) const GROUPS: [(&str, &[Self]); 2] = [
        (
            "node to node",
            &[
                Self::Host,
                Self::KernelVxlan,
                Self::TunnelKey,
                Self::Oxlan,
                Self::OxlanXdp,
                Self::OxlanV6,
                Self::OxlanDirect,
            ],
        ),
        (
            "same node",
            &[Self::Veth, Self::KernelBridge, Self::OxlanLocal],
        ),
    ];

    /// Its name in tables.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Host => "host to host",
            Self::KernelVxlan => "kernel bridge + VXLAN (Flannel's way)",
            Self::TunnelKey => "TC + VXLAN device (Cilium's way)",
            Self::Oxlan => "Oxlan, TC",
            Self::OxlanXdp => "Oxlan, XDP",
            Self::OxlanV6 => "Oxlan, IPv6 underlay",
            Self::OxlanDirect => "Oxlan, direct",
            Self::Veth => "bare veth pair",
            Self::KernelBridge => "kernel bridge",
            Self::OxlanLocal => "Oxlan",
        }
    }

    /// Its name in JSON.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::KernelVxlan => "kernel_vxlan",
            Self::TunnelKey => "tunnel_key",
            Self::Oxlan => "oxlan",
            Self::OxlanXdp => "oxlan_xdp",
            Self::OxlanV6 => "oxlan_v6",
            Self::OxlanDirect => "oxlan_direct",
            Self::Veth => "veth",
            Self::KernelBridge => "kernel_bridge",
            Self::OxlanLocal => "oxlan_local",
        }
    }

    /// What runs over it: over the variants of Oxlan only what tells them apart, so that all of it does not
    /// take longer.
    const fn loads(self) -> &'static [Load] {
        match self {
            Self::OxlanV6 | Self::OxlanDirect => {
                &[Load::PathLength, Load::Stream, Load::PacketRate]
            }
            Self::Host
            | Self::KernelVxlan
            | Self::TunnelKey
            | Self::Oxlan
            | Self::OxlanXdp
            | Self::Veth
            | Self::KernelBridge
            | Self::OxlanLocal => Load::ALL,
        }
    }

    /// Whether a goal compares it with another one under this load.
    const fn is_compared(self, load: Load) -> bool {
        match load {
            Load::PathLength => {
                matches!(
                    self,
                    Self::Host | Self::Oxlan | Self::Veth | Self::OxlanLocal
                )
            }
            Load::Stream | Load::PacketRate => {
                matches!(self, Self::Host | Self::KernelVxlan | Self::Oxlan)
            }
            Load::Streams => matches!(self, Self::KernelVxlan | Self::Oxlan),
            Load::RoundTrip | Load::ConnectRate => false,
        }
    }
}

/// Where the client and the server of a system are.
pub(super) struct Path {
    pub(super) system: System,
    pub(super) client: Netns,
    pub(super) server: Netns,
    pub(super) address: IpAddr,
}

/// All systems, set up.
struct Systems {
    paths: Vec<Path>,
    // Dropped last, and programs and agents before their cables: removes everything.
    _tunnel: tunnel_key::Programs,
    _oxlan: Vec<oxlan::Nodes>,
    _cables: Vec<Cable>,
}

/// Measures every load over every system.
pub(super) fn measure(
    effort: Effort,
    figures: &mut Figures,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let systems = Systems::start(progress)?;
    for round in 1..=effort.rounds() {
        for load in Load::ALL {
            for (position, path) in systems.paths.iter().enumerate() {
                let loads = path.system.loads();
                let is_compared = path.system.is_compared(*load);
                let is_measured = match effort {
                    Effort::Full => true,
                    // Two minutes are not enough for everything.
                    Effort::Quick => {
                        !matches!(load, Load::Streams | Load::PacketRate) || is_compared
                    }
                    // To see that everything works, each system and each load once is enough, besides the goals.
                    Effort::Smoke => loads[position % loads.len()] == *load || is_compared,
                };
                if !loads.contains(load) || !is_measured {
                    continue;
                }
                // One connection that fails is no reason to lose a quarter of an hour.
                let measured = load.run(path, effort).or_else(|error| {
                    progress(&format!("again, because of: {error:#}"));
                    load.run(path, effort)
                })?;
                for (measure, value) in measured {
                    let (title, unit) = (measure.about().title, measure.about().unit);
                    let (system, value_shown) = (path.system.title(), measure.shown(value));
                    let rounds = effort.rounds();
                    progress(&format!(
                        "round {round}/{rounds}: {title}: {system}: {value_shown} {unit}"
                    ));
                    figures.add(measure, path.system.key(), value);
                }
            }
        }
    }
    Ok(())
}

/// Does something with every system.
pub(super) fn each(
    progress: &mut Progress<'_>,
    work: impl FnMut(&Path) -> Result<()>,
) -> Result<()> {
    let systems = Systems::start(progress)?;
    systems.paths.iter().try_for_each(work)
}

/// Also warms neighbour entries and caches up.
fn reach(path: &Path) -> Result<()> {
    let line = format!("ping -n -q -c 2 -i 0.05 -W 2 {}", path.address);
    path.client.run(&line).map(drop)
}

impl Systems {
    fn start(progress: &mut Progress<'_>) -> Result<Self> {
        let (hosts, host) = kernel::hosts()?;
        let (flannel, vxlan, bridge) = kernel::flannel()?;
        let (ends, veth) = kernel::veth()?;
        let (tunnel, tunnel_key) = tunnel_key::start()?;
        let (nodes, oxlan, local) = oxlan::start_tc()?;
        let mut paths = vec![host, vxlan, tunnel_key, oxlan, veth, bridge, local];
        let mut oxlan = vec![nodes];
        if oxlan::has_xdp()? {
            let (nodes, path) = oxlan::start_xdp()?;
            oxlan.push(nodes);
            paths.insert(4, path);
        } else {
            progress("this agent has no --xdp: Oxlan is measured with TC alone");
        }
        for start in [oxlan::start_v6, oxlan::start_direct] {
            let (nodes, path) = start()?;
            oxlan.push(nodes);
            paths.push(path);
        }
        for path in &paths {
            let title = path.system.title();
            reach(path).with_context(|| format!("{title}: the server cannot be reached"))?;
        }
        Ok(Self {
            paths,
            _tunnel: tunnel,
            _oxlan: oxlan,
            _cables: vec![hosts, flannel, ends],
        })
    }
}
