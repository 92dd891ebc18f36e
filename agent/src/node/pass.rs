//! One pass: compare everything that may have changed with what should be, and put it right.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use ipnet::IpNet;
use tokio::runtime::Handle;

use super::events::Dirty;
use super::report::Report;
use super::state::State;
use super::{NodeError, Options, uplink};
use crate::api::types::{Device as DeviceRow, Health};
use crate::cluster::{ClusterConfig, ClusterError, NodeSpec};
use crate::datapath::Datapath;
use crate::host::device::{self, Device};
use crate::host::layer3;
use crate::host::nftables::{self, Listing};
use crate::host::paths::{self, NextHop};
use crate::host::rtnl::Rtnl;
use crate::host::sysctl::{self, Originals};
use crate::host::watch::{Interest, SharedInterest};
use crate::pods::{DesiredPod, NodeFacts, Pods};
use crate::reconcile::apply::ApplyError;
use crate::reconcile::desire::{self, Facts, OVERLAY, Uplink};
use crate::reconcile::observe::{self, Which};
use crate::reconcile::{apply, filters, host, tables};

/// A repair can make room for another one (an address for a route); more rounds never help.
const ROUNDS: usize = 4;

/// Keeps the node as it should be. Lives on one thread at a time.
pub(super) struct Reconciler {
    state: Arc<State>,
    datapath: Arc<Datapath>,
    pods: Arc<Pods>,
    interest: SharedInterest,
    rtnl: Rtnl,
    originals: Originals,
    uplink_option: Option<String>,
    cluster: Arc<ClusterConfig>,
    /// Why the newest version of the cluster is not in force.
    rejected: Option<String>,
    /// The uplink as it was seen last.
    uplink: Option<Device>,
    paths: Arc<HashMap<IpAddr, Option<NextHop>>>,
    /// What the last complete pass wanted: a deviation from that is somebody else's doing.
    settled: Settled,
}

