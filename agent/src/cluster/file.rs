//! The TOML file as a source. inotify tells of changes; nothing is polled.
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

use super::parse::{self, ParseError};
use super::{ClusterConfig, ClusterError, NextVersion, Source};

/// Programs replace a file in several steps; what they did within this time is read once.
const SETTLE: Duration = Duration::from_millis(10);

/// A file that was made is read when it is closed, or after this time: some are made whole, by a
/// link, and never closed.
const WRITING: Duration = Duration::from_millis(250);

/// Attempts to watch directories that others replace at the same moment.
const ATTEMPTS: usize = 5;

/// Symbolic links followed on the way to the file; the kernel's own limit is 40.
const MAX_LINKS: usize = 40;

/// A cluster file, watched.
pub struct FileSource {
    path: PathBuf,
    own: String,
    /// Hash of what was read last, to tell a change from a touch.
    last: Option<u64>,
    watch: Option<Watch>,
}

impl FileSource {
    /// The file at `path`, as seen by the node `own`. Nothing is read yet.
    #[must_use]
    pub fn new(path: PathBuf, own: String) -> Self {
        Self {
            path,
            own,
            last: None,
            watch: None,
        }
    }

    async fn next_version(&mut self) -> Result<ClusterConfig, ClusterError> {
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
                return interpret(&text, &self.path, &self.own);
            }
        }
    }
}

impl Source for FileSource {
    fn describe(&self) -> String {
        format!("file {}", self.path.display())
    }

    fn next(&mut self) -> NextVersion<'_> {
        Box::pin(self.next_version())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ClusterError> {
    std::fs::read(path).map_err(|source| ClusterError::Read {
        path: path.to_owned(),
        source,
    })
}

fn hash(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text);
    hasher.finish()
}

fn interpret(text: &[u8], path: &Path, own: &str) -> Result<ClusterConfig, ClusterError> {
    let path = path.to_owned();
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            let source = io::Error::new(io::ErrorKind::InvalidData, error);
            return Err(ClusterError::Read { path, source });
        }
    };
    parse::parse(text, own).map_err(|error| match error {
        ParseError::Syntax(source) => ClusterError::Syntax { path, source },
        ParseError::Invalid(problems) => ClusterError::Invalid { path, problems },
    })
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
    fn new(path: &Path) -> Result<Self, ClusterError> {
        let gone = |e: &ClusterError| matches!(e, ClusterError::Watch { source, .. } if source.kind() == io::ErrorKind::NotFound);
        let mut watch = Self::try_new(path);
        for _ in 1..ATTEMPTS {
            if !watch.as_ref().is_err_and(gone) {
                break;
            }
            watch = Self::try_new(path);
        }
        watch
    }

    fn try_new(path: &Path) -> Result<Self, ClusterError> {
        let fault = |path: &Path| {
            let path = path.to_owned();
            move |source| ClusterError::Watch { path, source }
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

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = r#"
[network]
pod_cidrs = ["10.244.0.0/16"]
[[node]]
name = "a"
pod_cidrs = ["10.244.1.0/24"]
underlay = "192.168.50.1"
"#;

    fn with_vni(vni: u32) -> String {
        FIRST.replace("[network]", &format!("[network]\nvni = {vni}"))
    }

    async fn next_vni(source: &mut FileSource) -> u32 {
        let next = tokio::time::timeout(Duration::from_secs(5), source.next());
        next.await.expect("a change").unwrap().network.vni.get()
    }

    #[tokio::test]
    async fn every_way_to_change_a_file_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.toml");
        std::fs::write(&path, FIRST).unwrap();
        let mut source = FileSource::new(path.clone(), "a".into());
        assert_eq!(next_vni(&mut source).await, 1);

        std::fs::write(&path, with_vni(2)).unwrap();
        assert_eq!(next_vni(&mut source).await, 2, "written in place");

        let fresh = directory.path().join("fresh");
        std::fs::write(&fresh, with_vni(3)).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        assert_eq!(next_vni(&mut source).await, 3, "replaced by a rename");

        std::fs::remove_file(&path).unwrap();
        let gone = source.next().await.unwrap_err();
        assert!(matches!(gone, ClusterError::Read { .. }), "{gone}");
        std::fs::write(&path, with_vni(4)).unwrap();
        assert_eq!(next_vni(&mut source).await, 4, "removed and made again");
    }

    #[tokio::test]
    async fn half_of_a_file_is_not_read() {
        use std::io::Write;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.toml");
        std::fs::write(&path, FIRST).unwrap();
        let mut source = FileSource::new(path.clone(), "a".into());
        next_vni(&mut source).await;
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(with_vni(2).as_bytes()).unwrap();
        let half = tokio::time::timeout(Duration::from_millis(100), source.next());
        assert!(half.await.is_err(), "somebody is still writing");
        let other = "[[node]]\nname = \"b\"\npod_cidrs = [\"10.244.2.0/24\"]\nunderlay = \"192.168.50.2\"\n";
        file.write_all(other.as_bytes()).unwrap();
        drop(file);
        let next = tokio::time::timeout(Duration::from_secs(5), source.next()).await;
        assert_eq!(next.unwrap().unwrap().nodes.len(), 2);
    }

    #[tokio::test]
    async fn a_file_that_is_linked_into_its_place_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("fresh"), with_vni(3)).unwrap();
        let mut source = FileSource::new(at("cluster.toml"), "a".into());
        source.next().await.unwrap_err();
        std::fs::hard_link(at("fresh"), at("cluster.toml")).unwrap();
        assert_eq!(next_vni(&mut source).await, 3);
    }

    #[tokio::test]
    async fn a_change_is_not_lost_when_nobody_waits_for_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.toml");
        std::fs::write(&path, FIRST).unwrap();
        let mut source = FileSource::new(path.clone(), "a".into());
        next_vni(&mut source).await;
        std::fs::write(&path, with_vni(2)).unwrap();
        let cut_short = tokio::time::timeout(SETTLE / 5, source.next()).await;
        assert!(cut_short.is_err(), "it settles first");
        assert_eq!(next_vni(&mut source).await, 2);
    }

    #[tokio::test]
    async fn a_link_on_the_way_may_be_replaced() {
        // As a ConfigMap is mounted: cluster.toml -> ..data/cluster.toml, ..data -> ..1
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (version, vni) in [("..1", 1), ("..2", 2)] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("cluster.toml"), with_vni(vni)).unwrap();
        }
        std::os::unix::fs::symlink("..1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/cluster.toml", at("cluster.toml")).unwrap();
        let mut source = FileSource::new(at("cluster.toml"), "a".into());
        assert_eq!(next_vni(&mut source).await, 1);
        std::os::unix::fs::symlink("..2", at("..tmp")).unwrap();
        std::fs::rename(at("..tmp"), at("..data")).unwrap();
        assert_eq!(next_vni(&mut source).await, 2);
    }

    #[tokio::test]
    async fn an_invalid_version_is_reported_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.toml");
        std::fs::write(&path, FIRST).unwrap();
        let mut source = FileSource::new(path.clone(), "a".into());
        next_vni(&mut source).await;
        std::fs::write(&path, with_vni(1 << 24)).unwrap();
        let error = source.next().await.unwrap_err();
        assert!(error.to_string().contains("vni = 16777216"), "{error}");
        let again = tokio::time::timeout(Duration::from_millis(100), source.next());
        assert!(again.await.is_err(), "nothing has changed since");
        std::fs::write(&path, with_vni(7)).unwrap();
        assert_eq!(next_vni(&mut source).await, 7);
    }
}
