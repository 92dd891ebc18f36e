//! Loads the programs, pins their maps and links, and gives typed access to the maps.
//!
//! Everything here is synchronous and may be called from any thread. Devices are looked up in the
//! network namespace of the calling thread.

mod attach;
mod batch;
mod clsact;
mod error;
mod features;
mod flows;
mod load;
#[cfg(test)]
mod memory;
mod pins;
mod program;
mod table;
mod watch;
mod xdp;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::links::FdLink;
use oxlan_common::addr::Addr;
use oxlan_common::counters::{DropReason, Verdict};
use oxlan_common::maps::{
    Config, Counter, FlowKey, FlowValue, HopsValue, MAX_FLOWS, MAX_HOP_SETS, MAX_POD_ADDRESSES,
    MAX_ROUTES, MAX_VTEPS, PodValue, RouteKey, RouteValue, VtepValue,
};

pub use attach::{Attached, Attachment};
pub use error::DatapathError;
pub(crate) use error::{brief, chain};
pub use features::{Feature, Probed};
pub use pins::remove_all;
pub use program::{Program, Side};
pub use table::Table;
pub use watch::ChangeWatcher;
pub use xdp::{attached_xdp, foreign_xdp};

#[cfg(test)]
pub(crate) use load::CAPACITY_OPTIONS;
pub(crate) use load::HOP_SETS_OPTION;
use pins::Pins;
use table::TableData;

#[cfg(target_endian = "big")]
compile_error!(
    "programs and agent share maps, and the programs are built for little-endian machines only"
);

/// The BPF object, built by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("OXLAN_BPF_OBJECT"));

/// Where the datapath is pinned and how much it can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Directory for pins, on a bpffs; created when absent.
    pub bpf_dir: PathBuf,
    /// Capacity of `PODS`: addresses of the pods of this node.
    pub max_pod_addresses: u32,
    /// Capacity of `ROUTES`: pod CIDRs of the whole cluster.
    pub max_routes: u32,
    /// Capacity of `VTEPS`: nodes of the whole cluster.
    pub max_vteps: u32,
    /// Capacity of `FLOWS`: flows between pods that the host translates.
    pub max_flows: u32,
    /// Different sets of equal next hops; `HOPS` has room for twice as many.
    pub max_hop_sets: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bpf_dir: PathBuf::from("/sys/fs/bpf/oxlan"),
            max_pod_addresses: MAX_POD_ADDRESSES,
            max_routes: MAX_ROUTES,
            max_vteps: MAX_VTEPS,
            max_flows: MAX_FLOWS,
            max_hop_sets: MAX_HOP_SETS,
        }
    }
}

/// The loaded programs and their maps.
///
/// Dropping it detaches nothing: pins keep the programs forwarding.
pub struct Datapath {
    pins: Pins,
    mode: AttachMode,
    taken_over: bool,
    /// See [`Feature::FrameFragments`].
    redirects_frags: bool,
    /// Second handles to the pinned maps, by name.
    pinned: Vec<(&'static str, MapData)>,
    loaded: Mutex<Loaded>,
    pods: TableData<Addr, PodValue>,
    routes: TableData<RouteKey, RouteValue>,
    vteps: TableData<Addr, VtepValue>,
    hops: TableData<u32, HopsValue>,
    flows: TableData<FlowKey, FlowValue>,
    /// Ends of flows that were taken over into new maps.
    carried: Mutex<BTreeSet<Addr>>,
    config: Mutex<aya::maps::Array<MapData, Config>>,
    counters: PerCpuArray<MapData, Counter>,
    audit: Mutex<Option<RingBuf<MapData>>>,
}

/// What attaching changes.
struct Loaded {
    ebpf: Ebpf,
    /// Held so that a pin that somebody removes does not detach the program.
    links: BTreeMap<(Program, u32), FdLink>,
    /// The maps are new and their pins are not yet where a successor looks for them.
    staged: bool,
}

/// How TC programs are attached to devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// TCX links: Linux 6.6 (commit e420bed02507, "bpf: Add fd-based tcx multi-prog infra with link support").
    /// A pod's device has a filter all the same, because it is made faster.
    Tcx,
    /// Filters of the `clsact` queueing discipline, for older kernels.
    Clsact,
}

impl Datapath {
    /// Loads the programs, on the maps that a predecessor has pinned if their layout is the same, otherwise on new ones.
    ///
    /// Nothing is attached. New maps are pinned aside until [`commit`](Self::commit), so that an
    /// agent that dies half way leaves its predecessor's datapath as it was.
    ///
    /// # Errors
    ///
    /// The bpffs is missing or not writable, or the kernel refuses a map or a program.
    pub fn open(options: Options) -> Result<Self, DatapathError> {
        Self::open_with(options, AttachMode::of_this_kernel())
    }

