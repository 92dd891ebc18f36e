//! Loads the object, on a predecessor's maps where that is possible.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::thread::ScopedJoinHandle;

use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuArray, RingBuf};
use aya::pin::PinError;
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use oxlan_common::addr::Addr;
use oxlan_common::counters::SLOTS;
use oxlan_common::maps::{
    Config, Counter, FlowKey, FlowValue, HopsValue, MAP_ABI, PodValue, RouteKey, RouteValue,
    VtepValue, hop_sets_capacity,
};

use super::pins::Pins;
use super::table::TableData;
use super::{AttachMode, Datapath, DatapathError, Loaded, OBJECT, Options, Program, features};

/// `BPF_F_NO_PREALLOC` (include/uapi/linux/bpf.h).
const NO_PREALLOC: u32 = 1;

/// Name of the map of translated flows.
pub(super) const FLOWS: &str = "FLOWS";

/// The options of `oxlan agent` that set the capacities of `PODS`, `ROUTES`, `VTEPS`, `FLOWS` and `HOPS`.
pub(crate) const CAPACITY_OPTIONS: [&str; 5] = [
    "--max-pods",
    "--max-routes",
    "--max-nodes",
    "--max-flows",
    HOP_SETS_OPTION,
];

/// The one for `HOPS`, which the reconciler never fills: it counts the sets itself.
pub(crate) const HOP_SETS_OPTION: &str = "--max-hop-sets";

/// What a map must look like to be used by this version's programs.
pub(super) struct MapSpec {
    pub(super) name: &'static str,
    kind: MapType,
    key_size: usize,
    value_size: usize,
    flags: u32,
    capacity: Capacity,
}

enum Capacity {
    Fixed(u32),
    Option(fn(&Options) -> u32),
}

/// The maps that outlive the agent.
pub(super) const PINNED_MAPS: [MapSpec; 7] = [
    MapSpec {
        name: "PODS",
        kind: MapType::Hash,
        key_size: size_of::<Addr>(),
        value_size: size_of::<PodValue>(),
        flags: NO_PREALLOC,
        capacity: Capacity::Option(|options| options.max_pod_addresses),
    },
    MapSpec {
        name: "ROUTES",
        kind: MapType::Hash,
        key_size: size_of::<RouteKey>(),
        value_size: size_of::<RouteValue>(),
        flags: NO_PREALLOC,
        capacity: Capacity::Option(|options| options.max_routes),
    },
    MapSpec {
        name: "VTEPS",
        kind: MapType::Hash,
        key_size: size_of::<Addr>(),
        value_size: size_of::<VtepValue>(),
        flags: NO_PREALLOC,
        capacity: Capacity::Option(|options| options.max_vteps),
    },
    MapSpec {
        name: "HOPS",
        kind: MapType::Hash,
        key_size: size_of::<u32>(),
        value_size: size_of::<HopsValue>(),
        flags: 0,
        capacity: Capacity::Option(|options| hop_sets_capacity(options.max_hop_sets)),
    },
    MapSpec {
        name: FLOWS,
        kind: MapType::LruHash,
        key_size: size_of::<FlowKey>(),
        value_size: size_of::<FlowValue>(),
        flags: 0,
        capacity: Capacity::Option(|options| options.max_flows),
    },
    MapSpec {
        name: "CONFIG",
        kind: MapType::Array,
        key_size: size_of::<u32>(),
        value_size: size_of::<Config>(),
        flags: 0,
        capacity: Capacity::Fixed(1),
    },
    MapSpec {
        name: "COUNTERS",
        kind: MapType::PerCpuArray,
        key_size: size_of::<u32>(),
        value_size: size_of::<Counter>(),
        flags: 0,
        capacity: Capacity::Fixed(SLOTS),
    },
];

impl MapSpec {
    fn capacity(&self, options: &Options) -> u32 {
        match self.capacity {
            Capacity::Fixed(capacity) => capacity,
            Capacity::Option(capacity) => capacity(options),
        }
    }

    /// Whether a pinned map can be used as it is.
    fn fits(&self, info: &MapInfo, options: &Options) -> bool {
        self.has_layout_of(info) && info.max_entries() == self.capacity(options)
    }

