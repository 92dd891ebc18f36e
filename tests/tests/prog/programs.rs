//! The loaded programs, and how a row of a table is run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::{Map, MapData, MapInfo, PerCpuArray, PerCpuValues};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::util::nr_cpus;
use aya_obj::programs::XdpAttachType;
use bytemuck::Zeroable as _;
use oxlan::datapath::{Datapath, Options, Program, Table};
use oxlan_common::maps::{Config, Counter};

use crate::case::{Case, context, counted_slots, hex, return_value};

/// What a row of a table needs. It costs the verifier's work, seconds on an emulated processor, so tests that change
/// nothing but entries of maps use it one after the other.
pub(crate) struct Programs {
    pub(crate) datapath: Datapath,
    classifiers: BTreeMap<&'static str, SchedClassifier>,
    xdp: Xdp,
}

impl Programs {
    /// Runs one row and compares everything: return value, counters, packet.
    ///
    /// What `from_uplink` decides about a packet, `xdp_uplink` decides about the same bytes.
    pub(crate) fn check(&self, case: &Case) {
        let name = case.name;
        let before = self.counters();
        let (returned, packet) = self.run(case);
        let counted = self.counted_since(before);
        assert_eq!(counted, counted_slots(case.outcome), "{name}: counters");
        assert_eq!(returned, return_value(case), "{name}: returned");
        let wanted = case.out.as_ref().unwrap_or(&case.packet);
        assert_eq!(hex(&packet), hex(wanted), "{name}: packet out");
        // There are no aggregates yet where XDP runs.
        if case.program == Program::FromUplink && case.gso_size == 0 {
            self.check_frame(case);
        }
    }

    /// Runs one row; returns what the program returned and what was counted meanwhile.
    pub(crate) fn counted(&self, case: &Case) -> (u32, Vec<(u32, u64)>) {
        let before = self.counters();
        let (returned, _) = self.run(case);
        (returned, self.counted_since(before))
    }

    /// What was counted since `before`: slots and packets.
    pub(crate) fn counted_since(&self, before: Vec<(u32, Counter)>) -> Vec<(u32, u64)> {
        self.counters()
            .into_iter()
            .zip(before)
            .filter(|(now, before)| now != before)
            .map(|((slot, now), (_, before))| (slot, now.packets - before.packets))
            .collect()
    }

    pub(crate) fn check_all(&self, cases: &[Case]) {
        for case in cases {
            self.check(case);
        }
    }

    /// Runs one row; returns what the program returned and the packet as it left it.
    pub(crate) fn run(&self, case: &Case) -> (u32, Vec<u8>) {
        let mut out = vec![0; 4096];
        let context = context(case);
        let result = self
            .program(case.program)
            .test_run(TestRunOptions {
                data_in: Some(&case.packet),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                ..TestRunOptions::new()
            })
            .expect(case.name);
        out.truncate(usize::try_from(result.data_size_out).expect("a size"));
        (result.return_value, out)
    }

    /// Loads them, and pins them and their maps in a directory.
    pub(crate) fn load(options: Options) -> Self {
        let pin = |program| program_pin(&options.bpf_dir, program);
        let datapath = Datapath::open(options.clone()).expect("the programs load");
        datapath.load(Program::XdpUplink).expect("XDP loads");
        datapath.commit().expect("pins");
        let classifiers = Program::ALL.into_iter().filter(|program| !program.is_xdp());
        let open = |program: Program| {
            let opened = SchedClassifier::from_pin(pin(program)).expect("a pinned program");
            (program.name(), opened)
        };
        Self {
            datapath,
            classifiers: classifiers.map(open).collect(),
            xdp: Xdp::from_pin(pin(Program::XdpUplink), XdpAttachType::Interface)
                .expect("a pinned program"),
        }
    }

    fn program(&self, program: Program) -> &SchedClassifier {
        &self.classifiers[program.name()]
    }

    pub(crate) fn xdp(&self) -> &Xdp {
        &self.xdp
    }

    /// Makes all maps what they were when they were new, but for the counters.
    pub(crate) fn empty(&self) {
        let datapath = &self.datapath;
        clear(&datapath.pods());
        clear(&datapath.routes());
        clear(&datapath.vteps());
        clear(&datapath.hops());
        clear(&datapath.flows());
        datapath
            .set_config(&Config::zeroed())
            .expect("a configuration");
        for map in self.timestamps() {
            let mut map = PerCpuArray::<_, u64>::try_from(map).expect("an array of times");
            for bucket in 0..map.len() {
                let never = PerCpuValues::try_from(vec![0; nr_cpus().expect("CPUs")]);
                map.set(bucket, never.expect("values"), 0)
                    .expect("a bucket");
            }
        }
    }

    /// The maps in which programs remember when something was.
    fn timestamps(&self) -> Vec<Map> {
        let used = |program: &SchedClassifier| {
            let ids = program.info().and_then(|info| info.map_ids());
            ids.expect("what the kernel says").unwrap_or_default()
        };
        let mut maps = BTreeMap::new();
        for id in self.classifiers.values().flat_map(used) {
            let info = MapInfo::from_id(id).expect("a map");
            if matches!(info.name_as_str(), Some("BULK" | "ANSWERS")) {
                let map = MapData::from_id(id).and_then(Map::from_map_data);
                maps.insert(id, map.expect("a map"));
            }
        }
        assert_eq!(maps.len(), 2, "both are used by programs");
        maps.into_values().collect()
    }

    pub(crate) fn counters(&self) -> Vec<(u32, Counter)> {
        self.datapath.counters().expect("counters")
    }
}

fn clear<K: Pod, V: Pod>(table: &Table<'_, K, V>) {
    for (key, _) in table.entries().expect("entries can be read") {
        table.remove(&key).expect("an entry can be removed");
    }
}

/// Where a program is pinned.
pub(crate) fn program_pin(bpf_dir: &Path, program: Program) -> PathBuf {
    bpf_dir.join("progs").join(program.name())
}
