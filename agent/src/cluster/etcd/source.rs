//! The source: keeps a conversation with some member going, and makes a version of every change.

use std::net::IpAddr;
use std::time::Duration;

use oxlan_common::addr::Mac;
use tokio::time::Instant;

use super::acquire::{Applicant, acquire};
use super::announcement::announcement;
use super::memory::{Known, Memory};
use super::record::Holder;
use super::session::{Change, Happened, Session, list, pause};
use super::{EtcdError, Options, client};
use crate::cluster::flannel::NetConf;
use crate::cluster::problem::Problems;
use crate::cluster::traces::{self, Trace};
use crate::cluster::validate::check_node;
use crate::cluster::{
    Cache, ClusterConfig, ClusterError, NextVersion, NodeSpec, Own, Source, Vtep, own_underlay,
};

/// How long the agent's start waits for etcd: shortly if there is something to start with.
const PATIENCE: Duration = Duration::from_secs(15);
const PATIENCE_WITH_MEMORY: Duration = Duration::from_secs(2);

/// A member must have answered everything by then.
const ESTABLISH: Duration = Duration::from_secs(20);

/// Changes are remembered on disk after this time at the latest, all at once.
const REMEMBER: Duration = Duration::from_secs(5);

/// The network in etcd, followed.
pub struct EtcdSource {
    options: Options,
    own: Own,
    underlay: Vec<IpAddr>,
    cache: Cache,
    /// What is known; none before the first time.
    known: Option<Known>,
    session: Option<Session>,
    /// The member to ask first.
    next: usize,
    /// What is wrong, for people.
    problem: Option<String>,
    /// What has become of the own subnet, for people.
    lost: Option<String>,
    /// When what has changed is to be remembered.
    remember_at: Option<Instant>,
    /// Attempts and conversations that came to nothing, one after the other.
    failures: u32,
    /// A lease that was granted and not used.
    spare: Option<i64>,
}

impl EtcdSource {
    /// The network at these endpoints, as seen by this node. Nothing is asked yet.
    #[must_use]
    pub fn new(options: Options, own: Own) -> Self {
        let cache = Cache::new(&own.state_dir, "etcd");
        Self {
            options,
            own,
            underlay: Vec::new(),
            cache,
            known: None,
            session: None,
            next: 0,
            problem: None,
            lost: None,
            remember_at: None,
            failures: 0,
            spare: None,
        }
    }

    async fn next_version(&mut self) -> Result<ClusterConfig, ClusterError> {
        if self.known.is_none() {
            return Ok(self.first().await?);
        }
        loop {
            let changed = match self.session.take() {
                Some(session) => self.follow(session).await?,
                None => self.again().await?,
            };
            if changed {
                return Ok(self.version()?);
            }
        }
    }

    /// The first version: from etcd, or from memory if etcd does not answer.
    async fn first(&mut self) -> Result<ClusterConfig, EtcdError> {
        self.underlay = own_underlay(&self.options.underlay, &[])?;
        let memory = self.memory();
        let before = memory.as_ref().and_then(Memory::own);
        let patience = if before.is_some() {
            PATIENCE_WITH_MEMORY
        } else {
            PATIENCE
        };
        let deadline = Instant::now() + patience;
        let mut last = None;
        let error = loop {
            let tried = self.establish(before);
            match tokio::time::timeout_at(deadline, tried).await {
                Ok(Ok(_)) => return self.version(),
                Ok(Err(error)) if error.is_final() => break error,
                Ok(Err(error)) => last = Some(error),
                Err(_) => {}
            }
            self.failures += 1;
            let paused = tokio::time::timeout_at(deadline, pause(self.failures)).await;
            if paused.is_err() || Instant::now() >= deadline {
                // What went wrong says more than that the last attempt was cut short.
                break last.unwrap_or_else(|| EtcdError::Silent {
                    endpoint: self.endpoint(),
                });
            }
        };
        if error.is_of_options() {
            return Err(error);
        }
        let Some(known) = memory.and_then(|m| self.recalled(&m)) else {
            return Err(error);
        };
        self.known = Some(known);
        self.complain(&error);
        // What is wrong with the memory must not hide what is wrong with etcd.
        self.version().map_err(|of_memory| {
            unusable(&of_memory);
            error
        })
    }

