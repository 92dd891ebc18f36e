//! What the API shows of the running agent.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use ipnet::IpNet;
use nix::net::if_::if_indextoname;
use oxlan_common::addr::Addr;
use oxlan_common::maps::{Counter, HOP_BUCKETS, Hop, HopsValue, RouteKey, RouteValue, route_flags};

use crate::api::types::{
    Device, FeatureRow, Health, NextHopRow, NodeRow, RouteRow, Status, VtepRow, Xdp,
};
use crate::api::{NodeFault, NodeView};
use crate::cluster::{ClusterConfig, NodeSpec, Vtep};
use crate::datapath::{AttachMode, Datapath};
use crate::host::preflight;
use crate::reconcile::desire;
use crate::reconcile::tables::prefix_in_words;
use crate::reconcile::ways::Ways;

/// The agent's state, shared between the reconciler, which writes it, and the API.
pub(super) struct State {
    /// Name of the own node.
    pub(super) node: String,
    /// Description of the cluster's source.
    pub(super) source: String,
    /// Directory of pins.
    pub(super) bpf_dir: String,
    pub(super) datapath: Arc<Datapath>,
    /// Things put back since the start.
    pub(super) repairs: AtomicU64,
    pub(super) ready: OnceLock<Instant>,
    /// What the kernel can do, once it was tried.
    pub(super) features: OnceLock<Vec<FeatureRow>>,
    pub(super) view: RwLock<View>,
}

/// What the last pass has seen.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) cluster: Arc<ClusterConfig>,
    pub(super) ways: Arc<Ways>,
    pub(super) uplinks: Vec<Device>,
    pub(super) xdp: Vec<Xdp>,
    pub(super) overlay: Device,
    pub(super) pod_mtu: u16,
    pub(super) problems: Vec<String>,
    pub(super) health: Health,
}