    /// Whether the entries of a pinned map can be read.
    pub(super) fn has_layout_of(&self, info: &MapInfo) -> bool {
        info.map_type().is_ok_and(|kind| kind == self.kind)
            && usize::try_from(info.key_size()) == Ok(self.key_size)
            && usize::try_from(info.value_size()) == Ok(self.value_size)
            && info.map_flags() == self.flags
    }
}

pub(super) fn open(options: &Options, mode: AttachMode) -> Result<Datapath, DatapathError> {
    let pins = Pins::create(&options.bpf_dir)?;
    let taken_over = can_take_over(&pins, options);
    let map_dir = if taken_over {
        pins.remove_staged()?;
        pins.maps()
    } else {
        pins.stage_maps()?
    };
    let redirects_frags = features::redirects_frags();
    let mut ebpf = load(options, &map_dir, redirects_frags)?;
    load_programs(&mut ebpf)?;
    let pinned = reopen_pins(&map_dir)?;
    let mut datapath = assemble(options, pins, mode, taken_over, ebpf, pinned)?;
    datapath.redirects_frags = redirects_frags;
    datapath.catch_up()?;
    Ok(datapath)
}

/// The pinned maps once more: handles to pin them again with, should somebody remove a pin.
fn reopen_pins(map_dir: &Path) -> Result<Vec<(&'static str, MapData)>, DatapathError> {
    PINNED_MAPS
        .iter()
        .map(|spec| {
            let path = map_dir.join(spec.name.to_ascii_lowercase());
            let map = MapData::from_pin(path).map_err(DatapathError::map(spec.name))?;
            Ok((spec.name, map))
        })
        .collect()
}

