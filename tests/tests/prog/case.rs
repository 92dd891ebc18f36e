//! One row of a table, and what the kernel is told and says for it.

use oxlan::datapath::Program;
use oxlan_common::counters::{DropReason, Verdict};

/// What a program returns.
pub(crate) const NEXT: u32 = u32::MAX;
pub(crate) const SHOT: u32 = 2;
pub(crate) const REDIRECT: u32 = 7;

/// What a test expects of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done(Verdict),
    Dropped(DropReason),
    /// Passed on and not counted.
    NotOurs,
}

/// A row of a table.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    pub(crate) ifindex: u32,
    pub(crate) gso_size: u32,
    pub(crate) packet: Vec<u8>,
    pub(crate) outcome: Outcome,
    /// The packet as the program leaves it; `None` if it must be as it was.
    pub(crate) out: Option<Vec<u8>>,
}

impl Case {
    pub(crate) fn new(
        name: &'static str,
        (program, ifindex): (Program, u32),
        packet: Vec<u8>,
        outcome: Outcome,
    ) -> Self {
        Self {
            name,
            program,
            ifindex,
            gso_size: 0,
            packet,
            outcome,
            out: None,
        }
    }

    pub(crate) fn gso(mut self, gso_size: u32) -> Self {
        self.gso_size = gso_size;
        self
    }

    pub(crate) fn out(mut self, packet: Vec<u8>) -> Self {
        self.out = Some(packet);
        self
    }
}

/// `struct __sk_buff` (include/uapi/linux/bpf.h) with what a test may set.
pub(crate) fn context(case: &Case) -> [u8; 192] {
    const IFINDEX: usize = 40;
    const GSO_SIZE: usize = 176;
    let mut context = [0; 192];
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&case.ifindex.to_ne_bytes());
    context[GSO_SIZE..GSO_SIZE + 4].copy_from_slice(&case.gso_size.to_ne_bytes());
    context
}

pub(crate) fn counted_slots(outcome: Outcome) -> Vec<(u32, u64)> {
    match outcome {
        Outcome::Done(verdict) => vec![(verdict.slot(), 1)],
        Outcome::Dropped(reason) => vec![(reason.slot(), 1)],
        Outcome::NotOurs => vec![],
    }
}

/// What TC is told.
pub(crate) fn return_value(case: &Case) -> u32 {
    let verdict = match case.outcome {
        Outcome::Done(verdict) => verdict,
        Outcome::Dropped(_) => return SHOT,
        Outcome::NotOurs => return NEXT,
    };
    match verdict {
        // The overlay device goes on with it.
        Verdict::ToVtep if case.program == Program::ToOverlay => NEXT,
        Verdict::LocalPod | Verdict::FromVtep | Verdict::FromVtepXdp | Verdict::ToVtep => REDIRECT,
        Verdict::ToPeer | Verdict::FromPeer => REDIRECT,
        Verdict::ArpReply | Verdict::NdReply | Verdict::TooBig => REDIRECT,
        Verdict::ToHost | Verdict::ToOverlay | Verdict::Translated => NEXT,
        Verdict::Ignored => SHOT,
    }
}

/// Bytes as text, so that a difference can be read.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).map(|line| {
        let words: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        words.join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}
