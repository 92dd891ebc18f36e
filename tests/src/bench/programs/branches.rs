//! The ways of a packet through each program.

use oxlan::datapath::Program;
use oxlan_common::counters::{DropReason, Verdict};

use super::calls::Call;
use super::node::{OVERLAY, POD, UPLINK, Way};
use super::{Size, frames};

/// One way through a program.
pub(super) struct Branch {
    pub(super) name: &'static str,
    pub(super) program: Program,
    /// Slot in which the program must count every packet; none if it must count nothing.
    pub(super) slot: Option<u32>,
    /// Whether the program limits how often it does this.
    pub(super) is_limited: bool,
    pub(super) frames: Vec<Vec<u8>>,
}

impl Branch {
    fn counted(
        name: &'static str,
        program: Program,
        slot: Option<u32>,
        frames: Vec<Vec<u8>>,
    ) -> Self {
        Self {
            name,
            program,
            slot,
            is_limited: slot == Some(Verdict::TooBig.slot()),
            frames,
        }
    }

    fn new(name: &'static str, program: Program, verdict: Verdict, frames: Vec<Vec<u8>>) -> Self {
        Self::counted(name, program, Some(verdict.slot()), frames)
    }

    fn refused(
        name: &'static str,
        program: Program,
        reason: DropReason,
        frames: Vec<Vec<u8>>,
    ) -> Self {
        Self::counted(name, program, Some(reason.slot()), frames)
    }

    /// Device that the packet comes in by.
    pub(super) const fn ifindex(&self) -> u32 {
        match self.program {
            Program::FromPod | Program::ToPod => POD,
            Program::FromUplink | Program::XdpUplink => UPLINK,
            Program::FromOverlay | Program::ToOverlay => OVERLAY,
        }
    }
}

/// Whether a branch forwards packets, which the goals are about. Others answer or drop them.
pub(in crate::bench) fn forwards(name: &str) -> bool {
    [": answer", ": drop"]
        .iter()
        .all(|what| !name.contains(what))
}

/// Every branch in a cluster whose nodes are reached in this way.
pub(super) fn all(size: Size, way: Way) -> Vec<Branch> {
    match way {
        Way::Vxlan => [
            from_pod(size),
            of_services(size),
            from_uplink(size),
            by_the_host(size),
            answers(),
            drops(size),
        ]
        .into_iter()
        .flatten()
        .collect(),
        Way::VxlanV6 => over_v6(size),
        Way::EqualHops => vec![Branch::new(
            "from_pod: to another node, IPv4, two next hops",
            Program::FromPod,
            Verdict::ToVtep,
            frames::to_nodes(size, false),
        )],
        Way::Direct => direct(size),
    }
}

fn from_pod(size: Size) -> Vec<Branch> {
    use Verdict::{LocalPod, ToHost, ToVtep};
    let branch = |name, verdict, frames| Branch::new(name, Program::FromPod, verdict, frames);
    let [v4, v6] = [false, true];
    vec![
        branch(
            "from_pod: to a pod here, IPv4",
            LocalPod,
            frames::to_pods(size, v4),
        ),
        branch(
            "from_pod: to a pod here, IPv6",
            LocalPod,
            frames::to_pods(size, v6),
        ),
        branch(
            "from_pod: to another node, IPv4",
            ToVtep,
            frames::to_nodes(size, v4),
        ),
        branch(
            "from_pod: to another node, IPv6",
            ToVtep,
            frames::to_nodes(size, v6),
        ),
        branch("from_pod: to the world", ToHost, frames::to_world()),
    ]
}

/// What pods pay that the host translates flows for.
fn of_services(size: Size) -> Vec<Branch> {
    vec![
        Branch::new(
            "from_pod: to another node, pod with translated flows",
            Program::FromPod,
            Verdict::ToVtep,
            frames::of_translated_pod(size, false),
        ),
        Branch::new(
            "from_pod: a translated flow, to the host",
            Program::FromPod,
            Verdict::Translated,
            frames::of_translated_pod(size, true),
        ),
        Branch::new(
            "from_uplink: to a pod with translated flows",
            Program::FromUplink,
            Verdict::FromVtep,
            frames::received_by_translated_pod(size),
        ),
    ]
}

fn from_uplink(size: Size) -> Vec<Branch> {
    let tc = |name, v6| received(name, Program::FromUplink, size, Way::Vxlan, v6);
    let xdp = |name, v6| received(name, Program::XdpUplink, size, Way::Vxlan, v6);
    vec![
        tc("from_uplink: to a pod, IPv4", false),
        tc("from_uplink: to a pod, IPv6", true),
        xdp("xdp_uplink: to a pod, IPv4", false),
        xdp("xdp_uplink: to a pod, IPv6", true),
    ]
}

fn received(name: &'static str, program: Program, size: Size, way: Way, v6: bool) -> Branch {
    let verdict = match (program, way) {
        (Program::XdpUplink, _) => Verdict::FromVtepXdp,
        (_, Way::Direct) => Verdict::FromPeer,
        (_, _) => Verdict::FromVtep,
    };
    Branch::new(name, program, verdict, frames::received(size, way, v6))
}

