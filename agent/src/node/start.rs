//! The agent's start: check everything, then set the node up, then answer requests.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::sync::RwLock as Gate;

use super::events::Events;
use super::pass::Reconciler;
use super::state::{State, View};
use super::{NodeError, Obstacle, Options, XdpWish, uplink, xdp};
use crate::api::types::{Device, FeatureRow, Health};
use crate::api::{self, ApiState};
use crate::cluster::{ClusterConfig, ClusterError, Own};
use crate::datapath::{self, Datapath, Probed, Program};
use crate::host::nic::{self, Nic};
use crate::host::preflight::{self, Directories};
use crate::host::rtnl::Rtnl;
use crate::host::watch::{Interest, Watch};
use crate::host::{device, layer3, shaper};
use crate::pods::{NodeFacts, Pods, RestoreReport};
use crate::reconcile::desire::{self, OVERLAY};
use crate::reconcile::ways::Ways;

/// A node that is set up.
pub(super) struct Started {
    pub(super) reconciler: Reconciler,
    pub(super) events: Events,
    pub(super) api: Api,
    /// Closes the node for attaching and detaching while a pass runs.
    pub(super) gate: Arc<Gate<()>>,
}

/// What is needed to answer requests.
pub(super) struct Api {
    pub(super) listener: UnixListener,
    pub(super) state: ApiState,
}

/// How long a source may take for its first answer where the agent cannot start anyway: a file has answered by then,
/// and its problems are told with the machine's.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sets the node up. Nothing on it is touched before everything is checked.
pub(super) async fn start(options: Options) -> Result<Started, NodeError> {
    let machine = check_machine(&options);
    let mut source = options.source.clone().open(Own {
        node: options.node.clone(),
        state_dir: options.state_dir.clone(),
    });
    // A source may wait for its server for as long as it takes, which must not hide what is wrong here.
    let patience = (!machine.is_empty()).then_some(PATIENCE);
    let (cluster, pod_mtu) = check(&options, machine, hear(source.next(), patience).await)?;
    for problem in &cluster.remarks.problems {
        tracing::warn!("{problem}");
    }
    for note in &cluster.remarks.notes {
        tracing::info!("{note}");
    }
    // From here on every change is seen, so what is read below cannot be outdated unnoticed.
    let interest = Arc::new(Mutex::new(Interest::default()));
    let watch = Watch::new(Arc::clone(&interest))?;
    let datapath = Arc::new(Datapath::open(options.datapath.clone())?);
    if options.xdp == XdpWish::On {
        // What must run, and cannot, is to be known before a predecessor's programs are replaced.
        datapath.load(Program::XdpUplink)?;
    }
    let gate = Arc::new(Gate::new(()));
    let closed = Arc::clone(&gate).write_owned().await;

    let own = cluster.node(&options.node).ok_or(NodeError::Interrupted)?;
    let facts = NodeFacts {
        pod_cidrs: own.pod_cidrs.clone(),
        mtu: pod_mtu,
    };
    let pods = Pods::new(
        &options.state_dir,
        Arc::clone(&datapath) as Arc<dyn crate::pods::PodDatapath>,
        facts,
        Arc::clone(&gate),
    )?;
    let pods = Arc::new(pods);
    // Who calls from here on waits for the answer. A DEL that met nobody would count as done, and
    // what it was about would have been read already.
    let listener = api::bind(&options.run_dir)?;
    report(&pods.restore().await?);

    let state = Arc::new(State {
        node: options.node.clone(),
        source: source.describe(),
        bpf_dir: options.datapath.bpf_dir.display().to_string(),
        datapath: Arc::clone(&datapath),
        repairs: AtomicU64::new(0),
        ready: OnceLock::new(),
        features: OnceLock::new(),
        view: RwLock::new(View {
            cluster: Arc::new(cluster),
            ways: Arc::default(),
            uplinks: Vec::new(),
            xdp: Vec::new(),
            overlay: Device::default(),
            pod_mtu,
            problems: Vec::new(),
            health: Health::Unavailable("the agent is starting".into()),
        }),
    });
    // Beside the rest: a network namespace takes its time.
    let limiting = tokio::task::spawn_blocking(shaper::refusal);
    let reconciler = Reconciler::new(&options, Arc::clone(&state), Arc::clone(&pods), interest)?;
    let first = tokio::task::spawn_blocking(move || {
        let mut reconciler = reconciler;
        let done = reconciler.set_up();
        (reconciler, done)
    });
    let (reconciler, done) = first.await.map_err(|_| NodeError::Interrupted)?;
    done?;
    let events = Events::start(
        watch,
        &options.datapath.bpf_dir,
        &datapath,
        Arc::clone(&pods),
        source,
    )?;
    let limiting = limiting.await.map_err(|_| NodeError::Interrupted)?;
    let features = datapath.features(events.unwatched.clone(), limiting);
    let _ = state.features.set(report_features(features));
    drop(closed);
    let _ = state.ready.set(Instant::now());
    Ok(Started {
        reconciler,
        events,
        api: Api {
            listener,
            state: ApiState { pods, node: state },
        },
        gate,
    })
}

