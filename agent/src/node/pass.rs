//! One pass: compare everything that may have changed with what should be, and put it right.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use oxlan_common::wire::{MIN_MTU_V6, OVERHEAD_V6};
use tokio::runtime::Handle;

use super::events::Dirty;
use super::report::Report;
use super::state::State;
use super::xdp::Xdp;
use super::{NodeError, Options, memory, uplink, ways};
use crate::api::types::{Device as DeviceRow, Health};
use crate::cluster::flannel::SubnetEnv;
use crate::cluster::traces::{self, Trace};
use crate::cluster::{ClusterConfig, ClusterError, Mode, NodeSpec};
use crate::datapath::Datapath;
use crate::host::device::{self, Device};
use crate::host::layer3;
use crate::host::link::{self, LinkState};
use crate::host::masquerade::Masquerade;
use crate::host::nftables::Listing;
use crate::host::rtnl::Rtnl;
use crate::host::sysctl::{self, Originals};
use crate::host::watch::{Interest, SharedInterest};
use crate::pods::{DesiredPod, NodeFacts, Pods};
use crate::reconcile::desire::{self, Facts, OVERLAY, Uplink};
use crate::reconcile::ways::{Way, Ways};
use crate::reconcile::{filters, host, tables};

/// A pod may end while the node is set up; what is really wrong is wrong every time.
const ATTEMPTS: usize = 3;

/// Least time between two passes that nothing but time has caused.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps the node as it should be. Lives on one thread at a time.
pub(super) struct Reconciler {
    pub(super) state: Arc<State>,
    pub(super) datapath: Arc<Datapath>,
    pub(super) pods: Arc<Pods>,
    pub(super) interest: SharedInterest,
    pub(super) rtnl: Rtnl,
    pub(super) originals: Originals,
    pub(super) uplink_option: Option<String>,
    /// Prefixes outside the cluster that see pods' own addresses.
    pub(super) unmasqueraded: Vec<IpNet>,
    subnet_env: Option<PathBuf>,
    state_dir: PathBuf,
    pub(super) xdp: Xdp,
    /// How many different sets of next hops the datapath has room for.
    max_hop_sets: u32,
    pub(super) cluster: Arc<ClusterConfig>,
    /// Whether reading a version or whole maps has left memory free that should go back.
    pub(super) untidy: bool,
    /// Why the newest version of the cluster is not in force.
    pub(super) rejected: Option<String>,
    /// The uplinks as they were seen last.
    pub(super) uplinks: Vec<Device>,
    /// The overlay device as this pass has found it.
    pub(super) overlay: Option<LinkState>,
    /// What the last look at the host has found.
    pub(super) seen: Seen,
    pub(super) ways: Arc<Ways>,
    /// What the ways start from.
    pub(super) ways_from: ways::From,
    /// Other nodes to ask the way to again though it is known, and from when on.
    pub(super) ask_again: HashMap<IpAddr, Instant>,
    /// Whether the MTU of some pod could not be changed.
    pub(super) pods_lag: bool,
    /// What the last complete pass wanted: a deviation from that is somebody else's doing.
    pub(super) settled: Settled,
}

/// What a pass that does not look at the host takes from the last one that did.
#[derive(Default)]
pub(super) struct Seen {
    /// Whether the uplinks are there.
    pub(super) uplinks: bool,
    /// Host sides of pods that are gone.
    pub(super) lost: Vec<String>,
    pub(super) problems: Vec<String>,
    pub(super) health: Health,
}

#[derive(Default)]
pub(super) struct Settled {
    pub(super) host: Option<host::Desired>,
    pub(super) tables: Option<tables::Desired>,
    pub(super) filters: BTreeSet<filters::Filter>,
    pub(super) nftables: Option<(Masquerade, Listing)>,
}

impl Reconciler {
    pub(super) fn new(
        options: &Options,
        state: Arc<State>,
        pods: Arc<Pods>,
        interest: SharedInterest,
    ) -> Result<Self, NodeError> {
        let view = state.view.read();
        let cluster = Arc::clone(&view.unwrap_or_else(PoisonError::into_inner).cluster);
        Ok(Self {
            datapath: Arc::clone(&state.datapath),
            state,
            pods,
            interest,
            rtnl: Rtnl::open()?,
            originals: Originals::open(&options.state_dir),
            uplink_option: options.uplink.clone(),
            unmasqueraded: options.unmasqueraded.clone(),
            subnet_env: options.subnet_env.clone(),
            state_dir: options.state_dir.clone(),
            xdp: Xdp::new(options.xdp),
            max_hop_sets: options.datapath.max_hop_sets,
            cluster,
            untidy: true,
            rejected: None,
            uplinks: Vec::new(),
            overlay: None,
            seen: Seen::default(),
            ways: Arc::default(),
            ways_from: ways::From::default(),
            ask_again: HashMap::new(),
            pods_lag: false,
            settled: Settled::default(),
        })
    }