    /// What is remembered, if it can be used.
    fn recalled(&self, memory: &Memory) -> Option<Known> {
        let known = memory.known(&self.options.prefix);
        known.unwrap_or_else(|error| {
            unusable(&error);
            None
        })
    }

    fn memory(&self) -> Option<Memory> {
        let memory: Option<Memory> = self.cache.load();
        memory.filter(|m| m.is_of(&self.options.prefix))
    }

    fn endpoint(&self) -> String {
        let endpoints = &self.options.endpoints;
        let index = self.next.checked_rem(endpoints.len()).unwrap_or(0);
        endpoints.get(index).cloned().unwrap_or_default()
    }

    /// Waits for changes; whether they make a new version.
    async fn follow(&mut self, mut session: Session) -> Result<bool, EtcdError> {
        let due = self.remember_at;
        let happened = async {
            match due {
                Some(due) => tokio::time::timeout_at(due, session.wait()).await.ok(),
                None => Some(session.wait().await),
            }
        };
        let outcome = match happened.await {
            None => {
                self.remember();
                self.session = Some(session);
                return Ok(false);
            }
            Some(Ok(Happened::RenewalDue)) => session.renew().await.map(|is| (false, !is)),
            Some(Ok(Happened::Changes(mut changes))) => {
                let more = session.more().await;
                more.map(|more| {
                    changes.extend(more);
                    self.take_in(changes)
                })
            }
            Some(Err(error)) => Err(error),
        };
        if self.remember_at.is_some() && !matches!(outcome, Ok((_, false))) {
            // Nobody is there to wait for the right moment.
            self.remember();
        }
        match outcome {
            // The own subnet is no longer ours, or the network is another one: ask for everything.
            Ok((_, true)) => Ok(false),
            Ok((changed, false)) => {
                self.session = Some(session);
                self.failures = 0;
                if changed {
                    self.remember_at.get_or_insert(Instant::now() + REMEMBER);
                }
                Ok(changed)
            }
            Err(error) => {
                tracing::info!("{error}; asking again");
                // Another member, for this one may be the one that is ill.
                self.next = self.next.wrapping_add(1);
                if session.has_lasted() {
                    self.failures = 0;
                    return Ok(false);
                }
                self.failures = self.failures.saturating_add(1);
                Ok(self.complain(&error))
            }
        }
    }

    /// Takes changes in: whether there is a new version, and whether everything must be asked for anew.
    fn take_in(&mut self, changes: Vec<Change>) -> (bool, bool) {
        let Some(known) = &mut self.known else {
            return (false, true);
        };
        let (mut changed, mut anew) = (false, false);
        for change in changes {
            match change {
                Change::Config(text) => {
                    changed |= text.as_ref() != Some(&known.text);
                    let key = self.options.prefix.config();
                    self.problem = match text {
                        Some(text) if text == known.text => None,
                        Some(text) => match usable(&text, &key) {
                            Ok(_) => {
                                anew = true;
                                None
                            }
                            Err(error) => Some(still(&error)),
                        },
                        None => Some(still(&EtcdError::NoConfig { key })),
                    };
                }
                Change::Put(name, entry) => {
                    let is_ours = |h: &Holder| h.is_at(&self.underlay);
                    let is_ours = entry.holder.as_ref().is_ok_and(is_ours);
                    let own = known.registry.get(&known.own_name);
                    anew |= if name == known.own_name {
                        let said = entry.holder.as_ref().ok().filter(|_| is_ours);
                        known.announced = said.unwrap_or(&known.announced).clone();
                        !is_ours
                    } else {
                        // The others go by the older key.
                        is_ours && own.is_some_and(|own| entry.created < own.created)
                    };
                    changed |= known.registry.put(&name, entry);
                }
                Change::Removed(name) => {
                    anew |= name == known.own_name;
                    changed |= known.registry.remove(&name);
                }
            }
        }
        (changed, anew)
    }

