//! Tells when another process has changed BPF objects, so that nobody has to poll for that.
//!
//! The program `watch_bpf` runs at the end of each `bpf` system call of the machine and writes a
//! record when the call changed something and was not the agent's own.

use std::sync::PoisonError;

use aya::maps::{MapData, RingBuf};
use aya::programs::FExit;
use aya::programs::fexit::FExitLink;
use aya::{Btf, Ebpf};
use bytemuck::pod_read_unaligned;
use oxlan_common::maps::AuditRecord;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Datapath, DatapathError};

/// Name of the program in the object.
const PROGRAM: &str = "watch_bpf";

/// The kernel's entry for the system call.
const SYSTEM_CALL: &str = if cfg!(target_arch = "aarch64") {
    "__arm64_sys_bpf"
} else {
    "__x64_sys_bpf"
};

/// Reports changes of BPF objects by others. Dropping it ends the watch.
pub struct ChangeWatcher {
    records: AsyncFd<RingBuf<MapData>>,
    _link: FExitLink,
}

impl ChangeWatcher {
    /// Waits until another process has changed a BPF object of this machine, and returns the last change.
    ///
    /// Several changes in a row are one; whoever is told compares everything anyway.
    ///
    /// # Errors
    ///
    /// The kernel refuses to wait.
    pub async fn changed(&mut self) -> Result<AuditRecord, DatapathError> {
        loop {
            let mut ready = self
                .records
                .readable_mut()
                .await
                .map_err(DatapathError::Watch)?;
            let last = drain(ready.get_inner_mut());
            ready.clear_ready();
            if let Some(record) = last {
                return Ok(record);
            }
        }
    }
}

impl Datapath {
    /// Starts to watch for changes of BPF objects by other processes. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`DatapathError::WatchUnsupported`] where the kernel cannot trace its own functions;
    /// [`DatapathError::AlreadyWatched`] at the second call.
    pub fn watch_changes(&self) -> Result<ChangeWatcher, DatapathError> {
        let mut audit = self.audit.lock().unwrap_or_else(PoisonError::into_inner);
        if audit.is_none() {
            return Err(DatapathError::AlreadyWatched);
        }
        let link = attach(&mut self.lock().ebpf)?;
        let records = audit.take().ok_or(DatapathError::AlreadyWatched)?;
        Ok(ChangeWatcher {
            records: register(records)?,
            _link: link,
        })
    }
}

fn register(records: RingBuf<MapData>) -> Result<AsyncFd<RingBuf<MapData>>, DatapathError> {
    // SAFETY: the ring owns its map and with it the descriptor, which is open, always the same
    // one, and closed only when the ring is dropped. Nothing takes the ring out of the `AsyncFd`:
    // its only user, `ChangeWatcher::changed`, borrows it to read records.
    unsafe { AsyncFd::register_with_interest(records, Interest::READABLE) }
        .map_err(|error| DatapathError::Watch(error.into_parts().1))
}

fn attach(ebpf: &mut Ebpf) -> Result<FExitLink, DatapathError> {
    let btf = Btf::from_sys_fs().map_err(unsupported)?;
    let program: &mut FExit = ebpf
        .program_mut(PROGRAM)
        .ok_or(DatapathError::Missing {
            kind: "program",
            name: PROGRAM,
        })?
        .try_into()
        .map_err(DatapathError::program(PROGRAM, "loading"))?;
    if program.fd().is_err() {
        program.load(SYSTEM_CALL, &btf).map_err(unsupported)?;
    }
    let id = program.attach().map_err(unsupported)?;
    program.take_link(id).map_err(unsupported)
}

fn unsupported<E: std::error::Error>(error: E) -> DatapathError {
    let text = error.to_string();
    // Before the verifier has looked at a program, its output is empty.
    let reason = text.trim_end().trim_end_matches("Verifier output:");
    DatapathError::WatchUnsupported {
        reason: reason.trim_end_matches([' ', '.']).to_owned(),
    }
}

/// Empties the ring and returns the last record.
fn drain(records: &mut RingBuf<MapData>) -> Option<AuditRecord> {
    let mut last = None;
    while let Some(item) = records.next() {
        if item.len() >= size_of::<AuditRecord>() {
            last = Some(pod_read_unaligned(&item[..size_of::<AuditRecord>()]));
        }
    }
    last
}
