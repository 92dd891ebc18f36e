//! The running source: takes in what the API server and the file tell, announces this node, and
//! makes versions of the cluster of it.

mod disk;

use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use tokio::time::Instant;

use self::disk::{Cached, cached};
use super::announce;
use super::announcer::Announcer;
use super::client::{self, Connection};
use super::follower::Follower;
use super::node::Node;
use super::outage::Outage;
use super::table::Table;
use super::translate::{Keys, used};
use super::version::version;
use super::{KubeError, KubeOptions};
use crate::cluster::flannel::NetConf;
use crate::cluster::{
    Cache, ClusterConfig, Network, NodeSpec, Own, Problem, UnderlayError, own_underlay, traces,
};

/// Nodes per page of the list. A Node has some 15 KiB, and a page is in memory as a whole.
const PAGE: u32 = 100;

/// Events that come together make one version.
const GATHER: Duration = Duration::from_millis(5);

/// Versions do not follow each other faster, however many events come.
const GAP: Duration = Duration::from_millis(30);

/// A server that has not sent the list by then is not waited for, if there is a state on disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// The state on disk is written this often at most.
const SAVE: Duration = Duration::from_secs(10);

/// Name of the state on disk.
const CACHE: &str = "kube";

/// See the module's comment.
pub(super) struct Session {
    own: Own,
    asked: Vec<IpAddr>,
    kubeconfig: Option<std::path::PathBuf>,
    url: String,
    keys: Keys,
    conf: Follower,
    network: Network,
    /// Why the newest network configuration is not in force.
    conf_problem: Option<String>,
    connection: Connection,
    events: BoxStream<'static, Result<Event<Node>, watcher::Error>>,
    outage: Outage,
    /// What the server owes an answer for long, in words.
    slow: Option<String>,
    table: Table,
    /// The own underlay addresses, with the Node's addresses that they were found by.
    underlay: Option<(Vec<IpAddr>, Vec<IpAddr>)>,
    /// The own node as it was when all was well.
    last_own: Option<NodeSpec>,
    announcer: Announcer,
    /// Whether the own Node may have to be patched.
    announce: bool,
    cache: Cache,
    /// The state on disk, until the server's is there.
    cached: Option<Cached>,
    /// When to write it, if it has changed, and when it was written last.
    save: Option<Instant>,
    saved: Option<Instant>,
    begun: Instant,
    /// When to make a version, if there is a reason for one.
    due: Option<Instant>,
    last: Instant,
    /// Whether the first version was made.
    delivered: bool,
    /// What was last said to be waited for.
    waiting: String,
}

/// What the session waits for.
enum Happened {
    Watch(Option<Result<Event<Node>, watcher::Error>>),
    Heard,
    Conf(Result<NetConf, KubeError>),
    Announced(Option<Node>),
    Time,
}

/// Why there is no own node.
enum OwnTrouble {
    NoNode,
    NoPodCidr,
    Wrong(Vec<Problem>),
    Underlay(UnderlayError),
}

impl Session {
    /// Reads the network's configuration and the state on disk, and starts to watch.
    pub(super) async fn begin(options: &KubeOptions, own: &Own) -> Result<Self, KubeError> {
        let mut conf = Follower::start(options.net_conf.clone());
        let network = conf.next().await?.network();
        let config = client::config(options.kubeconfig.as_deref()).await?;
        let url = client::url(&config);
        let connection = client::connect(&config)?;
        tracing::info!("asking {url} for the Nodes of the cluster");
        let cache = Cache::new(&own.state_dir, CACHE);
        let cached = cached(&cache, &format!("kube {url}"), &own.node);
        let keys = Keys::new(&options.annotation_prefix);
        let now = Instant::now();
        Ok(Self {
            asked: options.underlay.clone(),
            kubeconfig: options.kubeconfig.clone(),
            table: Table::new(own.node.clone(), keys.clone()),
            own: own.clone(),
            url,
            keys,
            conf,
            network,
            conf_problem: None,
            events: events(&connection),
            connection,
            outage: Outage::new(),
            slow: None,
            underlay: None,
            last_own: None,
            announcer: Announcer::new(),
            announce: false,
            cache,
            cached,
            save: None,
            saved: None,
            begun: now,
            due: None,
            last: now,
            delivered: false,
            waiting: String::new(),
        })
    }

    pub(super) fn describe(&self) -> String {
        format!("kube {}", self.url)
    }

    /// The next version of the cluster.
    pub(super) async fn next(&mut self) -> Result<ClusterConfig, KubeError> {
        loop {
            let now = Instant::now();
            self.announce(now);
            self.save(now);
            self.look_for_slowness(now);
            if let Some(version) = self.version(now) {
                self.last = now;
                self.delivered = true;
                return version;
            }
            let happened = self.happened().await;
            self.take_in(happened).await;
        }
    }