/// What passes the host's stack or its VXLAN device.
fn by_the_host(size: Size) -> Vec<Branch> {
    vec![
        Branch::new(
            "from_overlay: to a pod",
            Program::FromOverlay,
            Verdict::FromVtep,
            frames::decapsulated(size),
        ),
        Branch::new(
            "to_overlay: the host's, to another node",
            Program::ToOverlay,
            Verdict::ToVtep,
            frames::of_the_host(size, false),
        ),
        Branch::new(
            "to_overlay: a pod's translated flow, to another node",
            Program::ToOverlay,
            Verdict::ToVtep,
            frames::of_the_host(size, true),
        ),
        Branch::counted(
            "to_pod: from the world",
            Program::ToPod,
            None,
            frames::by_the_host(size, false),
        ),
        Branch::counted(
            "to_pod: another pod's translated flow",
            Program::ToPod,
            None,
            frames::by_the_host(size, true),
        ),
    ]
}

fn answers() -> Vec<Branch> {
    let branch = |name, verdict, frames| Branch::new(name, Program::FromPod, verdict, frames);
    vec![
        branch(
            "from_pod: answer to ARP",
            Verdict::ArpReply,
            frames::arp_request(),
        ),
        branch(
            "from_pod: answer to a neighbour solicitation",
            Verdict::NdReply,
            frames::neighbour_solicitation(),
        ),
        branch(
            "from_pod: answer, too big, IPv4",
            Verdict::TooBig,
            frames::too_large(false),
        ),
        branch(
            "from_pod: answer, too big, IPv6",
            Verdict::TooBig,
            frames::too_large(true),
        ),
    ]
}

fn drops(size: Size) -> Vec<Branch> {
    use DropReason::{ForeignInnerSource, ForeignSource, UnknownVtep};
    let (stranger, foreign) = (
        frames::from_stranger(size),
        frames::with_foreign_source(size),
    );
    vec![
        Branch::refused(
            "from_pod: drop, foreign source",
            Program::FromPod,
            ForeignSource,
            frames::spoofed(size),
        ),
        Branch::refused(
            "from_uplink: drop, VXLAN of a stranger",
            Program::FromUplink,
            UnknownVtep,
            stranger.clone(),
        ),
        Branch::refused(
            "from_uplink: drop, VXLAN with a foreign inner source",
            Program::FromUplink,
            ForeignInnerSource,
            foreign.clone(),
        ),
        Branch::refused(
            "xdp_uplink: drop, VXLAN of a stranger",
            Program::XdpUplink,
            UnknownVtep,
            stranger,
        ),
        Branch::refused(
            "xdp_uplink: drop, VXLAN with a foreign inner source",
            Program::XdpUplink,
            ForeignInnerSource,
            foreign,
        ),
    ]
}

fn over_v6(size: Size) -> Vec<Branch> {
    let sent = |name, v6| {
        Branch::new(
            name,
            Program::FromPod,
            Verdict::ToVtep,
            frames::to_nodes(size, v6),
        )
    };
    let tc = |name, v6| received(name, Program::FromUplink, size, Way::VxlanV6, v6);
    let xdp = |name, v6| received(name, Program::XdpUplink, size, Way::VxlanV6, v6);
    vec![
        sent("from_pod: to another node, IPv4 over IPv6", false),
        sent("from_pod: to another node, IPv6 over IPv6", true),
        tc("from_uplink: to a pod, IPv4 over IPv6", false),
        tc("from_uplink: to a pod, IPv6 over IPv6", true),
        xdp("xdp_uplink: to a pod, IPv4 over IPv6", false),
    ]
}

fn direct(size: Size) -> Vec<Branch> {
    vec![
        Branch::new(
            "from_pod: to another node, IPv4, direct",
            Program::FromPod,
            Verdict::ToPeer,
            frames::to_nodes(size, false),
        ),
        received(
            "from_uplink: to a pod, IPv4, direct",
            Program::FromUplink,
            size,
            Way::Direct,
            false,
        ),
    ]
}

/// The helpers that the kernel runs for a packet of the branch with this name; none where they were not counted.
pub(in crate::bench) const fn calls_of(branch: &str) -> &'static [(Call, u32)] {
    match branch.as_bytes() {
        b"from_pod: to a pod here, IPv4" => {
            &[(Call::Lookup, 2), (Call::Store, 1), (Call::RedirectPeer, 1)]
        }
        b"from_pod: to another node, IPv4" => &[
            (Call::Lookup, 3),
            (Call::Grow, 1),
            (Call::Store, 1),
            (Call::RedirectNeigh, 1),
        ],
        b"from_uplink: to a pod, IPv4" => &[
            (Call::Lookup, 3),
            (Call::Shrink, 1),
            (Call::Store, 1),
            (Call::RedirectPeer, 1),
        ],
        _ => &[],
    }
}
