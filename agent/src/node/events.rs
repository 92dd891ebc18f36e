//! Everything that wakes the agent up. When nothing happens, nothing runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::NodeError;
use super::pins::{PinWatch, Removal};
use crate::cluster::{ClusterConfig, ClusterError, Source};
use crate::datapath::{ChangeWatcher, Datapath, DatapathError};
use crate::host::pod_links::PodLinks;
use crate::host::watch::{Changes, Watch};
use crate::pods::Pods;

/// Where the kernel does not tell of changed BPF objects, the agent compares this often.
const COMPARE: Duration = Duration::from_millis(750);

/// After directories of pins were removed, they are there again within this time.
const REMADE: Duration = Duration::from_millis(500);

/// Something happened.
pub(super) enum Event {
    /// The cluster's source has a new version, or says why not.
    Cluster(Box<Result<ClusterConfig, ClusterError>>),
    /// The host changed.
    Host(Changes),
    /// Attachments changed.
    Pods,
    /// Pins were removed.
    Pins,
    /// Somebody else changed BPF objects, or may have.
    Bpf,
}

impl Event {
    /// Whether it is worth a pass of its own at once.
    pub(super) fn is_urgent(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

/// What is to be compared in the next pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dirty {
    /// When the first event came that no pass has looked at.
    first: Option<Instant>,
    /// Devices, addresses, routes, neighbours, sysctls.
    pub(super) host: bool,
    /// Ways to the other nodes.
    pub(super) paths: bool,
    /// The nftables table.
    pub(super) nftables: bool,
    /// All entries of all maps.
    pub(super) tables: bool,
    /// Programs and pins.
    pub(super) filters: bool,
}

impl Dirty {
    /// Everything, as at the start.
    pub(super) const ALL: Self = Self {
        first: None,
        host: true,
        paths: true,
        nftables: true,
        tables: true,
        filters: true,
    };

    /// Adds what an event may have changed.
    pub(super) fn add(&mut self, event: &Event, now: Instant) {
        self.first.get_or_insert(now);
        match event {
            Event::Cluster(_) | Event::Pods => self.host = true,
            Event::Host(changes) => {
                self.host |= changes.host;
                self.paths |= changes.paths;
                self.nftables |= changes.nftables;
                // A device that goes takes its programs along.
                self.filters |= changes.host || changes.filters;
            }
            Event::Pins => self.filters = true,
            Event::Bpf => {
                self.tables = true;
                self.filters = true;
            }
        }
    }

    /// When the first event came.
    pub(super) fn since(&self, now: Instant) -> Instant {
        self.first.unwrap_or(now)
    }

    /// Marks everything, because the last pass could not do all it wanted.
    pub(super) fn everything(&mut self) {
        *self = Self {
            first: self.first,
            ..Self::ALL
        };
    }

    /// What has come together; afterwards nothing is marked.
    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

/// All sources of events, each with a task of its own.
pub(super) struct Events {
    receiver: mpsc::Receiver<Event>,
    tasks: JoinSet<()>,
    /// Why changes of BPF objects by others are not watched.
    pub(super) unwatched: Option<String>,
}

impl Events {
    /// Starts to listen. `host` was made before anything was read, so nothing is missed.
    pub(super) fn start(
        host: Watch,
        bpf_dir: &Path,
        datapath: &Datapath,
        pods: Arc<Pods>,
        source: Box<dyn Source>,
    ) -> Result<Self, NodeError> {
        let (sender, receiver) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_host(host, sender.clone()));
        let pins = PinWatch::new(bpf_dir)?;
        tasks.spawn(watch_pins(bpf_dir.to_owned(), pins, sender.clone()));
        // What changed between the first pass and the watches.
        let _ = sender.try_send(Event::Bpf);
        tasks.spawn(watch_cluster(source, sender.clone()));
        tasks.spawn(watch_inside(Arc::clone(&pods)));
        tasks.spawn(watch_pods(pods, sender.clone()));
        let watcher = datapath.watch_changes();
        let unwatched = watcher.as_ref().err().map(|e| crate::datapath::chain(e));
        tasks.spawn(watch_bpf(watcher, sender));
        Ok(Self {
            receiver,
            tasks,
            unwatched,
        })
    }

