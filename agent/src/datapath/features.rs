//! What this kernel can do beyond what Oxlan needs of every kernel. It is found by trying, or by the kernel's
//! types where nobody can try, never by its version: distributions take features into older kernels, and
//! switch them off in newer ones.

use aya::programs::{ProgramError, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions};
use nix::errno::Errno;

use super::{Datapath, DatapathError};

/// Bytes of an Ethernet header.
const ETHERNET_LEN: usize = 14;

/// The kernel's types, as BTF.
const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// The program that tries flags of `bpf_skb_adjust_room`.
const PROBE: &str = "probe_room";

/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV6` (include/uapi/linux/bpf.h).
const DECAP_L3_IPV6: u64 = 1 << 8;

/// `BPF_F_ADJ_ROOM_DECAP_L4_UDP`, likewise.
const DECAP_L4_UDP: u64 = 1 << 10;

/// `BPF_F_ADJ_ROOM_NO_CSUM_RESET`, as the programs have it, too.
const BPF_F_ADJ_ROOM_NO_CSUM_RESET: u32 = 1 << 5;

/// Something that not every kernel has, and that makes Oxlan better where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Links for TC programs: Linux 6.6.
    TcxLinks,
    /// Taking IPv6 out of IPv4 and the other way round: Linux 6.3.
    OtherFamily,
    /// Redirecting frames that lie in several buffers: Linux 6.3.
    FrameFragments,
    /// Taking the mark of a tunnel off an aggregate: Linux 7.3.
    AggregateMarks,
    /// Tracing the `bpf` system call.
    ChangeEvents,
    /// The queueing discipline `tbf` (`CONFIG_NET_SCH_TBF`).
    TokenBuckets,
}

/// A feature, and whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Which one.
    pub feature: Feature,
    /// What the kernel answered when it was tried; none if it is there.
    pub refusal: Option<String>,
}

impl Feature {
    /// A short name that stays.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcxLinks => "tcx-links",
            Self::OtherFamily => "other-family",
            Self::FrameFragments => "frame-fragments",
            Self::AggregateMarks => "aggregate-marks",
            Self::ChangeEvents => "change-events",
            Self::TokenBuckets => "token-buckets",
        }
    }

    /// What is done with it.
    #[must_use]
    pub const fn enables(self) -> &'static str {
        match self {
            Self::TcxLinks => {
                "the programs of uplinks and of the overlay device are links, which only their owner can take away"
            }
            Self::OtherFamily => {
                "IPv6 inside an IPv4 underlay and IPv4 inside an IPv6 one are decapsulated in TC"
            }
            Self::FrameFragments => "XDP delivers the frames of a jumbo underlay, too",
            Self::AggregateMarks => {
                "the mark of a tunnel is taken off TCP aggregates that are decapsulated in TC"
            }
            Self::ChangeEvents => {
                "changes of maps and programs by others are seen as they happen, and a quiet agent sleeps"
            }
            Self::TokenBuckets => "pods' bandwidth can be limited",
        }
    }

    /// What is done where it is missing.
    #[must_use]
    pub const fn without(self) -> &'static str {
        match self {
            Self::TcxLinks => "they are filters of clsact, which is no slower",
            Self::OtherFamily => "such packets take the overlay device, which is slower",
            Self::FrameFragments => {
                "frames in several buffers, and with them their flows, take the overlay device"
            }
            Self::AggregateMarks => {
                "TCP aggregates that are decapsulated in TC keep the mark of a tunnel, at which sockets do not look"
            }
            Self::ChangeEvents => "maps and filters are compared every 750 ms",
            Self::TokenBuckets => "a pod whose bandwidth shall be limited cannot be attached",
        }
    }
}

impl Datapath {
    /// Every feature. `watching` is why changes cannot be watched, which only the one who watches can tell, and
    /// `limiting` why bandwidth cannot be limited.
    ///
    /// What cannot be tried is missing: the programs go without it where it is.
    #[must_use]
    pub fn features(&self, watching: Option<String>, limiting: Option<String>) -> Vec<Probed> {
        let missing = |there: bool, reason: &str| (!there).then(|| reason.to_owned());
        let tried = |flag| refusal(self.try_flag(flag));
        [
            (
                Feature::TcxLinks,
                missing(has_tcx(), "the kernel does not know TCX"),
            ),
            (Feature::OtherFamily, tried(DECAP_L3_IPV6)),
            (
                Feature::FrameFragments,
                missing(
                    self.redirects_frags,
                    "the kernel's types do not tell what devices do with frames",
                ),
            ),
            (Feature::AggregateMarks, tried(DECAP_L4_UDP)),
            (Feature::ChangeEvents, watching),
            (Feature::TokenBuckets, limiting),
        ]
        .map(|(feature, refusal)| Probed { feature, refusal })
        .into()
    }

    /// What the kernel has against a flag of `bpf_skb_adjust_room`.
    fn try_flag(&self, flag: u64) -> Result<Option<String>, DatapathError> {
        let mut loaded = self.lock();
        let program: &mut SchedClassifier = loaded
            .ebpf
            .program_mut(PROBE)
            .ok_or(DatapathError::Missing {
                kind: "program",
                name: PROBE,
            })?
            .try_into()
            .map_err(DatapathError::program(PROBE, "loading"))?;
        if program.fd().is_err() {
            let loading = program.load();
            loading.map_err(DatapathError::program(PROBE, "loading"))?;
        }
        let mut out = [0; 256];
        let result = program.test_run(TestRunOptions {
            data_in: Some(&frame(flag)),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        });
        let result = result.map_err(DatapathError::program(PROBE, "running"))?;
        Ok(match result.return_value.cast_signed() {
            0 => None,
            refused => Some(format!(
                "bpf_skb_adjust_room refuses the flag {flag:#x}: {}",
                Errno::from_raw(-refused).desc()
            )),
        })
    }
}

/// What is against a feature that was tried.
fn refusal(tried: Result<Option<String>, DatapathError>) -> Option<String> {
    let error = match tried {
        Ok(answer) => return answer,
        Err(error) => error,
    };
    Some(format!("it cannot be tried: {}", super::brief(&error)))
}

/// Whether the kernel has TCX: one that has not does not know what it is asked about.
pub(super) fn has_tcx() -> bool {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Err(ProgramError::SyscallError(error)) => {
            error.io_error.raw_os_error() != Some(Errno::EINVAL as i32)
        }
        // What keeps us from asking is no answer.
        Ok(_) | Err(_) => true,
    }
}

/// Whether `XDP_REDIRECT` to a device takes frames in several buffers ("bpf: devmap: check XDP features in
/// __xdp_enqueue routine", commit b9d460c92455). Before, the kernel drops them when the program has
/// ended, so nobody can try; but the type by which devices say what they take came with it.
pub(super) fn redirects_frags() -> bool {
    std::fs::read(KERNEL_TYPES).is_ok_and(|btf| names_type(&btf, "netdev_xdp_act"))
}

/// Whether a name is in BTF, where names end with a zero each. To parse all types takes ten times as long.
fn names_type(btf: &[u8], name: &str) -> bool {
    let name = [b"\0", name.as_bytes(), b"\0"].concat();
    memchr::memmem::find(btf, &name).is_some()
}

/// A packet with room to take out, which says by its first bytes how.
fn frame(flag: u64) -> [u8; 200] {
    const IPV4: [u8; 2] = [0x08, 0x00];
    const UDP: u8 = 17;
    let mut frame = [0; 200];
    let flags = flag | u64::from(BPF_F_ADJ_ROOM_NO_CSUM_RESET);
    frame[..8].copy_from_slice(&flags.to_ne_bytes());
    frame[ETHERNET_LEN - 2..ETHERNET_LEN].copy_from_slice(&IPV4);
    frame[ETHERNET_LEN] = 0x45;
    frame[ETHERNET_LEN + 9] = UDP;
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use oxlan_common::maps::PROBE_ROOM;

    #[test]
    fn types_are_found_by_their_whole_names() {
        let btf = b"\x9f\xeb\0int\0netdev_xdp_act\0";
        assert!(names_type(btf, "netdev_xdp_act") && names_type(btf, "int"));
        assert!(!names_type(btf, "netdev_xdp") && !names_type(btf, "xdp_act"));
    }

    #[test]
    fn the_room_that_is_taken_out_is_there() {
        let needed = ETHERNET_LEN + usize::try_from(PROBE_ROOM).unwrap() + 40;
        assert!(frame(0).len() > needed);
    }

    #[test]
    fn what_cannot_be_tried_is_missing() {
        assert_eq!(refusal(Ok(None)), None);
        assert_eq!(refusal(Ok(Some("no".into()))), Some("no".into()));
        let refused = ProgramError::LoadError {
            io_error: Errno::EACCES.into(),
            verifier_log: aya_obj::VerifierLog::new("0: R1=ctx()\n1: exit".into()),
        };
        let reason = refusal(Err(DatapathError::program(PROBE, "loading")(refused))).unwrap();
        assert!(reason.contains(PROBE) && !reason.contains('\n'), "{reason}");
        assert!(reason.contains("Permission denied"), "{reason}");
    }
}
