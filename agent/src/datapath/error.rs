//! What can go wrong with the datapath, and what to do about it.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use nix::errno::Errno;

/// An operation on the datapath failed.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The entries of a map cannot be listed.
    #[error("cannot list the entries of the map {map}")]
    Entries {
        /// Name of the map.
        map: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The directory for pins cannot be made.
    #[error(
        "cannot create {path}: is a bpffs mounted there? `mount -t bpf bpf /sys/fs/bpf` makes one"
    )]
    BpfDir {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The directory for pins is not on a bpffs any more.
    #[error(
        "{path} is not on a bpffs any more: mount it again with `mount -t bpf bpf /sys/fs/bpf`; until then programs run only as long as the agent"
    )]
    NoBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// A pin cannot be read, moved or removed.
    #[error("cannot {action} the pin {path}")]
    PinFile {
        /// What was tried.
        action: &'static str,
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A map, program or link cannot be pinned.
    #[error("cannot pin {path}: is it on a bpffs?")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What aya said.
        #[source]
        source: PinError,
    },
    /// The object cannot be loaded.
    #[error(
        "the kernel does not take the maps; Linux 6.1 or later, root and BTF (/sys/kernel/btf/vmlinux) are needed"
    )]
    Load(#[source] Box<EbpfError>),
    /// The embedded object lacks something; build and object do not fit together.
    #[error("the embedded BPF object has no {kind} `{name}`: build the agent again")]
    Missing {
        /// "map" or "program".
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A program is refused, or cannot be attached.
    #[error("program {program}: {action} failed")]
    Program {
        /// The program.
        program: &'static str,
        /// What was tried.
        action: &'static str,
        /// What the kernel said; a refusal by the verifier has its log.
        #[source]
        source: Box<ProgramError>,
    },
    /// The kernel's link is not of the kind that the program wants.
    #[error("program {program}: its link cannot be used")]
    Link {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: LinkError,
    },
    /// Another XDP program has the device.
    #[error("another XDP program is attached to the device: `ip link show` names it")]
    XdpTaken,
    /// The driver cannot run XDP programs.
    #[error("the device's driver has no native XDP")]
    XdpUnsupported,
    /// The driver does not take the program as the device is set up now.
    #[error(
        "the device's driver refuses XDP as the device is set up now ({errno}): its MTU, its queues or its offloads may stand in the way, and the kernel's log may say which"
    )]
    XdpRefused {
        /// What the kernel said.
        errno: Errno,
    },
    /// The device is not there, or another one has its name now.
    #[error("no device {ifname} with index {ifindex} in this network namespace")]
    NoDevice {
        /// Name that was asked for.
        ifname: String,
        /// Index that was asked for.
        ifindex: u32,
    },
    /// A map has no room.
    #[error("map {map} is full with {capacity} entries: restart the agent with a larger {option}")]
    Full {
        /// The map.
        map: &'static str,
        /// Its capacity.
        capacity: u32,
        /// The option of `oxlan agent` that sets the capacity.
        option: &'static str,
    },
    /// The kernel refuses an operation on a map.
    #[error("map {map}: the operation failed")]
    Map {
        /// The map.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<MapError>,
    },
    /// Changes by others cannot be watched, so the caller has to compare from time to time.
    #[error("changes of BPF objects by others cannot be watched on this kernel: {reason}")]
    WatchUnsupported {
        /// Why not.
        reason: String,
    },
    /// The watcher was already handed out.
    #[error("the changes of BPF objects are already watched")]
    AlreadyWatched,
    /// Waiting for changes failed.
    #[error("waiting for changes of BPF objects failed")]
    Watch(#[source] io::Error),
}

impl DatapathError {
    /// For `map_err` on an operation on a map.
    pub(super) fn map(map: &'static str) -> impl Fn(MapError) -> Self {
        move |source| Self::Map {
            map,
            source: Box::new(source),
        }
    }

    /// For `map_err` on an operation on a program.
    pub(crate) fn program<E: Into<ProgramError>>(
        program: &'static str,
        action: &'static str,
    ) -> impl Fn(E) -> Self {
        move |source| Self::Program {
            program,
            action,
            source: Box::new(source.into()),
        }
    }
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// The same without the verifier's account, which has a line for each instruction, the first of which says most.
pub(crate) fn brief(error: &dyn std::error::Error) -> String {
    let text = chain(error);
    text.lines().next().unwrap_or_default().to_owned()
}
