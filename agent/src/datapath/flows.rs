//! Flows that the host translates: they are the programs' own notes, which the agent only preserves.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};

use aya::maps::{MapData, MapInfo};
use oxlan_common::addr::Addr;
use oxlan_common::maps::{FlowKey, FlowValue, PodValue, pod_flags};

use super::load::{FLOWS, PINNED_MAPS};
use super::{Datapath, DatapathError, Table};

impl Datapath {
    /// Flows between pods that the host's stack translates, seen from the pod that answers.
    pub fn flows(&self) -> Table<'_, FlowKey, FlowValue> {
        self.flows.table()
    }

    /// Writes an entry of `PODS` and keeps what the programs have noted in it.
    ///
    /// # Errors
    ///
    /// As for [`Table::set`].
    pub fn write_pod(&self, address: &Addr, value: PodValue) -> Result<(), DatapathError> {
        let before = self.pods().get(address)?;
        let mut value = before.map_or(value, |entry| value.with_marks_of(&entry));
        if self.carried().contains(address) {
            value.flags |= pod_flags::TRANSLATED;
        }
        self.pods().set(address, &value)?;
        let is_marked = value.flags & pod_flags::TRANSLATED != 0;
        if before.is_some() && !is_marked && self.has_flow_of(address)? {
            // A program has marked the entry after it was read here and before it was replaced.
            value.flags |= pod_flags::TRANSLATED;
            self.pods().set(address, &value)?;
        }
        Ok(())
    }

    /// Whether the programs have noted a flow of this pod: they note the flow first and mark the pod then.
    fn has_flow_of(&self, address: &Addr) -> Result<bool, DatapathError> {
        let flows = self.flows().entries()?;
        let mut ends = flows.iter().flat_map(|(flow, _)| [flow.src, flow.dst]);
        Ok(ends.any(|end| end == *address))
    }

    /// Copies a predecessor's flows into new maps, so that connections to services survive an agent of another version.
    ///
    /// What cannot be read is left: the programs note a flow again with its next packet.
    pub(super) fn carry_flows_over(&self) -> Result<(), DatapathError> {
        let path = self.pins.map(FLOWS);
        let spec = PINNED_MAPS.iter().find(|spec| spec.name == FLOWS);
        let info = MapInfo::from_pin(&path);
        if !info.is_ok_and(|info| spec.is_some_and(|spec| spec.has_layout_of(&info))) {
            return Ok(());
        }
        let old = MapData::from_pin(&path).and_then(aya::maps::Map::from_map_data);
        let old = old.and_then(aya::maps::HashMap::<MapData, FlowKey, FlowValue>::try_from);
        let Ok(old) = old else { return Ok(()) };
        let mut ends = BTreeSet::new();
        for (flow, value) in old.iter().flatten() {
            if self.flows().get(&flow)?.is_none() && self.flows().set(&flow, &value).is_ok() {
                ends.extend([flow.src, flow.dst]);
            }
        }
        self.carried().extend(&ends);
        // Who has an entry already gets its mark now, the others when it is written.
        for end in ends {
            if let Some(entry) = self.pods().get(&end)? {
                self.write_pod(&end, entry)?;
            }
        }
        Ok(())
    }

    fn carried(&self) -> MutexGuard<'_, BTreeSet<Addr>> {
        // A set of numbers stays consistent when a holder panics.
        self.carried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