    /// The next event; none when all sources have ended, which they never do by themselves.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }

    /// Stops to listen.
    pub(super) fn end(&mut self) {
        self.tasks.abort_all();
    }
}

async fn watch_host(mut watch: Watch, events: mpsc::Sender<Event>) {
    loop {
        let changes = watch.changed().await;
        if events.send(Event::Host(changes)).await.is_err() {
            return;
        }
    }
}

async fn watch_pods(pods: Arc<Pods>, events: mpsc::Sender<Event>) {
    loop {
        pods.changed().await;
        if events.send(Event::Pods).await.is_err() {
            return;
        }
    }
}

/// A veth drops frames from XDP without a word when the other side does not poll, or has a smaller MTU.
async fn watch_inside(pods: Arc<Pods>) {
    let mut links = match PodLinks::open() {
        Ok(links) => links,
        Err(error) => {
            tracing::warn!(%error, "changes inside pods are not noticed, which matters with XDP only: has the agent CAP_NET_BROADCAST?");
            return;
        }
    };
    loop {
        let ends = links.changed().await;
        for change in pods.look_inside(ends).await.unwrap_or_default() {
            tracing::warn!("{change}");
        }
    }
}

async fn watch_pins(bpf_dir: PathBuf, mut watch: PinWatch, events: mpsc::Sender<Event>) {
    loop {
        let removal = watch.removed().await;
        if events.send(Event::Pins).await.is_err() {
            return;
        }
        if removal == Removal::Directory {
            watch = loop {
                // The pass that the event causes makes the directories again.
                tokio::time::sleep(REMADE).await;
                if let Ok(watch) = PinWatch::new(&bpf_dir) {
                    break watch;
                }
            };
            // What was removed before the new watch began.
            if events.send(Event::Pins).await.is_err() {
                return;
            }
        }
    }
}

async fn watch_cluster(mut source: Box<dyn Source>, events: mpsc::Sender<Event>) {
    loop {
        let version = Box::new(source.next().await);
        // A source that cannot be watched would report that without end.
        let broken = matches!(*version, Err(ClusterError::Watch { .. }));
        if events.send(Event::Cluster(version)).await.is_err() {
            return;
        }
        if broken {
            tokio::time::sleep(COMPARE * 20).await;
        }
    }
}

async fn watch_bpf(watcher: Result<ChangeWatcher, DatapathError>, events: mpsc::Sender<Event>) {
    match watcher {
        Ok(mut watcher) => {
            while watcher.changed().await.is_ok() {
                if events.send(Event::Bpf).await.is_err() {
                    return;
                }
            }
            tracing::warn!(
                "changes of maps by others are no longer reported: comparing all maps all the time"
            );
        }
        Err(error) => {
            let error = crate::datapath::chain(&error);
            tracing::warn!(error, "comparing all maps all the time instead");
        }
    }
    let mut ticks = tokio::time::interval(COMPARE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if events.send(Event::Bpf).await.is_err() {
            return;
        }
    }
}

/// The signals that ask the agent to stop.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one, and names it.
    pub(super) async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_add_up_until_they_are_taken() {
        let start = Instant::now();
        let later = start + Duration::from_millis(5);
        let mut dirty = Dirty::default();
        dirty.add(&Event::Bpf, start);
        dirty.add(&Event::Pods, later);
        let paths = Changes {
            paths: true,
            ..Changes::default()
        };
        dirty.add(&Event::Host(paths), later);
        assert_eq!(dirty.since(later), start, "the first event counts");
        let taken = dirty.take();
        assert!(taken.tables && taken.filters && taken.paths && taken.host && !taken.nftables);
        assert_eq!(dirty, Dirty::default());
        assert_eq!(dirty.since(later), later);
    }

    #[test]
    fn a_failed_pass_looks_at_everything_again() {
        let mut dirty = Dirty::default();
        dirty.everything();
        assert_eq!(dirty, Dirty::ALL);
    }
}