impl State {
    fn view(&self) -> View {
        let view = self.view.read();
        view.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl NodeView for State {
    fn status(&self) -> Status {
        let view = self.view();
        let network = &view.cluster.network;
        let own = view.cluster.node(&self.node);
        Status {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime: self.ready.get().map_or(0, |t| t.elapsed().as_secs()),
            health: view.health,
            source: self.source.clone(),
            problems: view.problems,
            notes: view.cluster.remarks.notes.clone(),
            underlay: own.and_then(|n| n.underlay().next()),
            vteps: own.map(|n| vtep_rows(n, &view.ways)).unwrap_or_default(),
            uplink: view.uplinks.first().cloned().unwrap_or_default(),
            uplinks: view.uplinks,
            xdp: view.xdp,
            overlay: view.overlay,
            vtep_mac: own.map_or_else(String::new, |n| n.vtep_mac().to_string()),
            network: network.pod_cidrs.clone(),
            vni: network.vni.get(),
            port: network.port,
            dscp: network.dscp.to_string(),
            mode: network.mode.to_string(),
            pod_cidrs: own.map(|n| n.pod_cidrs.clone()).unwrap_or_default(),
            pod_mtu: view.pod_mtu,
            pods: 0,
            nodes: view.cluster.nodes.len(),
            attach: match AttachMode::of_this_kernel() {
                AttachMode::Tcx => "tcx".into(),
                AttachMode::Clsact => "clsact".into(),
            },
            bpf_dir: self.bpf_dir.clone(),
            repairs: self.repairs.load(Ordering::Relaxed),
            kernel: preflight::release(),
            features: self.features.get().cloned().unwrap_or_default(),
        }
    }

    fn health(&self) -> Health {
        let view = self.view.read();
        view.unwrap_or_else(PoisonError::into_inner).health.clone()
    }

    fn nodes(&self) -> Vec<NodeRow> {
        let view = self.view();
        // What the programs know, so that nobody has to compare two lists.
        let routes = self.datapath.routes().entries().unwrap_or_default();
        let routes: HashMap<RouteKey, u16> =
            routes.into_iter().map(|(k, v)| (k, v.flags)).collect();
        let all = |n: &NodeSpec, test: fn(u16) -> bool| {
            let flags = |p| routes.get(&desire::route_key(p)).copied();
            n.pod_cidrs.iter().map(flags).all(|f| f.is_some_and(test))
        };
        let row = |n: &NodeSpec| NodeRow {
            name: n.name.clone(),
            own: n.name == self.node,
            underlay: n.underlay().next().unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            vtep_mac: n.vtep_mac().to_string(),
            vteps: vtep_rows(n, &view.ways),
            pod_cidrs: n.pod_cidrs.clone(),
            reachable: n.name == self.node || all(n, |flags| flags & route_flags::UNREACHABLE == 0),
            direct: n.name != self.node && all(n, |flags| flags & route_flags::DIRECT != 0),
        };
        view.cluster.nodes.iter().map(row).collect()
    }

    fn routes(&self) -> Result<Vec<RouteRow>, NodeFault> {
        let view = self.view();
        let owners: HashMap<Addr, &str> = view
            .cluster
            .nodes
            .iter()
            .flat_map(|n| n.underlay().map(|a| (a.into(), n.name.as_str())))
            .collect();
        let mut devices: HashMap<u32, String> = HashMap::new();
        let sets: HashMap<u32, HopsValue> = self.datapath.hops().entries()?.into_iter().collect();
        let mut rows = Vec::new();
        for (key, value) in self.datapath.routes().entries()? {
            let set = sets.get(&value.hops);
            let next_hops = set.map(|set| next_hop_rows(set, &value, &mut devices));
            let device = devices
                .entry(value.ifindex)
                .or_insert_with(|| device_name(value.ifindex));
            rows.push(RouteRow {
                prefix: prefix_in_words(&key).parse::<IpNet>()?,
                node: owners.get(&value.underlay).map(|&name| name.to_owned()),
                local: value.flags & route_flags::LOCAL != 0,
                underlay: value.underlay.into(),
                next_hop: value.next_hop.into(),
                device: device.clone(),
                next_hops: next_hops.unwrap_or_default(),
                vni: value.vni,
                mtu: value.mtu,
                vtep_mac: value.mac.to_string(),
                reachable: value.flags & route_flags::UNREACHABLE == 0,
                direct: value.flags & route_flags::DIRECT != 0,
            });
        }
        rows.sort_by_key(|row| row.prefix);
        Ok(rows)
    }

    fn counters(&self) -> Result<Vec<(u32, Counter)>, NodeFault> {
        Ok(self.datapath.counters()?)
    }
}

fn next_hop_rows(
    set: &HopsValue,
    route: &RouteValue,
    devices: &mut HashMap<u32, String>,
) -> Vec<NextHopRow> {
    let row = |(at, hop): (u8, &Hop)| {
        let part = set.buckets.iter().filter(|bucket| **bucket == at).count();
        let address = if hop.address.is_unspecified() {
            route.underlay
        } else {
            hop.address
        };
        let device = devices
            .entry(hop.ifindex)
            .or_insert_with(|| device_name(hop.ifindex));
        NextHopRow {
            address: address.into(),
            device: device.clone(),
            share: u8::try_from(part * 100 / HOP_BUCKETS).unwrap_or_default(),
        }
    };
    let hops = (0..).zip(&set.hops);
    hops.filter(|(_, hop)| hop.ifindex != 0).map(row).collect()
}

fn vtep_rows(node: &NodeSpec, ways: &Ways) -> Vec<VtepRow> {
    let row = |vtep: &Vtep| VtepRow {
        underlay: vtep.underlay,
        mac: vtep.mac.to_string(),
        path_mtu: ways.to_node(vtep.underlay).and_then(|path| path.mtu),
    };
    node.vteps.iter().map(row).collect()
}

/// Empty when there is no such device.
fn device_name(ifindex: u32) -> String {
    let name = if_indextoname(ifindex).ok();
    let name = name.and_then(|n| n.into_string().ok());
    name.unwrap_or_default()
}
