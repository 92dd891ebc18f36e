//! The running agent: puts the rooms together, starts them in order, and keeps the node as it should be.

mod areas;
mod cleanup;
mod events;
mod lock;
mod memory;
mod pass;
mod pins;
mod report;
mod runtime;
mod start;
mod state;
mod uplink;
mod ways;
mod xdp;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::RwLock;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::ApiError;
use crate::api::health::{self, Probe};
use crate::cluster::{ClusterError, SourceOptions};
use crate::cni::install::Configuration;
use crate::datapath::DatapathError;
use crate::host::preflight::Trouble;
use crate::host::rtnl::RtnlError;
use crate::host::watch::{Changes, WatchError};
use crate::pods::PodError;

use events::{Dirty, Event, Events};
use pass::Reconciler;
use uplink::UplinkError;

pub use cleanup::{Directories, Removed, cleanup};
pub use lock::{Lock, LockError};
pub use xdp::XdpWish;

/// Options of the agent.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the own node in the cluster.
    pub node: String,
    /// Where the cluster's nodes come from.
    pub source: SourceOptions,
    /// Where the socket is.
    pub run_dir: PathBuf,
    /// Where Flannel's file for other programs is written, if it is.
    pub subnet_env: Option<PathBuf>,
    /// Where attachments are kept.
    pub state_dir: PathBuf,
    /// Where maps, programs and links are pinned, and their capacities.
    pub datapath: crate::datapath::Options,
    /// Prefixes outside the cluster that see pods' own addresses.
    pub unmasqueraded: Vec<ipnet::IpNet>,
    /// The device on the underlay, if not the one that holds the underlay address.
    pub uplink: Option<String>,
    /// Whether XDP runs on the uplinks.
    pub xdp: XdpWish,
    /// Where probes are answered, if they are.
    pub health_addr: Option<SocketAddr>,
    /// What tells the container runtime that pods can be attached, if the agent writes it.
    pub cni_conf: Option<Configuration>,
}

/// Why the agent cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Another agent runs, or the run directory cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Things that must be put right first.
    #[error("the agent cannot start:{}", list(.0.iter().map(|o| crate::datapath::chain(o))))]
    Preflight(Vec<Obstacle>),
    /// The datapath cannot be loaded.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The attachments cannot be read.
    #[error(transparent)]
    Pods(#[from] PodError),
    /// The kernel cannot be asked.
    #[error(transparent)]
    Rtnl(#[from] RtnlError),
    /// Changes of the host cannot be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The API cannot be served.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The pins cannot be watched.
    #[error("cannot watch {path} for removed pins")]
    Pins {
        /// The directory.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] std::io::Error),
    /// The node could not be set up.
    #[error("the node cannot be set up:{}", list(.0.iter().cloned()))]
    Setup(Vec<String>),
    /// A thread ended without an answer, which is a defect.
    #[error("the agent's work was interrupted; this is a defect, please report it")]
    Interrupted,
}

/// One thing that must be put right before the agent can start.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// Of the machine.
    #[error(transparent)]
    Machine(#[from] Trouble),
    /// Of the cluster's description.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Of the underlay.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// XDP is demanded where it cannot be.
    #[error("--xdp on is not possible: {0}")]
    Xdp(String),
}

fn list(items: impl Iterator<Item = String>) -> String {
    items
        .map(|item| {
            format!(
                "
- {}",
                item.trim_end()
            )
        })
        .collect()
}

/// After an event, this long without another one ends the wait for more of them.
const QUIET: Duration = Duration::from_millis(30);

/// No event waits longer than this.
const PATIENCE: Duration = Duration::from_millis(250);

/// Pauses between attempts when something cannot be done: doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Runs the agent until SIGTERM or SIGINT. The datapath stays.
///
/// # Errors
/// When it cannot start, or the API's socket fails.
pub async fn run(options: Options) -> Result<(), NodeError> {
    memory::share_one_heap();
    let mut signals = events::Signals::new().map_err(NodeError::Signals)?;
    // Held until the end: two agents on one state directory would give addresses out twice.
    let _lock = Lock::take(&options.run_dir)?;
    // Ends with this function, whatever it is doing.
    let mut beside = JoinSet::new();
    let probe = Probe::default();
    if let Some(address) = options.health_addr {
        beside.spawn(health::serve(health::bind(address).await?, probe.clone()));
    }
    let cni_conf = options.cni_conf.clone();
    // A source may wait for its server. What a start that ends here leaves is what a crash leaves.
    let started = tokio::select! {
        started = start::start(options) => started?,
        name = signals.stop() => {
            tracing::info!(signal = name, "stopping before the start was complete");
            return Ok(());
        }
    };
    let start::Started {
        reconciler,
        mut events,
        api,
        gate,
    } = started;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let node = Arc::clone(&api.state.node);
    let mut server = tokio::spawn(crate::api::serve(api.listener, api.state, shutdown));
    if let Some(conf) = cni_conf {
        runtime::tell(conf, probe.clone(), &mut beside);
    }
    probe.started(node);
    tracing::info!("ready");
    let outcome = tokio::select! {
        name = signals.stop() => {
            tracing::info!(signal = name, "stopping; pods go on talking");
            let _ = stop.send(());
            // Requests that have begun are finished, but a client that never ends is not waited for.
            let _ = tokio::time::timeout(Duration::from_secs(3), &mut server).await;
            Ok(())
        }
        ended = &mut server => match ended {
            Ok(outcome) => outcome.map_err(NodeError::from),
            Err(_) => Err(NodeError::Interrupted),
        },
        failed = keep(reconciler, &mut events, &gate) => Err(failed),
    };
    events.end();
    // A pass or an attachment that has begun is not left half done.
    let _ = tokio::time::timeout(Duration::from_secs(5), gate.write()).await;
    outcome
}

/// Waits for changes and puts the node right, forever.
async fn keep(
    mut reconciler: Reconciler,
    events: &mut Events,
    gate: &Arc<RwLock<()>>,
) -> NodeError {
    let mut retry = FIRST_RETRY;
    let mut dirty = Dirty::default();
    // When to run the next pass at the latest, if there is a reason for one.
    let mut due: Option<Instant> = None;
    loop {
        // However many events come, a pass that is due runs.
        if due.is_none_or(|due| Instant::now() < due) {
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.next() => {
                    let Some(event) = event else {
                        return NodeError::Interrupted;
                    };
                    let now = Instant::now();
                    dirty.add(&event, now);
                    let latest = if event.is_urgent() { now } else { now + QUIET };
                    // The first event starts the patience; later ones move the end up to it.
                    due = Some(latest.min(dirty.since(now) + PATIENCE));
                    match event {
                        Event::Cluster(version) => reconciler.new_version(*version),
                        Event::Host(Changes { too_large_to: Some(peer), .. }) => {
                            reconciler.ask_again(peer);
                        }
                        Event::Host(_) | Event::Pods | Event::Pins | Event::Bpf => {}
                    }
                    continue;
                }
                () = wait => {}
            }
        }
        let guard = Arc::clone(gate).write_owned().await;
        let work = dirty.take();
        let pass = tokio::task::spawn_blocking(move || {
            let _guard = guard;
            let complete = reconciler.pass(work);
            (reconciler, complete)
        });
        let complete;
        (reconciler, complete) = match pass.await {
            Ok(done) => done,
            Err(_) => return NodeError::Interrupted,
        };
        due = reconciler.due().map(Instant::from_std);
        if complete {
            retry = FIRST_RETRY;
        } else {
            dirty.everything();
            due = Some(Instant::now() + retry);
            retry = (retry * 2).min(LAST_RETRY);
        }
    }
}
