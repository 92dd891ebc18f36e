//! A file that is followed as others replace it. inotify tells of changes; nothing is polled.
//!
//! The directories are watched, not the file: an editor or a ConfigMap replaces the file, or a
//! symbolic link on the way to it, and a watch on the file would keep looking at the old one.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchMask};

/// Programs replace a file in several steps; what they did within this time is read once.
pub(super) const SETTLE: Duration = Duration::from_millis(10);

/// A file that was made is read when it is closed, or after this time: some are made whole, by a
/// link, and never closed.
const WRITING: Duration = Duration::from_millis(250);

/// Attempts to watch directories that others replace at the same moment.
const ATTEMPTS: usize = 5;

/// Symbolic links followed on the way to the file; the kernel's own limit is 40.
const MAX_LINKS: usize = 40;

/// A file that others write, followed.
pub(super) struct Followed {
    path: PathBuf,
    /// Hash of what was read last, to tell a change from a touch.
    last: Option<u64>,
    watch: Option<Watch>,
}

/// Why there is nothing (new) to read.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The file cannot be read.
    #[error("cannot read {path}: does it exist, and may the agent read it?")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// Changes of the file cannot be seen.
    #[error(
        "cannot watch {path} for changes: are there inotify instances left (fs.inotify.max_user_instances)?"
    )]
    Watch {
        /// The watched file or directory.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

impl Followed {
    /// The file at `path`. Nothing is read yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            last: None,
            watch: None,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// At the first call what is in the file, afterwards what is in it after its next change.
    ///
    /// # Errors
    /// When it cannot be read, which is reported once, or cannot be watched.
    pub(super) async fn next(&mut self) -> Result<Vec<u8>, FollowError> {
        loop {
            // The watch is set before the file is read, so no change falls between the two. It is
            // set anew each time, because the way to the file may have changed with it. When that
            // fails, there is none, so that the next call reads what nobody would tell of.
            let watch = self.watch.take();
            let first = watch.is_none();
            if let Some(watch) = watch {
                watch.settled().await;
            }
            self.watch = Some(Watch::new(&self.path)?);
            let text = match read(&self.path) {
                Ok(text) => text,
                // Reported once; an unreadable file is looked at again when something changes.
                Err(error) if self.last.take().is_some() || first => return Err(error),
                Err(_) => continue,
            };
            if self.last.replace(hash(&text)) != Some(hash(&text)) {
                return Ok(text);
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FollowError> {
    std::fs::read(path).map_err(|source| FollowError::Read {
        path: path.to_owned(),
        source,
    })
}

fn hash(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text);
    hasher.finish()
}

/// Watches on every directory whose entries decide what is at a path.
struct Watch {
    events: EventStream<[u8; 4096]>,
    /// Names whose change matters, of any of the directories.
    names: BTreeSet<OsString>,
}

/// What an event means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happened {
    /// The file may be another one, and whole.
    Changed,
    /// A file was made that somebody may still be writing.
    Made,
}

impl Watch {
    /// A directory may go between the moment it is found and the moment it is watched: a ConfigMap
    /// removes the old version's right after it has put the new one in its place.
    fn new(path: &Path) -> Result<Self, FollowError> {
        let gone = |e: &FollowError| matches!(e, FollowError::Watch { source, .. } if source.kind() == io::ErrorKind::NotFound);
        let mut watch = Self::try_new(path);
        for _ in 1..ATTEMPTS {
            if !watch.as_ref().is_err_and(gone) {
                break;
            }
            watch = Self::try_new(path);
        }
        watch
    }

    fn try_new(path: &Path) -> Result<Self, FollowError> {
        let fault = |path: &Path| {
            let path = path.to_owned();
            move |source| FollowError::Watch { path, source }
        };
        let inotify = Inotify::init().map_err(fault(path))?;
        // Not MODIFY: half of a file can be a valid file, with half of the nodes.
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        let mut names = BTreeSet::new();
        for (directory, name) in way_to(path) {
            let added = inotify.watches().add(&directory, mask);
            added.map_err(fault(&directory))?;
            names.insert(name);
        }
        let events = inotify.into_event_stream([0; 4096]).map_err(fault(path))?;
        Ok(Self { events, names })
    }

    /// Completes when there may be something new to read, whole as far as anybody can tell.
    async fn settled(mut self) {
        if self.happened().await == Happened::Made {
            let closed = async { while self.happened().await == Happened::Made {} };
            let _ = tokio::time::timeout(WRITING, closed).await;
        }
        tokio::time::sleep(SETTLE).await;
    }

    /// Waits until one of the names was touched, a directory went away, or events may have been lost.
    async fn happened(&mut self) -> Happened {
        while let Some(Ok(event)) = self.events.next().await {
            match event.name {
                Some(name) if !self.names.contains(&name) => {}
                _ if event.mask == EventMask::CREATE => return Happened::Made,
                _ => return Happened::Changed,
            }
        }
        Happened::Changed
    }
}

/// The directories to watch, each with the name in it that matters: where the file is, and where
/// each symbolic link on the way to it is. For what does not exist, the nearest that does.
fn way_to(path: &Path) -> Vec<(PathBuf, OsString)> {
    let mut way = Vec::new();
    let mut here = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for _ in 0..MAX_LINKS {
        let Some((link, target)) = first_link(&here) else {
            break;
        };
        way.extend(nearest(&link));
        here = target;
    }
    way.extend(nearest(&here));
    way
}

/// The deepest existing directory above `path`, with the name in it that leads to `path`.
fn nearest(path: &Path) -> Option<(PathBuf, OsString)> {
    path.ancestors()
        .filter_map(|step| Some((step.parent()?, step.file_name()?)))
        .find(|(parent, _)| parent.is_dir())
        .map(|(parent, name)| (parent.to_owned(), name.to_owned()))
}

/// The first symbolic link on the way to `path`, and `path` with that link resolved.
fn first_link(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut steps: Vec<&Path> = path.ancestors().collect();
    steps.reverse();
    steps.into_iter().find_map(|step| {
        let target = std::fs::read_link(step).ok()?;
        let rest = path.strip_prefix(step).ok()?;
        let resolved = step.parent()?.join(target).join(rest);
        Some((step.to_owned(), resolved.components().collect()))
    })
}