fn assemble(
    options: &Options,
    pins: Pins,
    mode: AttachMode,
    taken_over: bool,
    mut ebpf: Ebpf,
    pinned: Vec<(&'static str, MapData)>,
) -> Result<Datapath, DatapathError> {
    let [for_pods, for_routes, for_nodes, for_flows, for_hops] = CAPACITY_OPTIONS;
    let hop_sets = hop_sets_capacity(options.max_hop_sets);
    Ok(Datapath {
        pins,
        mode,
        taken_over,
        redirects_frags: false,
        pinned,
        pods: table(&mut ebpf, "PODS", options.max_pod_addresses, for_pods)?,
        routes: table(&mut ebpf, "ROUTES", options.max_routes, for_routes)?,
        vteps: table(&mut ebpf, "VTEPS", options.max_vteps, for_nodes)?,
        hops: table(&mut ebpf, "HOPS", hop_sets, for_hops)?,
        flows: table(&mut ebpf, FLOWS, options.max_flows, for_flows)?,
        carried: Mutex::new(BTreeSet::new()),
        config: Mutex::new(typed::<Array<MapData, Config>>(&mut ebpf, "CONFIG")?),
        counters: typed::<PerCpuArray<MapData, Counter>>(&mut ebpf, "COUNTERS")?,
        audit: Mutex::new(Some(typed::<RingBuf<MapData>>(&mut ebpf, "AUDIT")?)),
        loaded: Mutex::new(Loaded {
            ebpf,
            links: BTreeMap::new(),
            staged: !taken_over,
        }),
    })
}

/// All maps are pinned, with the layout and the meaning that this version knows.
fn can_take_over(pins: &Pins, options: &Options) -> bool {
    let same_layout = PINNED_MAPS.iter().all(|spec| {
        MapInfo::from_pin(pins.map(spec.name)).is_ok_and(|info| spec.fits(&info, options))
    });
    same_layout && pinned_abi(&pins.map("CONFIG")).is_ok_and(|abi| abi == MAP_ABI || abi == 0)
}

fn pinned_abi(path: &Path) -> Result<u32, MapError> {
    let map = Map::from_map_data(MapData::from_pin(path)?)?;
    let config: Array<MapData, Config> = map.try_into()?;
    config.get(&0, 0).map(|config| config.abi)
}

fn load(options: &Options, map_dir: &Path, redirects_frags: bool) -> Result<Ebpf, DatapathError> {
    let own_pid = std::process::id();
    let mut loader = EbpfLoader::new();
    loader.override_global("AGENT_PID", &own_pid, true);
    let redirects_frags = u32::from(redirects_frags);
    loader.override_global("REDIRECTS_FRAGS", &redirects_frags, true);
    for spec in &PINNED_MAPS {
        loader.map_max_entries(spec.name, spec.capacity(options));
        loader.map_pin_path(spec.name, map_dir.join(spec.name.to_ascii_lowercase()));
    }
    loader
        .load(OBJECT)
        .map_err(|error| DatapathError::Load(Box::new(error)))
}

/// Loads, side by side, the programs that every node needs: most of an agent's start is the kernel's verifier, which
/// takes one program per processor.
fn load_programs(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    let mut parts: BTreeMap<String, _> = ebpf
        .programs_mut()
        .map(|(name, part)| (name.to_owned(), part))
        .collect();
    let needed = Program::ALL.into_iter().filter(|p| !p.is_optional());
    std::thread::scope(|scope| {
        let mut start = |program: Program| {
            let part = parts.remove(program.name());
            scope.spawn(move || load_program(program, part))
        };
        let loads: Vec<_> = needed.map(&mut start).collect();
        let join = |load: ScopedJoinHandle<'_, _>| {
            load.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        loads.into_iter().try_for_each(join)
    })
}

/// Whether the kernel has a program of the object.
pub(super) fn is_loaded(ebpf: &Ebpf, program: Program) -> bool {
    let part = ebpf.program(program.name());
    part.is_some_and(|part| part.fd().is_ok())
}

/// Loads a program that was not needed up to now, and says whether it had to.
pub(super) fn load_late(ebpf: &mut Ebpf, program: Program) -> Result<bool, DatapathError> {
    if is_loaded(ebpf, program) {
        return Ok(false);
    }
    load_program(program, ebpf.program_mut(program.name())).map(|()| true)
}

fn load_program(
    program: Program,
    part: Option<&mut aya::programs::Program>,
) -> Result<(), DatapathError> {
    let part = part.ok_or_else(|| missing(program))?;
    let loaded = if program.is_xdp() {
        <&mut Xdp>::try_from(part).and_then(Xdp::load)
    } else {
        <&mut SchedClassifier>::try_from(part).and_then(SchedClassifier::load)
    };
    loaded.map_err(DatapathError::program(program.name(), "loading"))
}

fn missing(program: Program) -> DatapathError {
    DatapathError::Missing {
        kind: "program",
        name: program.name(),
    }
}

/// Pins a program of the object.
pub(super) fn pin_program(
    ebpf: &mut Ebpf,
    program: Program,
    path: &Path,
) -> Result<Result<(), PinError>, DatapathError> {
    Ok(if program.is_xdp() {
        xdp(ebpf, program)?.pin(path)
    } else {
        classifier(ebpf, program)?.pin(path)
    })
}

/// The kernel's number of a program of the object.
pub(super) fn program_id(ebpf: &mut Ebpf, program: Program) -> Result<Option<u32>, DatapathError> {
    let info = if program.is_xdp() {
        xdp(ebpf, program)?.info()
    } else {
        classifier(ebpf, program)?.info()
    };
    Ok(info.ok().map(|info| info.id()))
}

/// The TC program in the object.
pub(super) fn classifier(
    ebpf: &mut Ebpf,
    program: Program,
) -> Result<&mut SchedClassifier, DatapathError> {
    typed_program(ebpf, program)
}

/// The XDP program in the object.
pub(super) fn xdp(ebpf: &mut Ebpf, program: Program) -> Result<&mut Xdp, DatapathError> {
    typed_program(ebpf, program)
}

fn typed_program<'e, P>(ebpf: &'e mut Ebpf, program: Program) -> Result<P, DatapathError>
where
    P: TryFrom<&'e mut aya::programs::Program, Error = ProgramError>,
{
    let name = program.name();
    ebpf.program_mut(name)
        .ok_or_else(|| missing(program))?
        .try_into()
        .map_err(DatapathError::program(name, "loading"))
}

fn table<K: Pod, V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
    capacity: u32,
    option: &'static str,
) -> Result<TableData<K, V>, DatapathError> {
    let map = Mutex::new(typed::<HashMap<MapData, K, V>>(ebpf, name)?);
    Ok(TableData {
        name,
        capacity,
        option,
        map,
    })
}

/// Takes a map out of the object and gives it its type.
fn typed<M: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, DatapathError> {
    ebpf.take_map(name)
        .ok_or(DatapathError::Missing { kind: "map", name })?
        .try_into()
        .map_err(DatapathError::map(name))
}
