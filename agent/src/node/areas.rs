//! The areas of a pass: host, nftables, maps, programs. Each compares what is with what should be,
//! and puts it right.

use std::collections::BTreeMap;

use oxlan_common::maps::MAX_HOPS;
use tokio::runtime::Handle;

use super::events::Dirty;
use super::pass::Reconciler;
use super::report::Report;
use crate::cluster::NodeSpec;
use crate::datapath::{DatapathError, HOP_SETS_OPTION};
use crate::host::masquerade::{self, Masquerade};
use crate::host::nftables;
use crate::pods::PodError;
use crate::reconcile::apply::ApplyError;
use crate::reconcile::desire::{self, Facts};
use crate::reconcile::hops::Unspread;
use crate::reconcile::observe::{self, Which};
use crate::reconcile::{Found, Planned, apply, filters, host, tables};

/// A repair can make room for another one (an address for a route); more rounds never help.
const ROUNDS: usize = 4;

impl Reconciler {
    /// Devices, addresses, routes, neighbours, sysctls. Returns the host sides that are gone.
    pub(super) fn host(&mut self, facts: &Facts<'_>, report: &mut Report) -> Vec<String> {
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

    /// Both tables are listed only when the kernel has reported a change of one.
    pub(super) fn nftables(&mut self, own: &NodeSpec, dirty: Dirty, report: &mut Report) {
        self.masquerade(own, dirty, report);
        if !dirty.nftables {
            return;
        }
        let planned = Planned {
            step: "the nftables table inet oxlan_ports",
            found: Found::Different("other rules".into()),
        };
        match Handle::current().block_on(self.pods.repair_ports()) {
            Ok(false) => {}
            Ok(true) => report.step(&planned, true, Ok::<_, PodError>(())),
            Err(error) => report.failure("compare the table of published ports", &error),
        }
    }

    fn masquerade(&mut self, own: &NodeSpec, dirty: Dirty, report: &mut Report) {
        let wanted = Masquerade {
            cluster: self.cluster.network.pod_cidrs.clone(),
            own: own.pod_cidrs.clone(),
            except: self.unmasqueraded.clone(),
            overlay: desire::OVERLAY,
        };
        let settled = self.settled.nftables.as_ref();
        let settled = settled.filter(|(masquerade, _)| *masquerade == wanted);
        if settled.is_some() && !dirty.nftables {
            return;
        }
        let now = match nftables::list(masquerade::TABLE) {
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
            None => Found::Missing,
            Some(_) if repair => Found::Different("other rules".into()),
            Some(_) => Found::Different("a predecessor's".into()),
        };
        let planned = Planned {
            step: "the nftables table inet oxlan",
            found,
        };
        let right = settled.map(|(_, listing)| Some(listing.clone()));
        let done = nftables::settle(right.as_ref(), || {
            wanted.write()?;
            nftables::list(masquerade::TABLE)
        });
        if let Ok(Some(listing)) = &done {
            self.settled.nftables = Some((wanted, listing.clone()));
        }
        report.step(&planned, repair, done);
    }

    pub(super) fn tables(
        &mut self,
        facts: &Facts<'_>,
        overlay: u32,
        all: bool,
        report: &mut Report,
    ) {
        let desired = desire::tables(facts, overlay);
        // After a failure nothing is known of the maps, and the next pass reads them.
        let settled = self.settled.tables.take();
        let known = settled.as_ref().filter(|_| !all);
        // The plugin's ADDs write there, too.
        let which = known.map_or(Which::ALL, |settled| Which {
            pods: settled.pods != desired.pods,
            ..Which::default()
        });
        let actual = match observe::tables(&self.datapath, which) {
            Ok(actual) => actual,
            Err(error) => return report.failure("read the maps", &error),
        };
        let plan = tables::plan(&desired, &actual);
        let repairs = settled
            .as_ref()
            .filter(|_| !plan.is_empty())
            .map(|settled| tables::plan(settled, &actual));
        let repairs = repairs.unwrap_or_default();
        let plan = match settled.filter(|_| !all) {
            None => plan,
            // Who else had changed a map would have been heard of: what was written last is there, and of
            // thousands of entries only those of the nodes that have changed are written.
            Some(settled) => tables::plan(&desired, &settled.except_pods(actual.pods)),
        };
        let mut complete = true;
        let mut no_room: BTreeMap<&str, (String, usize)> = BTreeMap::new();
        for planned in &plan {
            let done = apply::table(&self.datapath, &planned.step);
            complete &= done.is_ok();
            if let Err(ApplyError::Datapath(error @ DatapathError::Full { map, .. })) = &done {
                // Thousands of entries may have no room: that is one problem.
                no_room
                    .entry(map)
                    .or_insert_with(|| (error.to_string(), 0))
                    .1 += 1;
                continue;
            }
            // Thousands of nodes may come at once: only what can be a repair is searched for.
            let repair = !repairs.is_empty() && repairs.contains(planned);
            report.step(planned, repair, done);
        }
        for (error, entries) in no_room.into_values() {
            report.retry(format!("{entries} entries have no room: {error}"));
        }
        report_unspread(desired.unspread, facts.max_hop_sets, report);
        if complete {
            self.settled.tables = Some(desired);
        }
    }

    pub(super) fn filters(
        &mut self,
        facts: &Facts<'_>,
        overlay: u32,
        changed: bool,
        first: bool,
        report: &mut Report,
    ) {
        let mut desired = desire::filters(facts, overlay, &self.seen.lost);
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
        let plan = filters::plan(&desired, &actual, first);
        for planned in plan {
            let done = apply::filter(&self.datapath, &planned.step);
            if let (filters::Step::Attach(f), Err(ApplyError::Datapath(error))) =
                (&planned.step, &done)
                && f.program.is_xdp()
                && self.xdp.does_without(f.ifindex, error)
            {
                desired.remove(f);
                self.choose_xdp(first, report);
                continue;
            }
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
}

/// Flows that are not spread as the kernel's routes ask for.
fn report_unspread(unspread: Unspread, max_hop_sets: u32, report: &mut Report) {
    let Unspread { no_room, cut } = unspread;
    if no_room > 0 {
        report.problem(format!(
            "{no_room} pod CIDRs are behind more different sets of next hops than there is room for ({max_hop_sets}): packets there take the first next hop only; {HOP_SETS_OPTION} makes room"
        ));
    }
    if cut > 0 {
        report.problem(format!(
            "{cut} pod CIDRs are behind more than {MAX_HOPS} equal next hops: packets there take {MAX_HOPS} of them, whichever the kernel names first"
        ));
    }
}
