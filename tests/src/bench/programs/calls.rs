//! What the kernel's helpers take of a program's time: each alone, called once by a program that does nothing else.

use anyhow::{Context, Result, ensure};
use aya::maps::HashMap;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use bytemuck::Zeroable as _;
use oxlan_common::addr::Addr;
use oxlan_common::bench::LOOKED_UP;
use oxlan_common::maps::PodValue;

use super::super::Effort;
use super::super::figures::{Figures, Measure};
use super::{SIZES, batch, branches, context, node};
use crate::binaries::bench_object;

/// `TC_ACT_UNSPEC` (include/uapi/linux/pkt_cls.h), by which a program says that the helper did its work.
const DONE: u32 = u32::MAX;

/// Entries of the map that is looked into.
const ENTRIES: u32 = 1_000;

/// A helper, as the programs call it for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Call {
    Lookup,
    Hash,
    Grow,
    Shrink,
    Store,
    RedirectPeer,
    RedirectNeigh,
}

impl Call {
    pub(in crate::bench) const ALL: [Self; 7] = [
        Self::Lookup,
        Self::Hash,
        Self::Grow,
        Self::Shrink,
        Self::Store,
        Self::RedirectPeer,
        Self::RedirectNeigh,
    ];

    /// Its name in tables.
    pub(in crate::bench) const fn title(self) -> &'static str {
        match self {
            Self::Lookup => "bpf_map_lookup_elem, hash map with 16-byte keys",
            Self::Hash => "bpf_get_hash_recalc",
            Self::Grow => "bpf_skb_adjust_room, 50 bytes more",
            Self::Shrink => "bpf_skb_adjust_room, 50 bytes less",
            Self::Store => "bpf_skb_store_bytes, 64 bytes",
            Self::RedirectPeer => "bpf_redirect_peer",
            Self::RedirectNeigh => "bpf_redirect_neigh",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Lookup => "call_lookup",
            Self::Hash => "call_hash",
            Self::Grow => "call_grow",
            Self::Shrink => "call_shrink",
            Self::Store => "call_store",
            Self::RedirectPeer => "call_redirect_peer",
            Self::RedirectNeigh => "call_redirect_neigh",
        }
    }

    /// Packets that it can be called for.
    fn frames(self) -> Vec<Vec<u8>> {
        if self == Self::Shrink {
            branches::received(SIZES[0])
        } else {
            branches::sent_out(SIZES[0])
        }
    }
}

/// Programs of the benchmark's own object.
pub(super) struct Bare {
    ebpf: Ebpf,
}

impl Bare {
    pub(super) fn load() -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(&bench_object()?)?;
        let names = Call::ALL.map(Call::program);
        for name in names.into_iter().chain(["nothing"]) {
            let program: &mut SchedClassifier = ebpf
                .program_mut(name)
                .with_context(|| format!("no program `{name}`"))?
                .try_into()?;
            program.load()?;
        }
        fill(&mut ebpf)?;
        Ok(Self { ebpf })
    }

    /// What measuring itself costs: nanoseconds per run of the empty program.
    pub(super) fn nothing(&self, runs: usize) -> Result<f64> {
        batch(self.program("nothing")?, node::POD, &[vec![0; 64]], runs)
    }

    /// Nanoseconds per call, measuring included; fails when the helper refuses.
    fn call(&self, call: Call, runs: usize) -> Result<f64> {
        let program = self.program(call.program())?;
        let frames = call.frames();
        let first = program.test_run(TestRunOptions {
            data_in: frames.first().map(Vec::as_slice),
            ctx_in: Some(&context(node::POD)),
            ..TestRunOptions::new()
        })?;
        ensure!(
            first.return_value == DONE,
            "{}: refused ({})",
            call.title(),
            first.return_value
        );
        batch(program, node::POD, &frames, runs)
    }

    fn program(&self, name: &str) -> Result<&SchedClassifier> {
        let program = self.ebpf.program(name);
        Ok(program
            .with_context(|| format!("no program `{name}`"))?
            .try_into()?)
    }
}

fn fill(ebpf: &mut Ebpf) -> Result<()> {
    let map = ebpf.map_mut("ADDRESSES").context("no map `ADDRESSES`")?;
    let mut addresses: HashMap<_, Addr, PodValue> = map.try_into()?;
    addresses.insert(LOOKED_UP, PodValue::zeroed(), 0)?;
    for number in 2..=ENTRIES {
        addresses.insert(node::pod(number, false), PodValue::zeroed(), 0)?;
    }
    Ok(())
}

/// Measures every call, in turn: nanoseconds, less what measuring costs.
pub(super) fn measure(effort: Effort) -> Result<Vec<(Call, f64)>> {
    let bare = Bare::load()?;
    let mut measured = Vec::new();
    // The first round only warms up.
    for round in 0..=effort.rounds() {
        let nothing = bare.nothing(effort.runs())?;
        for call in Call::ALL {
            let time = bare.call(call, effort.runs())? - nothing;
            if round > 0 {
                measured.push((call, time));
            }
        }
    }
    Ok(measured)
}

/// Nanoseconds of these calls together; none if one was not measured.
pub(in crate::bench) fn together(figures: &Figures, calls: &[(Call, u32)]) -> Option<f64> {
    let times = calls.iter().map(|(call, count)| {
        let time = figures.median(Measure::CallTime, call.title())?;
        Some(time * f64::from(*count))
    });
    times.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_add_up_if_all_were_measured() {
        let mut figures = Figures::default();
        let calls = [(Call::Lookup, 3), (Call::Hash, 1)];
        figures.add(Measure::CallTime, Call::Lookup.title(), 20.0);
        assert_eq!(together(&figures, &calls), None);
        figures.add(Measure::CallTime, Call::Hash.title(), 40.0);
        assert_eq!(together(&figures, &calls), Some(100.0));
    }
}