    /// Asks for everything again; whether there is a new version, which a failure is, too.
    async fn again(&mut self) -> Result<bool, EtcdError> {
        if self.failures > 0 {
            pause(self.failures.saturating_add(2)).await;
        }
        let before = self.known.as_ref().map(|k| k.own);
        match self.establish(before).await {
            Ok(changed) => Ok(changed),
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                Ok(self.complain(&error))
            }
        }
    }

    /// Notes what is wrong; whether that is news.
    fn complain(&mut self, error: &EtcdError) -> bool {
        let text = Some(still(error));
        let news = self.problem != text;
        self.problem = text;
        news
    }

    /// Begins a conversation with the first member that answers as it should; whether what is known
    /// is another than before.
    async fn establish(&mut self, before: Option<super::Subnet>) -> Result<bool, EtcdError> {
        let mut last = None;
        for _ in 0..self.options.endpoints.len() {
            let endpoint = self.endpoint();
            let tried = tokio::time::timeout(ESTABLISH, self.establish_at(&endpoint, before)).await;
            match tried.unwrap_or_else(|_| Err(EtcdError::Silent { endpoint })) {
                Ok(changed) => return Ok(changed),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => {
                    tracing::debug!("{error}");
                    last = Some(error);
                    self.next = self.next.wrapping_add(1);
                }
            }
        }
        Err(last.unwrap_or(EtcdError::Endpoint {
            endpoint: String::new(),
            wanted: "the address of a member is wanted",
        }))
    }

    async fn establish_at(
        &mut self,
        endpoint: &str,
        before: Option<super::Subnet>,
    ) -> Result<bool, EtcdError> {
        let prefix = &self.options.prefix;
        let key = prefix.config();
        let mut client = client::connect(&self.options, endpoint).await?;
        let mut listed = list(&mut client, endpoint, prefix).await?;
        let Some(text) = listed.config.take() else {
            return Err(EtcdError::NoConfig { key });
        };
        let conf = usable(&text, &key)?;
        let families = conf.subnets(&key)?;
        let applicant = Applicant {
            prefix,
            network: &conf.network(),
            families: &families,
            underlay: &self.underlay,
            before,
            lease: self.options.lease,
        };
        let said = self.said_before();
        let announce =
            |there: Option<&Holder>| announcement(&self.underlay, &conf, there.or(said.as_ref()));
        let spare = &mut self.spare;
        let held = acquire(
            &mut client,
            endpoint,
            &applicant,
            &mut listed,
            spare,
            announce,
        )
        .await?;
        let session =
            Session::begin(client, endpoint, prefix, listed.revision, held.clone()).await?;
        let own_name = held.subnet.name();
        let entry = listed.registry.get(&own_name);
        let there = entry.and_then(|e| e.holder.as_ref().ok());
        let known = Known {
            text,
            announced: announcement(&self.underlay, &conf, there.or(said.as_ref())),
            conf,
            registry: listed.registry,
            own: held.subnet,
            own_name,
        };
        Ok(self.now_known(known, session))
    }

    /// Puts what was learnt in the place of what was known; whether it is another.
    fn now_known(&mut self, known: Known, session: Session) -> bool {
        let was = self.known.as_ref();
        let had = was.map(|w| w.own_name.clone());
        let had = had.or_else(|| self.memory().and_then(|m| Some(m.own()?.name())));
        if let Some(had) = had.filter(|had| *had != known.own_name) {
            let holder = known
                .registry
                .get(&had)
                .and_then(|e| e.holder.as_ref().ok());
            let why = match holder {
                Some(holder) => format!("{} has it now", holder.address()),
                None => "the network no longer has it".to_owned(),
            };
            self.lost = Some(format!(
                "this node's subnet was {had}, and {why}: from now on it is {}; delete pods with addresses of the old one",
                known.own_name
            ));
        }
        let same = was.is_some_and(|w| {
            w.text == known.text && w.own_name == known.own_name && w.registry == known.registry
        });
        let silent = self.problem.take().is_none();
        tracing::debug!(
            endpoint = session.endpoint,
            subnet = known.own_name,
            "etcd answers"
        );
        let key = format!("{}{}", self.options.prefix.subnets(), known.own_name);
        let trace = Trace::Elsewhere {
            what: format!("the key {key} in etcd"),
            command: format!("etcdctl --endpoints {} del '{key}'", session.endpoint),
        };
        traces::Kind::Etcd.leave(&self.own.state_dir, &trace);
        self.session = Some(session);
        self.known = Some(known);
        if !same {
            self.remember();
        }
        !(same && silent)
    }

    /// What this node has said of itself: its MAC stays the same also when its key is gone.
    fn said_before(&self) -> Option<Holder> {
        if let Some(known) = &self.known {
            return Some(known.announced.clone());
        }
        let memory = self.memory()?;
        Some(self.recalled(&memory)?.announced)
    }

    fn remember(&mut self) {
        self.remember_at = None;
        if let Some(known) = &self.known {
            let saved = self.cache.save(&Memory::of(known, &self.options.prefix));
            if let Err(error) = saved {
                tracing::warn!("{}", crate::datapath::chain(&error));
            }
        }
    }

    /// The cluster as it is known.
    fn version(&self) -> Result<ClusterConfig, EtcdError> {
        let key = || self.options.prefix.config();
        let Some(known) = &self.known else {
            return Err(EtcdError::NoConfig { key: key() });
        };
        let network = known.conf.network();
        let announced = announcement(&self.underlay, &known.conf, Some(&known.announced));
        let own = self.own_node(known, &announced);
        let mut wrong = Problems::default();
        check_node(&own, &network, &mut wrong);
        let problems = wrong.into_vec();
        if !problems.is_empty() {
            return Err(EtcdError::Own { problems });
        }
        let cluster = known.registry.cluster(&network, own, &known.own_name);
        let mut cluster = cluster.map_err(|problems| EtcdError::Network {
            key: key(),
            problems,
        })?;
        let remarks = &mut cluster.remarks.problems;
        remarks.extend(self.problem.iter().chain(&self.lost).cloned());
        Ok(cluster)
    }

    fn own_node(&self, known: &Known, holder: &Holder) -> NodeSpec {
        let data = holder.data_v4.or(holder.data_v6);
        let mac = data.map_or(Mac::ZERO, |data| data.vtep_mac);
        let vtep = |underlay: &IpAddr| Vtep {
            underlay: *underlay,
            mac,
        };
        NodeSpec {
            name: self.own.node.clone(),
            pod_cidrs: known.own.prefixes(),
            vteps: self.underlay.iter().map(vtep).collect(),
        }
    }
}

impl Source for EtcdSource {
    fn describe(&self) -> String {
        format!("etcd {}", self.options.endpoints.join(","))
    }

    fn next(&mut self) -> NextVersion<'_> {
        Box::pin(self.next_version())
    }
}

/// A configuration that a network in etcd can have.
fn usable(text: &[u8], key: &str) -> Result<NetConf, EtcdError> {
    let conf = NetConf::parse(text, key)?;
    if conf.pod_cidrs().iter().all(|p| p.addr().is_ipv6()) {
        return Err(EtcdError::NoIpv4 {
            key: key.to_owned(),
        });
    }
    // What it says of subnets, too, before anything relies on it.
    conf.subnets(key)?;
    Ok(conf)
}

fn unusable(error: &EtcdError) {
    let error = crate::datapath::chain(error);
    tracing::warn!("cannot use what was remembered of the cluster: {error}");
}

/// Why there is nothing new, for people.
fn still(error: &EtcdError) -> String {
    format!(
        "{}; what was known before stays in force",
        crate::datapath::chain(error)
    )
}