    /// The first pass: everything, and a predecessor's programs are replaced.
    pub(super) fn set_up(&mut self) -> Result<(), NodeError> {
        let mut problems = Vec::new();
        for _ in 0..ATTEMPTS {
            let mut report = Report::default();
            self.everything(Dirty::ALL, true, &mut report);
            if !report.failed {
                self.datapath.commit()?;
                self.publish(report);
                return Ok(());
            }
            problems = report.problems;
        }
        Err(NodeError::Setup(problems))
    }

    /// A later pass. Whether everything is as it should be now.
    pub(super) fn pass(&mut self, dirty: Dirty) -> bool {
        let mut report = Report::default();
        self.untidy |= dirty.tables;
        self.everything(dirty, false, &mut report);
        let repairs = &self.state.repairs;
        repairs.fetch_add(report.repairs, Ordering::Relaxed);
        let complete = !report.failed;
        self.publish(report);
        complete
    }

    /// A new version of the cluster, or why it cannot be used.
    pub(super) fn new_version(&mut self, version: Result<ClusterConfig, ClusterError>) {
        self.untidy = true;
        match version {
            Ok(cluster) => {
                tracing::info!(nodes = cluster.nodes.len(), "the cluster has changed");
                self.log_remarks(&cluster);
                self.cluster = Arc::new(cluster);
                self.rejected = None;
            }
            Err(error) => {
                let text = crate::datapath::chain(&error);
                tracing::error!("{text}; the last good version stays in force");
                self.rejected = Some(text);
            }
        }
    }

    /// Logs what the source has not said of the last version.
    fn log_remarks(&self, cluster: &ClusterConfig) {
        let before = &self.cluster.remarks;
        let new = |text: &&String| !before.problems.contains(text) && !before.notes.contains(text);
        for problem in cluster.remarks.problems.iter().filter(new) {
            tracing::warn!("{problem}");
        }
        for note in cluster.remarks.notes.iter().filter(new) {
            tracing::info!("{note}");
        }
    }

    /// A packet to another node was too large for its path: the kernel may have learned of it.
    pub(super) fn ask_again(&mut self, peer: IpAddr) {
        self.ask_again.insert(peer, Instant::now());
    }

    /// When a pass is due though nothing happens: the kernel forgets what it has learned about a path.
    pub(super) fn due(&self) -> Option<Instant> {
        // What a pass could not do must not start the next one at once.
        let soonest = Instant::now() + PAUSE;
        self.ask_again.values().min().map(|due| soonest.max(*due))
    }

    fn everything(&mut self, dirty: Dirty, first: bool, report: &mut Report) {
        let cluster = Arc::clone(&self.cluster);
        let Some(own) = cluster.node(&self.state.node) else {
            // Every version names the own node, or it is rejected.
            return;
        };
        // New ways can have other devices, and routes of the host's own.
        let host = self.find_ways(own, dirty.paths, report) || dirty.host;
        if host {
            self.seen.uplinks = self.find_uplinks(own, report);
        }
        if host || dirty.filters && self.xdp.waits() {
            self.prepare_xdp(first, report);
        }
        let uplinks = self.uplinks.clone();
        let mode = cluster.network.mode;
        let mtu = uplink::mtu(&uplinks);
        let pod_mtu = mtu.map_or(self.pods.facts().mtu, |m| desire::pod_mtu(m, own, mode));
        self.tell_pods(own, pod_mtu, report);
        if dirty.host {
            self.drop_ended_pods(report);
            self.tell_other_programs(own, report);
        }
        if self.xdp.is_used_somewhere() {
            self.let_pods_poll(report);
        }
        let pods = self.pods.desired();
        let ways = Arc::clone(&self.ways);
        let present = uplinks.iter().filter(|_| self.seen.uplinks);
        let facts = Facts {
            cluster: &cluster,
            own,
            uplinks: present.map(|u| self.uplink_facts(u)).collect(),
            ways: &ways,
            mtu: pod_mtu,
            tunnel_mtu: mtu.map_or(pod_mtu, |m| desire::tunnel_mtu(m, own)),
            max_hop_sets: self.max_hop_sets,
            pods: &pods,
        };
        if host {
            check_addresses(own, &pods, report);
            self.seen.lost = self.host(&facts, report);
            self.seen.problems.clone_from(&report.problems);
            self.seen.health = report.health.clone();
        } else {
            report.problems.clone_from(&self.seen.problems);
            report.health = self.seen.health.clone();
        }
        report_unrouted(&facts, report);
        report_too_narrow(&facts, report);
        self.nftables(own, dirty, report);
        self.overlay = link::find(&mut self.rtnl, OVERLAY).ok().flatten();
        let Some(overlay) = self.overlay else {
            report.problem(format!("there is no overlay device {OVERLAY}"));
            return;
        };
        self.tables(&facts, overlay.ifindex, dirty.tables, report);
        if first && let Err(error) = self.datapath.catch_up() {
            report.failure(
                "take over what the predecessor's programs have noted",
                &error,
            );
        }
        self.filters(&facts, overlay.ifindex, dirty.filters, first, report);
        self.tell_watch(overlay.ifindex, &pods);
    }