/// What is wrong with the machine, whatever the cluster is.
fn check_machine(options: &Options) -> Vec<Obstacle> {
    let directories = Directories {
        run: &options.run_dir,
        state: &options.state_dir,
        bpf: &options.datapath.bpf_dir,
    };
    let troubles = preflight::machine(&directories);
    troubles.into_iter().map(Obstacle::from).collect()
}

/// What is said, unless that takes longer than the patience; without one it is waited for.
async fn hear<T>(said: impl Future<Output = T>, patience: Option<Duration>) -> Option<T> {
    match patience {
        Some(patience) => tokio::time::timeout(patience, said).await.ok(),
        None => Some(said.await),
    }
}

/// Checks cluster and underlay, and returns the cluster and the pods' MTU; what is wrong is told together with
/// what is wrong with the machine. A cluster of which nothing is known is only waited for on a fit one.
fn check(
    options: &Options,
    machine: Vec<Obstacle>,
    cluster: Option<Result<ClusterConfig, ClusterError>>,
) -> Result<(ClusterConfig, u16), NodeError> {
    let mut obstacles = machine;
    match cluster {
        Some(Ok(cluster)) => {
            let mtu = check_cluster(options, &cluster, &mut obstacles)?;
            if obstacles.is_empty() {
                return Ok((cluster, mtu));
            }
        }
        Some(Err(error)) => obstacles.push(error.into()),
        None => {}
    }
    Err(NodeError::Preflight(obstacles))
}

fn check_cluster(
    options: &Options,
    cluster: &ClusterConfig,
    obstacles: &mut Vec<Obstacle>,
) -> Result<u16, NodeError> {
    let own = cluster.node(&options.node).ok_or(NodeError::Interrupted)?;
    let mut rtnl = Rtnl::open()?;
    let devices = device::devices(&mut rtnl)?;
    let addresses = layer3::addresses(&mut rtnl)?;
    let fit = preflight::fit(&own.pod_cidrs, cluster.network.port, OVERLAY, &devices);
    obstacles.extend(fit.into_iter().map(Obstacle::from));
    let name = options.uplink.as_deref();
    match uplink::find(&devices, &addresses, own, name, &Ways::default()) {
        Ok(uplinks) => {
            if options.xdp == XdpWish::On {
                let indexes: Vec<u32> = uplinks.iter().map(|u| u.ifindex).collect();
                let reasons = xdp_obstacles(&mut rtnl, &indexes, &options.datapath.bpf_dir)?;
                obstacles.extend(reasons.into_iter().map(Obstacle::Xdp));
            }
            let mtu = uplink::mtu(&uplinks).unwrap_or(0);
            Ok(desire::pod_mtu(mtu, own, cluster.network.mode))
        }
        Err(error) => {
            obstacles.push(error.into());
            Ok(0)
        }
    }
}

/// Why XDP cannot be where it is demanded, as far as that is known without trying.
fn xdp_obstacles(
    rtnl: &mut Rtnl,
    uplinks: &[u32],
    bpf_dir: &Path,
) -> Result<Vec<String>, NodeError> {
    let reason = |(ifindex, nic): (u32, Nic)| {
        let taken = || {
            let name = &nic.name;
            let id = datapath::foreign_xdp(bpf_dir, ifindex)?;
            Some(format!(
                "{name} runs the XDP program {id} of somebody else: `ip link set {name} xdp off` removes it"
            ))
        };
        xdp::obstacle(&nic).or_else(taken)
    };
    let nics = nic::nics(rtnl, uplinks)?.into_iter();
    Ok(nics.filter_map(reason).collect())
}

fn report(restored: &RestoreReport) {
    for reason in &restored.removed {
        tracing::info!("removed an attachment: {reason}");
    }
    for problem in &restored.problems {
        tracing::warn!("an attachment cannot be used: {problem}");
    }
    if restored.kept > 0 {
        tracing::info!(
            pods = restored.kept,
            "kept the attachments of a predecessor"
        );
    }
}

/// Tells which features the kernel lacks, and what is done instead.
fn report_features(features: Vec<Probed>) -> Vec<FeatureRow> {
    let row = |Probed { feature, refusal }: Probed| FeatureRow {
        name: feature.name().into(),
        available: refusal.is_none(),
        enables: feature.enables().into(),
        without: feature.without().into(),
        refusal,
    };
    let rows: Vec<FeatureRow> = features.into_iter().map(row).collect();
    for row in rows.iter().filter(|row| !row.available) {
        let refusal = row.refusal.as_deref().unwrap_or_default();
        tracing::info!(refusal, "this kernel lacks {}: {}", row.name, row.without);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    /// A source that waits for its server keeps nobody from hearing what is wrong with the machine.
    #[tokio::test]
    async fn only_a_fit_machine_waits_for_its_source() {
        let none = Some(Duration::ZERO);
        assert_eq!(hear(pending::<u8>(), none).await, None);
        // What is known at once, as a file's content, is heard all the same.
        assert_eq!(hear(ready(1), none).await, Some(1));
        assert_eq!(hear(ready(2), None).await, Some(2));
    }
}
