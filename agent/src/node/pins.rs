//! Tells when somebody removes pins: the kernel detaches a program with its last pin and handle.

use std::path::Path;

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchMask};

use super::NodeError;

/// Watches on the directories of pins.
pub(super) struct PinWatch {
    events: EventStream<[u8; 4096]>,
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// A pin.
    Pin,
    /// A directory with all its pins; its successor has to be watched anew.
    Directory,
}

impl PinWatch {
    /// Watches `bpf_dir` and the directories in it, which exist since the datapath was opened.
    pub(super) fn new(bpf_dir: &Path) -> Result<Self, NodeError> {
        let fault = |source| NodeError::Pins {
            path: bpf_dir.to_owned(),
            source,
        };
        let inotify = Inotify::init().map_err(fault)?;
        let gone = WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        let mut directories = vec![bpf_dir.to_owned()];
        for entry in std::fs::read_dir(bpf_dir).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            if path.is_dir() {
                directories.push(path);
            }
        }
        for directory in directories {
            inotify.watches().add(directory, gone).map_err(fault)?;
        }
        let events = inotify.into_event_stream([0; 4096]).map_err(fault)?;
        Ok(Self { events })
    }

    /// Waits until something was removed.
    pub(super) async fn removed(&mut self) -> Removal {
        let ends = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED;
        match self.events.next().await {
            Some(Ok(event)) if !event.mask.intersects(ends) => Removal::Pin,
            _ => Removal::Directory,
        }
    }
}