    /// Looks for the uplinks; when they are gone, the last ones are remembered and false returned.
    fn find_uplinks(&mut self, own: &NodeSpec, report: &mut Report) -> bool {
        let found = device::devices(&mut self.rtnl)
            .and_then(|devices| Ok((devices, layer3::addresses(&mut self.rtnl)?)));
        let (devices, addresses) = match found {
            Ok(found) => found,
            Err(error) => {
                report.failure("look for the uplinks", &error);
                return !self.uplinks.is_empty();
            }
        };
        let name = self.uplink_option.as_deref();
        match uplink::find(&devices, &addresses, own, name, &self.ways) {
            Ok(uplinks) => {
                self.uplinks = uplinks;
                true
            }
            Err(error) => {
                report.problem(error.to_string());
                report.health = Health::Limited(error.to_string());
                false
            }
        }
    }

    fn uplink_facts<'a>(&self, uplink: &'a Device) -> Uplink<'a> {
        let key = format!("net/ipv6/conf/{}/accept_ra", uplink.name);
        let accepts_ra =
            self.originals.original(&key).is_some() || sysctl::read(&key).as_deref() == Some("1");
        Uplink {
            name: &uplink.name,
            ifindex: uplink.ifindex,
            mtu: uplink.mtu,
            mac: uplink.mac,
            ethernet: uplink.ethernet,
            xdp: self.xdp.is_used(uplink.ifindex),
            accepts_ra,
        }
    }

    /// New pod CIDRs count for new pods; a new MTU is set on both sides of every pod's pair.
    fn tell_pods(&mut self, own: &NodeSpec, mtu: u16, report: &mut Report) {
        let facts = NodeFacts {
            pod_cidrs: own.pod_cidrs.clone(),
            mtu,
        };
        let before = self.pods.facts();
        if before == facts && !self.pods_lag {
            return;
        }
        if before.mtu != mtu {
            tracing::info!(
                from = before.mtu,
                to = mtu,
                "the pods' MTU follows the uplink's"
            );
        }
        match Handle::current().block_on(self.pods.set_facts(facts)) {
            Ok(problems) => {
                self.pods_lag = !problems.is_empty();
                for problem in problems {
                    report.retry(format!("cannot set the MTU of a pod: {problem}"));
                }
            }
            Err(error) => report.failure("tell the pods of a change", &error),
        }
    }

    /// Programs that read Flannel's file go on finding it.
    fn tell_other_programs(&self, own: &NodeSpec, report: &mut Report) {
        let Some(path) = &self.subnet_env else {
            return;
        };
        let text = SubnetEnv {
            network: self.cluster.network.pod_cidrs.clone(),
            own: own.pod_cidrs.clone(),
            mtu: self.pods.facts().mtu,
            ip_masq: true,
        };
        let trace = Trace::File {
            path: path.clone(),
            text: text.to_text(),
        };
        if !text.is_at(path) {
            traces::Kind::SubnetEnv.leave(&self.state_dir, &trace);
        }
        match text.write(path) {
            Ok(true) => tracing::info!("wrote {}", path.display()),
            Ok(false) => {}
            Err(error) => report.problem(crate::datapath::chain(&error)),
        }
    }

    /// XDP redirects only to interfaces that poll.
    fn let_pods_poll(&self, report: &mut Report) {
        match Handle::current().block_on(self.pods.poll()) {
            Ok(problems) => problems.into_iter().for_each(|problem| {
                report.problem(format!(
                    "XDP passes by a pod, to which TC delivers: {problem}"
                ));
            }),
            Err(error) => report.failure("let the pods' interfaces poll", &error),
        }
    }

    /// A pod that has ended without a DEL is no pod that is cut off.
    fn drop_ended_pods(&self, report: &mut Report) {
        match Handle::current().block_on(self.pods.drop_ended()) {
            Ok(ended) => {
                for pod in &ended.removed {
                    tracing::info!("removed an attachment: {pod}");
                }
                for problem in ended.problems {
                    report.problem(format!("cannot remove the attachment {problem}"));
                }
            }
            Err(error) => report.failure("look for pods that have ended", &error),
        }
    }

    fn tell_watch(&self, overlay: u32, pods: &[DesiredPod]) {
        let mut peers: Vec<IpAddr> = self.ways.nodes.keys().copied().collect();
        peers.sort_unstable();
        let devices = pods.iter().map(|p| p.host_ifindex).chain([overlay]);
        let interest = Interest {
            devices: devices.collect(),
            networks: self.cluster.network.pod_cidrs.clone(),
            peers,
        };
        *self.interest.lock().unwrap_or_else(PoisonError::into_inner) = interest;
    }

    /// Shows the API what this pass has seen, and logs problems that are new.
    fn publish(&mut self, report: Report) {
        report.finish();
        let row = |name: &str, ifindex, mtu| DeviceRow {
            name: name.to_owned(),
            ifindex,
            mtu,
        };
        let problems = report.problems;
        let view = self.state.view.write();
        let mut view = view.unwrap_or_else(PoisonError::into_inner);
        for problem in &problems {
            if !view.problems.contains(problem) {
                tracing::error!("{problem}");
            }
        }
        view.cluster = Arc::clone(&self.cluster);
        view.ways = Arc::clone(&self.ways);
        let uplinks = self.uplinks.iter();
        view.uplinks = uplinks.map(|u| row(&u.name, u.ifindex, u.mtu)).collect();
        view.xdp = self.xdp.rows(&self.uplinks);
        view.overlay = self
            .overlay
            .map_or_else(DeviceRow::default, |o| row(OVERLAY, o.ifindex, o.mtu));
        view.pod_mtu = self.pods.facts().mtu;
        view.health = report.health;
        view.problems = problems;
        view.problems.extend(self.rejected.clone());
        view.problems
            .extend_from_slice(&self.cluster.remarks.problems);
        drop(view);
        if std::mem::take(&mut self.untidy) {
            memory::give_back();
        }
    }
}

