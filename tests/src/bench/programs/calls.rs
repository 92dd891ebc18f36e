//! What the kernel's helpers take of a program's time: each alone, called once by a program that does nothing else.

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, ProgramArray};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use bytemuck::Zeroable as _;
use oxlan::datapath::Program;
use oxlan_common::addr::Addr;
use oxlan_common::bench::{HOP_SETS, LOOKED_UP};
use oxlan_common::maps::{HopsValue, PodValue};

use super::super::Effort;
use super::super::figures::{Figures, Measure};
use super::batch::{Batch, Under};
use super::fib::Routes;
use super::{SIZES, Way, frames, node, pin_to_one_cpu, statistics};
use crate::binaries::bench_object;
use crate::netns::Netns;
use crate::scope::Scope;

/// `TC_ACT_UNSPEC` (include/uapi/linux/pkt_cls.h), by which a program says that the helper did its work.
const DONE: u32 = u32::MAX;

/// Entries of the map that is looked into.
const ENTRIES: u32 = 1_000;

/// A helper, as the programs call it for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Call {
    Lookup,
    Hops,
    Fib(Routes),
    Hash,
    Grow,
    Shrink,
    Store,
    RedirectPeer,
    RedirectNeigh,
}

impl Call {
    pub(in crate::bench) const ALL: [Self; 12] = [
        Self::Lookup,
        Self::Hops,
        Self::Fib(Routes::One),
        Self::Fib(Routes::Many),
        Self::Fib(Routes::EqualHops),
        Self::Fib(Routes::Rules),
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
            Self::Hops => "bpf_map_lookup_elem of a set of next hops, and the choice of one",
            Self::Fib(routes) => routes.title(),
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
            Self::Hops => "call_hops",
            Self::Fib(_) => "call_fib",
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
        let [small, .., large] = SIZES;
        match self {
            Self::Shrink => frames::received(small, Way::Vxlan, false),
            Self::Fib(_) => frames::to_nodes(large, false),
            Self::Lookup
            | Self::Hops
            | Self::Hash
            | Self::Grow
            | Self::Store
            | Self::RedirectPeer
            | Self::RedirectNeigh => frames::to_nodes(small, false),
        }
    }
}

/// Programs of the benchmark's own object.
pub(super) struct Bare {
    ebpf: Ebpf,
}

/// What measuring costs: nanoseconds per run of programs that do nothing, or only what is done before ours.
pub(super) struct Nothing {
    tc: f64,
    xdp: f64,
    tunnel_key: f64,
}

impl Nothing {
    /// What is measured along with this program.
    pub(super) const fn before(&self, program: Program) -> f64 {
        match program {
            Program::XdpUplink => self.xdp,
            Program::FromOverlay => self.tunnel_key,
            Program::FromPod | Program::ToPod | Program::FromUplink | Program::ToOverlay => self.tc,
        }
    }
}