    /// [`open`](Self::open) with the way to attach given.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn open_with(options: Options, mode: AttachMode) -> Result<Self, DatapathError> {
        load::open(&options, mode)
    }

    /// Whether the maps had been pinned by a predecessor, so that their entries are worth reading.
    #[must_use]
    pub fn taken_over(&self) -> bool {
        self.taken_over
    }

    /// Takes over what a predecessor's programs have noted up to now, if the maps are new. To be called once more
    /// right before its programs are replaced; [`commit`](Self::commit) does the same for the last of them.
    ///
    /// # Errors
    ///
    /// An entry cannot be written.
    pub fn catch_up(&self) -> Result<(), DatapathError> {
        if self.lock().staged {
            self.carry_flows_over()?;
        }
        Ok(())
    }

    /// Makes new maps and programs the ones that a successor finds. Call it when they are filled and attached.
    ///
    /// # Errors
    ///
    /// A pin cannot be made or moved.
    pub fn commit(&self) -> Result<(), DatapathError> {
        let mut loaded = self.lock();
        if loaded.staged {
            // The predecessor's programs have gone on noting flows until the last one was replaced.
            self.carry_flows_over()?;
            self.pins.unstage_maps()?;
            loaded.staged = false;
        }
        self.pins.pin_programs(&mut loaded.ebpf)
    }

    /// Loads and pins a program that is [optional](Program::is_optional), unless it is loaded.
    ///
    /// # Errors
    ///
    /// The kernel refuses the program, or the pin cannot be made.
    pub fn load(&self, program: Program) -> Result<(), DatapathError> {
        self.load_late(&mut self.lock(), program)
    }

    fn load_late(&self, loaded: &mut Loaded, program: Program) -> Result<(), DatapathError> {
        let is_new = load::load_late(&mut loaded.ebpf, program)?;
        // Else it is pinned with all others.
        if is_new && !loaded.staged {
            self.pins.pin_program(&mut loaded.ebpf, program)?;
        }
        Ok(())
    }

    /// Pins again whatever should be pinned and is not, and says what that was.
    ///
    /// # Errors
    ///
    /// A pin cannot be made.
    pub fn repair_pins(&self) -> Result<Vec<String>, DatapathError> {
        let mut loaded = self.lock();
        let mut repaired = Vec::new();
        self.pins.create_dirs()?;
        if !loaded.staged {
            let missing = self.pins.missing_programs(&loaded.ebpf);
            if !missing.is_empty() {
                self.pins.pin_programs(&mut loaded.ebpf)?;
            }
            repaired.extend(missing.iter().map(|path| path.display().to_string()));
            for (name, map) in &self.pinned {
                self.pins
                    .repair(&self.pins.map(name), &mut repaired, |path| map.pin(path))?;
            }
        }
        self.repair_links(&mut loaded, &mut repaired)?;
        Ok(repaired)
    }

    /// Pod addresses of this node.
    #[must_use]
    pub fn pods(&self) -> Table<'_, Addr, PodValue> {
        self.pods.table()
    }

    /// Pod CIDRs of the cluster, and the VTEPs behind them.
    #[must_use]
    pub fn routes(&self) -> Table<'_, RouteKey, RouteValue> {
        self.routes.table()
    }

    /// Sets of equal next hops, to which routes refer.
    #[must_use]
    pub fn hops(&self) -> Table<'_, u32, HopsValue> {
        self.hops.table()
    }

    /// Nodes from which encapsulated packets are accepted.
    #[must_use]
    pub fn vteps(&self) -> Table<'_, Addr, VtepValue> {
        self.vteps.table()
    }

    /// The configuration that the programs use now.
    ///
    /// # Errors
    ///
    /// The kernel refuses to read the map.
    pub fn config(&self) -> Result<Config, DatapathError> {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.get(&0, 0).map_err(DatapathError::map("CONFIG"))
    }

    /// Gives the programs a new configuration.
    ///
    /// # Errors
    ///
    /// The kernel refuses to write the map.
    pub fn set_config(&self, value: &Config) -> Result<(), DatapathError> {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        config
            .set(0, *value, 0)
            .map_err(DatapathError::map("CONFIG"))
    }

    /// Every slot of `COUNTERS` that has a meaning, summed over all CPUs.
    ///
    /// # Errors
    ///
    /// The kernel refuses to read the map.
    pub fn counters(&self) -> Result<Vec<(u32, Counter)>, DatapathError> {
        let verdicts = Verdict::ALL.iter().map(|verdict| verdict.slot());
        let drops = DropReason::ALL.iter().map(|reason| reason.slot());
        verdicts
            .chain(drops)
            .map(|slot| Ok((slot, self.counter(slot)?)))
            .collect()
    }

    fn counter(&self, slot: u32) -> Result<Counter, DatapathError> {
        let per_cpu = self
            .counters
            .get(&slot, 0)
            .map_err(DatapathError::map("COUNTERS"))?;
        Ok(per_cpu.iter().fold(Counter::default(), |sum, cpu| Counter {
            packets: sum.packets.wrapping_add(cpu.packets),
            bytes: sum.bytes.wrapping_add(cpu.bytes),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Loaded> {
        // What the guard protects stays consistent when a holder panics: each step is one system call.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