    /// Waits. Whatever is waited for goes on when this is given up.
    async fn happened(&mut self) -> Happened {
        let resume = self.outage.resume;
        let timer = self.timer();
        let event = async {
            tokio::time::sleep_until(resume).await;
            self.events.next().await
        };
        let time = async {
            match timer {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = event => Happened::Watch(event),
            Ok(()) = self.connection.heard.changed() => Happened::Heard,
            conf = self.conf.next() => Happened::Conf(conf),
            node = self.announcer.done() => Happened::Announced(node),
            () = time => Happened::Time,
        }
    }

    /// When to look again although nothing happens.
    fn timer(&self) -> Option<Instant> {
        // Once that moment is over, only an event can help: a list that ends, a request, the own Node.
        let announce = self.announce.then(|| self.announcer.not_before());
        let announce = announce.filter(|moment| *moment > Instant::now());
        let patience = self.cached.as_ref().filter(|_| !self.delivered);
        let patience = patience.map(|_| self.begun + PATIENCE);
        let slow = self.connection.heard.borrow().slow_at();
        // What was told is waited for without a timer: the answer is an event.
        let slow = slow.filter(|_| self.slow.is_none() && self.outage.problem().is_none());
        let all = [self.due, announce, patience, self.save, slow];
        all.into_iter().flatten().min()
    }

    async fn take_in(&mut self, happened: Happened) {
        match happened {
            Happened::Time => {}
            Happened::Heard => {
                if self.connection.has_answered() && self.outage.answered() {
                    tracing::info!("the API server {} answers again", self.url);
                    self.mark();
                }
            }
            Happened::Watch(Some(Ok(event))) => {
                if !matches!(event, Event::Init) {
                    self.outage.progressed();
                }
                self.take_event(event);
            }
            Happened::Watch(Some(Err(error))) => self.failed(&error).await,
            // The watch never ends; if it did, a new one would be needed.
            Happened::Watch(None) => self.events = events(&self.connection),
            Happened::Conf(Ok(conf)) => {
                self.network = conf.network();
                self.conf_problem = None;
                self.announce = true;
                self.mark();
            }
            Happened::Conf(Err(error)) => {
                let error = crate::datapath::chain(&error);
                self.conf_problem = Some(format!("{error}; the last good one stays in force"));
                self.mark();
            }
            Happened::Announced(node) => {
                let failed = node.is_none();
                self.announce |= failed;
                if let Some(node) = node {
                    self.take_event(Event::Apply(node));
                }
                self.mark();
            }
        }
    }

    fn take_event(&mut self, event: Event<Node>) {
        let changed = self.table.apply(event);
        self.announce |= changed.own;
        // Until the list is complete there is nothing to make a version of.
        if changed.cluster && self.table.is_complete() {
            self.mark();
        }
    }

    async fn failed(&mut self, error: &watcher::Error) {
        // An answer that came before the failure does not end the outage.
        let _ = self.connection.has_answered();
        let advice = self.outage.failed(error, &self.url, Instant::now());
        if advice.news {
            self.mark();
        }
        if advice.reconnect {
            match reconnect(self.kubeconfig.as_deref()).await {
                Ok(connection) => {
                    self.events = events(&connection);
                    self.connection = connection;
                }
                Err(error) => tracing::warn!("{}", crate::datapath::chain(&error)),
            }
        }
    }

    /// Tells of a server that owes an answer, and of the answer's end. In an outage there is more to tell.
    fn look_for_slowness(&mut self, now: Instant) {
        let heard = self.connection.heard.borrow();
        let slow = heard.slow(&self.url, now);
        drop(heard);
        let slow = slow.filter(|_| self.outage.problem().is_none());
        if slow != self.slow {
            self.slow = slow;
            self.mark();
        }
    }

    /// There is a reason for a version.
    fn mark(&mut self) {
        let soon = (Instant::now() + GATHER).max(self.last + GAP);
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// A version, if one is due and can be made.
    fn version(&mut self, now: Instant) -> Option<Result<ClusterConfig, KubeError>> {
        if !self.table.is_complete() {
            return self.version_from_disk(now).map(Ok);
        }
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        self.due = None;
        let mut problems = Vec::new();
        let own = match self.own_node() {
            Ok(own) => {
                // The others know this node before its pods send to them.
                if !self.announcer.has_tried(now) {
                    self.due = self.announcer.patience();
                    return None;
                }
                self.last_own = Some(own.clone());
                own
            }
            Err(trouble) => {
                let known = self.last_own.clone();
                let known =
                    known.or_else(|| self.cached.as_ref()?.config.node(&self.own.node).cloned());
                match (known, trouble) {
                    (Some(known), trouble) => {
                        problems.push(format!(
                            "{}; this node stays as it was",
                            self.in_words(&trouble)
                        ));
                        known
                    }
                    (None, OwnTrouble::Wrong(problems)) => {
                        return Some(Err(KubeError::Own(problems)));
                    }
                    (None, OwnTrouble::Underlay(error)) => return Some(Err(error.into())),
                    (None, trouble @ (OwnTrouble::NoNode | OwnTrouble::NoPodCidr)) => {
                        self.say_waiting(&self.in_words(&trouble));
                        return None;
                    }
                }
            }
        };
        let made = version(&self.table, &self.network, own);
        let well = problems.is_empty();
        Some(made.map(|mut config| {
            self.cached = None;
            if well {
                let again = self.saved.map_or(now, |at| now.max(at + SAVE));
                self.save.get_or_insert(again);
            }
            self.add_problems(&mut config, problems);
            config
        }))
    }

    /// What this session has to say goes first.
    fn add_problems(&self, config: &mut ClusterConfig, mut problems: Vec<String>) {
        let silence = self
            .outage
            .problem()
            .into_iter()
            .chain(self.slow.as_deref());
        let stays = |text| format!("{text}; what is known of the cluster stays in force");
        problems.extend(silence.map(stays));
        problems.extend(self.conf_problem.clone());
        problems.extend(self.announcer.problem().map(str::to_owned));
        if let Some(own) = self.table.own() {
            problems.extend(announce::wrong_overwrites(own, &self.keys));
        }
        problems.append(&mut config.remarks.problems);
        config.remarks.problems = problems;
    }

    /// Says once what is waited for.
    fn say_waiting(&mut self, reason: &str) {
        if self.waiting != reason {
            tracing::warn!("waiting: {reason}");
            self.waiting = reason.to_owned();
        }
    }

    /// The own node as its Node says, and as the kernel's addresses are.
    fn own_node(&mut self) -> Result<NodeSpec, OwnTrouble> {
        let own = self.table.own().ok_or(OwnTrouble::NoNode)?;
        let pod_cidrs = own.pod_cidrs.clone().map_err(OwnTrouble::Wrong)?;
        let pod_cidrs = used(&pod_cidrs, &self.network);
        if pod_cidrs.is_empty() {
            return Err(OwnTrouble::NoPodCidr);
        }
        let known = self.underlay.as_ref().filter(|(by, _)| *by == own.internal);
        let underlay = match known {
            Some((_, underlay)) => underlay.clone(),
            None => own_underlay(&self.asked, &own.internal).map_err(OwnTrouble::Underlay)?,
        };
        let kept = self.last_own.as_ref().map(NodeSpec::vtep_mac);
        let spec = NodeSpec {
            name: self.own.node.clone(),
            pod_cidrs,
            vteps: announce::vteps(own, kept, &underlay, &self.keys),
        };
        self.underlay = Some((own.internal.clone(), underlay));
        Ok(spec)
    }

    fn in_words(&self, trouble: &OwnTrouble) -> String {
        let name = &self.own.node;
        match trouble {
            OwnTrouble::NoNode => format!(
                "the cluster has no Node {name:?}: does --node name it, and has its kubelet registered it?"
            ),
            OwnTrouble::NoPodCidr => {
                let network: Vec<String> = self
                    .network
                    .pod_cidrs
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                format!(
                    "the Node {name:?} has no podCIDR of {} yet: the controller manager assigns one (--allocate-node-cidrs)",
                    network.join(" or ")
                )
            }
            OwnTrouble::Wrong(problems) => KubeError::Own(problems.clone()).to_string(),
            OwnTrouble::Underlay(error) => crate::datapath::chain(error),
        }
    }

    /// Patches the own Node if it does not announce what it should.
    fn announce(&mut self, now: Instant) {
        if !self.announce || !self.table.is_complete() || !self.announcer.is_free(now) {
            return;
        }
        let Ok(spec) = self.own_node() else {
            return;
        };
        let Some(own) = self.table.own() else {
            return;
        };
        self.announce = false;
        let trace = announce::trace(&self.own.node, &self.keys);
        traces::Kind::Kube.leave(&self.own.state_dir, &trace);
        let vni = self.network.vni;
        match announce::patch(own, &spec.vteps, vni, &self.keys, Timestamp::now()) {
            None => {
                if self.announcer.nothing_to_do() {
                    self.mark();
                }
            }
            Some(patch) => {
                let client = &self.connection.client;
                self.announcer.send(client, &self.own.node, patch);
            }
        }
    }
}

fn events(connection: &Connection) -> BoxStream<'static, Result<Event<Node>, watcher::Error>> {
    let nodes: Api<Node> = Api::all(connection.client.clone());
    let config = watcher::Config::default().page_size(PAGE);
    watcher::watcher(nodes, config).boxed()
}

async fn reconnect(kubeconfig: Option<&std::path::Path>) -> Result<Connection, KubeError> {
    let config = client::config(kubeconfig).await?;
    Ok(client::connect(&config)?)
}