impl Bare {
    pub(super) fn load() -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(&bench_object()?)?;
        let names = Call::ALL.map(Call::program);
        let others = ["nothing", "with_tunnel_key", "call_from_overlay"];
        for name in names.into_iter().chain(others) {
            let program: &mut SchedClassifier = ebpf
                .program_mut(name)
                .with_context(|| format!("no program `{name}`"))?
                .try_into()?;
            // Several routes are looked up by the same one.
            if program.fd().is_err() {
                program.load()?;
            }
        }
        let xdp: &mut Xdp = ebpf
            .program_mut("xdp_drop")
            .context("no program `xdp_drop`")?
            .try_into()?;
        xdp.load()?;
        fill(&mut ebpf)?;
        Ok(Self { ebpf })
    }

    /// The same in front of the agent's `from_overlay`.
    pub(super) fn before(mut self, from_overlay: &SchedClassifier) -> Result<Self> {
        let map = self.ebpf.map_mut("FROM_OVERLAY").context("no map")?;
        let mut next: ProgramArray<_> = map.try_into()?;
        next.set(0, from_overlay.fd()?, 0)?;
        Ok(self)
    }

    /// `from_overlay`, after a packet got the tunnel's metadata.
    pub(super) fn overlay(&self) -> Result<Under<'_>> {
        self.program("call_from_overlay")
    }

    pub(super) fn nothing(&self, runs: usize) -> Result<Nothing> {
        let time = |program, frames: &[Vec<u8>]| {
            let ifindex = node::OVERLAY;
            let batch = Batch {
                ifindex,
                frames,
                runs,
            };
            batch.time(program)
        };
        let empty = [vec![0; 64]];
        let xdp = self.ebpf.program("xdp_drop").context("no program")?;
        Ok(Nothing {
            tc: time(self.program("nothing")?, &empty)?,
            xdp: time(Under::Xdp(xdp.try_into()?), &empty)?,
            tunnel_key: time(
                self.program("with_tunnel_key")?,
                &frames::decapsulated(SIZES[0]),
            )?,
        })
    }

    /// Nanoseconds per call, less what measuring costs; fails when the helper refuses.
    fn call(&self, call: Call, runs: usize) -> Result<f64> {
        let program = self.program(call.program())?;
        let frames = call.frames();
        for frame in &frames {
            let returned = program.run(frame, node::POD)?;
            ensure!(returned == DONE, "{}: refused ({returned})", call.title());
        }
        let batch = |frames| Batch {
            ifindex: node::POD,
            frames,
            runs,
        };
        let empty = [vec![0; 64]];
        let nothing = batch(&empty).time(self.program("nothing")?)?;
        Ok(batch(&frames).time(program)? - nothing)
    }

    fn program(&self, name: &str) -> Result<Under<'_>> {
        let program = self.ebpf.program(name);
        let program = program.with_context(|| format!("no program `{name}`"))?;
        Ok(Under::Tc(program.try_into()?))
    }
}

fn fill(ebpf: &mut Ebpf) -> Result<()> {
    let map = ebpf.map_mut("ADDRESSES").context("no map `ADDRESSES`")?;
    let mut addresses: HashMap<_, Addr, PodValue> = map.try_into()?;
    addresses.insert(LOOKED_UP, PodValue::zeroed(), 0)?;
    for number in 2..=ENTRIES {
        addresses.insert(node::pod(number, false), PodValue::zeroed(), 0)?;
    }
    let map = ebpf.map_mut("SETS").context("no map `SETS`")?;
    let mut sets: HashMap<_, u32, HopsValue> = map.try_into()?;
    for number in 1..=HOP_SETS {
        sets.insert(number, node::hops(), 0)?;
    }
    Ok(())
}

/// Measures every call, in turn: nanoseconds, less what measuring costs.
pub(super) fn measure(effort: Effort, scope: &Scope) -> Result<Vec<(Call, f64)>> {
    let bare = Bare::load()?;
    let _statistics = statistics()?;
    let places = Call::ALL.iter().map(|call| place(*call, scope));
    let places: Vec<Netns> = places.collect::<Result<_>>()?;
    let mut measured = Vec::new();
    // The first round only warms up.
    for round in 0..=effort.rounds() {
        for (call, place) in Call::ALL.into_iter().zip(&places) {
            let time = place.inside(|| {
                pin_to_one_cpu()?;
                bare.call(call, effort.runs())
            })?;
            if round > 0 {
                measured.push((call, time));
            }
        }
    }
    Ok(measured)
}

/// A namespace with the devices, and with the routes that the call looks up.
fn place(call: Call, scope: &Scope) -> Result<Netns> {
    let netns = scope.netns(&if let Call::Fib(routes) = call {
        routes.name().to_owned()
    } else {
        call.program().replace('_', "-")
    })?;
    netns.inside(node::add_devices)?;
    if let Call::Fib(routes) = call {
        routes.add(&netns, &scope.dir())?;
    }
    Ok(netns)
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