#[derive(Default)]
struct Settled {
    host: Option<host::Desired>,
    tables: Option<tables::Desired>,
    filters: BTreeSet<filters::Filter>,
    nftables: Option<(Vec<IpNet>, Listing)>,
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
            cluster,
            rejected: None,
            uplink: None,
            paths: Arc::default(),
            settled: Settled::default(),
        })
    }

    /// The first pass: everything, and a predecessor's programs are replaced.
    pub(super) fn set_up(&mut self) -> Result<(), NodeError> {
        let mut report = Report::default();
        self.everything(Dirty::ALL, true, &mut report);
        if report.failed {
            return Err(NodeError::Setup(report.problems));
        }
        self.datapath.commit()?;
        self.publish(report);
        Ok(())
    }

    /// A later pass. Whether everything is as it should be now.
    pub(super) fn pass(&mut self, dirty: Dirty) -> bool {
        let mut report = Report::default();
        self.everything(dirty, false, &mut report);
        let repairs = &self.state.repairs;
        repairs.fetch_add(report.repairs, Ordering::Relaxed);
        let complete = !report.failed;
        self.publish(report);
        complete
    }

    /// A new version of the cluster, or why it cannot be used.
    pub(super) fn new_version(&mut self, version: Result<ClusterConfig, ClusterError>) {
        match version {
            Ok(cluster) => {
                tracing::info!(nodes = cluster.nodes.len(), "the cluster has changed");
                self.cluster = Arc::new(cluster);
                self.rejected = None;
            }
            Err(error) => {
                let text = crate::pods::chain(&error);
                tracing::error!("{text}; the last good version stays in force");
                self.rejected = Some(text);
            }
        }
    }

    fn everything(&mut self, dirty: Dirty, first: bool, report: &mut Report) {
        let cluster = Arc::clone(&self.cluster);
        let Some(own) = cluster.node(&self.state.node) else {
            // Every version names the own node, or it is rejected.
            return;
        };
        let present = self.find_uplink(own, report);
        let uplink = self.uplink.clone();
        let mtu = uplink.as_ref().map_or_else(
            || self.pods.facts().mtu,
            |u| desire::pod_mtu(u.mtu, own.underlay),
        );
        self.tell_pods(own, mtu, report);
        let pods = self.pods.desired();
        let facts = Facts {
            cluster: &cluster,
            own,
            uplink: uplink
                .as_ref()
                .filter(|_| present)
                .map(|u| self.uplink_facts(u)),
            mtu,
            pods: &pods,
        };
        check_addresses(own, &pods, report);
        let lost = self.host(&facts, report);
        self.nftables(dirty, report);
        let Some(overlay) = self.overlay() else {
            report.problem(format!("there is no overlay device {OVERLAY}"));
            return;
        };
        self.find_paths(own, dirty.paths, report);
        self.tables(&facts, overlay.ifindex, dirty.tables, report);
        self.filters(&facts, overlay.ifindex, &lost, dirty.filters, first, report);
        self.tell_watch(overlay.ifindex, &pods);
    }

    /// Looks for the uplink; when it is gone, the last one is remembered and false returned.
    fn find_uplink(&mut self, own: &NodeSpec, report: &mut Report) -> bool {
        let found = device::devices(&mut self.rtnl)
            .and_then(|devices| Ok((devices, layer3::addresses(&mut self.rtnl)?)));
        let (devices, addresses) = match found {
            Ok(found) => found,
            Err(error) => {
                report.failure("look for the uplink", &error);
                return self.uplink.is_some();
            }
        };
        let name = self.uplink_option.as_deref();
        match uplink::find(&devices, &addresses, own.underlay, name) {
            Ok(device) => {
                self.uplink = Some(device.clone());
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
            accepts_ra,
        }
    }

    /// New pod CIDRs count for new pods; a new MTU is set on both sides of every pod's pair.
    fn tell_pods(&self, own: &NodeSpec, mtu: u16, report: &mut Report) {
        let facts = NodeFacts {
            pod_cidrs: own.pod_cidrs.clone(),
            mtu,
        };
        let before = self.pods.facts();
        if before == facts {
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
            Ok(problems) => problems.into_iter().for_each(|p| report.problem(p)),
            Err(error) => report.failure("tell the pods of a change", &error),
        }
    }

    /// Devices, addresses, routes, neighbours, sysctls. Returns the host sides that are gone.
    fn host(&mut self, facts: &Facts<'_>, report: &mut Report) -> Vec<String> {
        let desired = desire::host(facts);
        let mut lost = Vec::new();
        let mut complete = false;
        for _ in 0..ROUNDS {
            let actual = match observe::host(&mut self.rtnl, &desired) {
                Ok(actual) => actual,
                Err(error) => {
                    report.failure("read the host", &error);
                    return lost;
                }
            };
            let plan = host::plan(&desired, &actual);
            lost = plan.lost;
            if plan.steps.is_empty() {
                complete = true;
                break;
            }
            let before = self.settled.host.as_ref();
            let repairs = before.map(|before| host::plan(before, &actual).steps);
            let mut failed = false;
            for planned in &plan.steps {
                let done = apply::host(&mut self.rtnl, &mut self.originals, &planned.step);
                failed |= done.is_err();
                if matches!(done, Err(ApplyError::Gone(_))) {
                    continue;
                }
                let repair = repairs.as_ref().is_some_and(|r| r.contains(planned));
                report.step(planned, repair, done);
            }
            if failed {
                break;
            }
        }
        for name in &lost {
            report.problem(format!(
                "the interface {name} of a pod is gone, and the pod is cut off: delete the pod, so that it is made again"
            ));
        }
        if complete {
            self.settled.host = Some(desired);
        }
        lost
    }

    /// The table is listed only when the kernel has reported a change of it.
    fn nftables(&mut self, dirty: Dirty, report: &mut Report) {
        let wanted = &self.cluster.network.pod_cidrs;
        let settled = self.settled.nftables.as_ref().filter(|(c, _)| c == wanted);
        if settled.is_some() && !dirty.nftables {
            return;
        }
        let now = match nftables::list() {
            Ok(now) => now,
            Err(error) => return report.failure("compare the nftables table", &error),
        };
        if let (Some((_, right)), Some(now)) = (settled, &now)
            && right == now
        {
            return;
        }
        let repair = settled.is_some();
        let found = match &now {
            None => crate::reconcile::Found::Missing,
            Some(_) if repair => crate::reconcile::Found::Different("other rules".into()),
            Some(_) => crate::reconcile::Found::Different("a predecessor's".into()),
        };
        let planned = crate::reconcile::Planned {
            step: "the nftables table inet oxlan",
            found,
        };
        let done = nftables::replace(wanted).and_then(|()| nftables::list());
        if let Ok(Some(listing)) = &done {
            self.settled.nftables = Some((wanted.clone(), listing.clone()));
        }
        report.step(&planned, repair, done);
    }

    fn overlay(&mut self) -> Option<Device> {
        let devices = device::devices(&mut self.rtnl).ok()?;
        devices.into_iter().find(|d| d.name == OVERLAY)
    }

    /// Asks the kernel for the way to each other node that is not known yet; to all, if `anew`.
    fn find_paths(&mut self, own: &NodeSpec, anew: bool, report: &mut Report) {
        let others = self.cluster.nodes.iter().filter(|n| n.name != own.name);
        let others: BTreeSet<IpAddr> = others.map(|n| n.underlay).collect();
        if self.paths.keys().any(|to| !others.contains(to)) {
            Arc::make_mut(&mut self.paths).retain(|to, _| others.contains(to));
        }
        let ask: Vec<IpAddr> = others
            .into_iter()
            .filter(|to| anew || !self.paths.contains_key(to))
            .collect();
        if ask.is_empty() {
            return;
        }
        match paths::next_hops(&mut self.rtnl, own.underlay, &ask) {
            Ok(hops) => Arc::make_mut(&mut self.paths).extend(ask.into_iter().zip(hops)),
            Err(error) => report.failure("ask for the ways to the other nodes", &error),
        }
    }

    fn tables(&mut self, facts: &Facts<'_>, overlay: u32, all: bool, report: &mut Report) {
        let desired = desire::tables(facts, overlay, &self.paths);
        let settled = self.settled.tables.as_ref();
        let which = settled.map_or(Which::ALL, |settled| Which {
            pods: all || settled.pods != desired.pods,
            routes: all || settled.routes != desired.routes,
            vteps: all || settled.vteps != desired.vteps,
            config: all || settled.config != desired.config,
        });
        let actual = match observe::tables(&self.datapath, which) {
            Ok(actual) => actual,
            Err(error) => return report.failure("read the maps", &error),
        };
        let plan = tables::plan(&desired, &actual);
        let repairs = settled
            .filter(|_| !plan.is_empty())
            .map(|settled| tables::plan(settled, &actual));
        let repairs = repairs.unwrap_or_default();
        let mut complete = true;
        for planned in &plan {
            let done = apply::table(&self.datapath, &planned.step);
            complete &= done.is_ok();
            // Thousands of nodes may come at once: only what can be a repair is searched for.
            let repair = !repairs.is_empty() && repairs.contains(planned);
            report.step(planned, repair, done);
        }
        if complete {
            self.settled.tables = Some(desired);
        }
    }

    fn filters(
        &mut self,
        facts: &Facts<'_>,
        overlay: u32,
        lost: &[String],
        changed: bool,
        first: bool,
        report: &mut Report,
    ) {
        let desired = desire::filters(facts, overlay, lost);
        if !changed && desired == self.settled.filters {
            return;
        }
        match self.datapath.repair_pins() {
            Ok(pins) if first => drop(pins),
            Ok(pins) => pins.iter().for_each(|pin| report.repaired_pin(pin)),
            Err(error) => report.failure("pin again what was unpinned", &error),
        }
        let actual = match self.datapath.attachments() {
            Ok(actual) => actual,
            Err(error) => return report.failure("read the attached programs", &error),
        };
        let mut complete = true;
        for planned in filters::plan(&desired, &actual, first) {
            let done = apply::filter(&self.datapath, &planned.step);
            complete &= done.is_ok();
            // A pod that has ended since its filter was planned: the next pass knows.
            if matches!(done, Err(ApplyError::Gone(_))) {
                continue;
            }
            let repair = match &planned.step {
                filters::Step::Attach(f) => self.settled.filters.contains(f),
                filters::Step::Detach(_) => false,
            };
            report.step(&planned, repair, done);
        }
        if complete {
            self.settled.filters = desired;
        }
    }

    fn tell_watch(&self, overlay: u32, pods: &[DesiredPod]) {
        let mut peers: Vec<IpAddr> = self.paths.keys().copied().collect();
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
        let overlay = self.overlay();
        let row = |device: Option<&Device>| {
            device.map_or_else(DeviceRow::default, |d| DeviceRow {
                name: d.name.clone(),
                ifindex: d.ifindex,
                mtu: d.mtu,
            })
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
        view.paths = Arc::clone(&self.paths);
        view.uplink = row(self.uplink.as_ref());
        view.overlay = row(overlay.as_ref());
        view.pod_mtu = self.pods.facts().mtu;
        view.health = report.health;
        view.problems = problems;
        view.problems.extend(self.rejected.clone());
    }
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