/// Where nothing is encapsulated, somebody else has to see to the routes.
fn report_unrouted(facts: &Facts<'_>, report: &mut Report) {
    if facts.cluster.network.mode != Mode::Direct {
        return;
    }
    let unrouted: Vec<String> = facts
        .others()
        .flat_map(|node| node.pod_cidrs.iter().map(move |prefix| (node, prefix)))
        .filter(|(node, prefix)| facts.way(node, prefix) == Way::Nowhere)
        .map(|(node, prefix)| format!("{prefix} of {}", node.name))
        .collect();
    if let Some(prefixes) = first_of(&unrouted) {
        report.problem(format!(
            "no route leads to the pods in {prefixes}: the network's mode is \"direct\", so a routing daemon or an administrator has to make a route with a gateway for each pod CIDR"
        ));
    }
}

/// IPv6 packets must not be refused for their size up to what IPv6 needs, and nobody fragments what is around
/// them over IPv6: routers must not, and the kernel does it only for packets of its own sockets
/// (net/ipv6/ip6_output.c, `ip6_fragment`).
fn report_too_narrow(facts: &Facts<'_>, report: &mut Report) {
    let needed = MIN_MTU_V6 + OVERHEAD_V6;
    let too_narrow: Vec<String> = facts
        .others()
        .flat_map(|node| node.pod_cidrs.iter().map(move |prefix| (node, prefix)))
        .filter(|(node, prefix)| facts.is_too_narrow(node, prefix))
        .map(|(node, prefix)| format!("{prefix} of {}", node.name))
        .collect();
    if let Some(prefixes) = first_of(&too_narrow) {
        report.problem(format!(
            "the way to the pods in {prefixes} is too narrow: VXLAN over IPv6 with packets of {MIN_MTU_V6} bytes, which IPv6 needs, takes an MTU of {needed} on the underlay, and larger packets than fit are lost"
        ));
    }
}

/// The first of many things in words; none if there are none.
fn first_of(all: &[String]) -> Option<String> {
    const SHOWN: usize = 3;
    let first = all.get(..SHOWN.min(all.len())).filter(|f| !f.is_empty())?;
    let more = match all.len() - first.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!("{}{more}", first.join(", ")))
}

/// A node that gets another pod CIDR keeps its pods, but the other nodes no longer know them.
fn check_addresses(own: &NodeSpec, pods: &[DesiredPod], report: &mut Report) {
    for pod in pods {
        let outside = |a: &&IpAddr| !own.pod_cidrs.iter().any(|c| c.contains(*a));
        for address in pod.addresses.iter().filter(outside) {
            report.problem(format!(
                "the pod {address} behind {} is outside this node's pod CIDRs, so other nodes cannot reach it: delete the pod, so that it gets a new address",
                pod.host_ifname
            ));
        }
    }
}
