//! A node: a namespace with an uplink, an agent and pods.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::agent::{Agent, Directories};
use crate::binaries::binary;
use crate::cni::{self, Answer, Call};
use crate::netns::Netns;
use crate::pod::{IFNAME, Pod};
use crate::run::{finish, output, words};
use crate::scope::Scope;
use crate::wait::{SOON, until};

/// A node of a cluster.
#[derive(Debug)]
pub struct Node {
    /// Its name in the cluster, as `node-1`.
    pub name: String,
    /// From 1 on.
    pub number: u8,
    /// Its namespace.
    pub netns: Netns,
    /// Its address on the underlay.
    pub underlay: Ipv4Addr,
    /// Its pod CIDRs.
    pub pod_cidrs: Vec<String>,
    /// Directories of its agent.
    pub dirs: Directories,
    /// Whether its agents get `--xdp on`, unless something else is said.
    pub xdp: bool,
    cluster_file: PathBuf,
    scope_prefix: String,
    agent: Mutex<Option<Agent>>,
}

impl Node {
    /// Describes a node; nothing is started.
    #[must_use]
    pub fn new(
        scope: &Scope,
        number: u8,
        netns: Netns,
        pod_cidrs: Vec<String>,
        cluster_file: PathBuf,
    ) -> Self {
        let name = format!("node-{number}");
        let base = scope.dir().join(&name);
        Self {
            number,
            netns,
            underlay: crate::underlay::node_v4(number),
            pod_cidrs,
            dirs: Directories {
                run: base.join("run"),
                state: base.join("state"),
                bpf: scope.bpf_dir().join(&name),
                log: scope.dir().join(format!("{name}.log")),
            },
            cluster_file,
            xdp: false,
            scope_prefix: scope.prefix().to_owned(),
            agent: Mutex::new(None),
            name,
        }
    }

    /// Starts the agent and waits until it answers.
    ///
    /// # Errors
    ///
    /// If it ends, or does not get ready; the text holds its log.
    pub fn start_agent(&self) -> Result<()> {
        self.spawn_agent()?;
        self.wait_ready()
    }

    /// Starts the agent without waiting.
    ///
    /// # Errors
    ///
    /// If one runs, or the process cannot be started.
    pub fn spawn_agent(&self) -> Result<()> {
        self.spawn_agent_with(&[])
    }

    /// [`Node::spawn_agent`] with environment variables.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn spawn_agent_with(&self, environment: &[(&str, &str)]) -> Result<()> {
        let mut agent = self.agent();
        ensure!(agent.is_none(), "{} has an agent", self.name);
        let xdp = self.xdp.then_some(("OXLAN_XDP", "on"));
        // The last one of a name counts.
        let environment: Vec<_> = xdp.into_iter().chain(environment.iter().copied()).collect();
        *agent = Some(Agent::spawn(
            &self.netns,
            &self.name,
            &self.cluster_file,
            &self.dirs,
            &environment,
        )?);
        Ok(())
    }

    /// Waits until the agent that was started answers.
    ///
    /// # Errors
    ///
    /// If it ends, or does not get ready; the text holds its log.
    pub fn wait_ready(&self) -> Result<()> {
        let pid = self.agent_pid()?;
        until(SOON, "answer of the agent", || {
            if let Some(status) = self.agent().as_mut().context("no agent")?.ended()? {
                return Ok(Err(anyhow::anyhow!("the agent ended with {status}")));
            }
            let status = self.oxlan_json("status")?;
            ensure!(status["pid"] == pid, "another agent answers: {status}");
            Ok(Ok(()))
        })
        .and_then(|ended| ended)
        .with_context(|| format!("{}; its log:\n{}", self.name, self.log()))
    }

    /// Kills the agent (SIGKILL).
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn kill_agent(&self) -> Result<()> {
        self.take_agent()?.kill()
    }

    /// Stops the agent (SIGTERM) and waits for its end.
    ///
    /// # Errors
    ///
    /// If it does not run, or does not end well.
    pub fn stop_agent(&self) -> Result<()> {
        self.take_agent()?.stop()
    }

    /// Waits for an agent that ends by itself, and says how it did.
    ///
    /// # Errors
    ///
    /// If there is none, or it does not end.
    pub fn agent_ended(&self) -> Result<ExitStatus> {
        self.agent_ended_within(SOON)
    }

    /// [`Node::agent_ended`] for an agent that tries something for a while.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn agent_ended_within(&self, limit: Duration) -> Result<ExitStatus> {
        let mut agent = self.take_agent()?;
        until(limit, "end of the agent", || {
            agent.ended()?.context("it runs")
        })
    }

    /// The agent's process id.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn agent_pid(&self) -> Result<u32> {
        Ok(self
            .agent()
            .as_ref()
            .context("the node has no agent")?
            .pid())
    }

    /// Leaves the agent running when this value is dropped.
    pub fn release_agent(&self) {
        if let Some(agent) = self.agent().take() {
            std::mem::forget(agent);
        }
    }

    fn take_agent(&self) -> Result<Agent> {
        self.agent().take().context("the node has no agent")
    }

    fn agent(&self) -> MutexGuard<'_, Option<Agent>> {
        self.agent
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What the agent printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.dirs.log).unwrap_or_default()
    }

    /// Runs a subcommand of `oxlan` against this node, split at blanks, and returns what it printed.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn oxlan(&self, line: &str) -> Result<String> {
        let mut command = self.netns.command(&binary("oxlan")?.to_string_lossy());
        command
            .args(words(line))
            .arg("--run-dir")
            .arg(&self.dirs.run);
        output(&mut command)
    }

    /// The same with `--output json`.
    ///
    /// # Errors
    ///
    /// If it fails or prints something else.
    pub fn oxlan_json(&self, line: &str) -> Result<Value> {
        let text = self.oxlan(&format!("{line} --output json"))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Packets dropped for a reason so far, as `oxlan drops` tells.
    ///
    /// # Errors
    ///
    /// If there is no such reason.
    pub fn drops(&self, reason: &str) -> Result<u64> {
        self.counter("drops", reason)
    }

    /// Packets with a verdict so far, as `oxlan drops` tells.
    ///
    /// # Errors
    ///
    /// If there is no such verdict.
    pub fn verdicts(&self, verdict: &str) -> Result<u64> {
        self.counter("verdicts", verdict)
    }

    /// Packets of other nodes that were given to pods so far, by TC and by XDP.
    ///
    /// # Errors
    ///
    /// If the agent does not answer.
    pub fn received(&self) -> Result<u64> {
        Ok(self.verdicts("from-vtep")? + self.verdicts("from-vtep-xdp")?)
    }

    fn counter(&self, list: &str, name: &str) -> Result<u64> {
        let all = self.oxlan_json("drops")?;
        let rows = all[list]
            .as_array()
            .with_context(|| format!("no {list}: {all}"))?;
        let row = rows.iter().find(|row| row["name"] == name);
        row.and_then(|row| row["packets"].as_u64())
            .with_context(|| format!("no {name}: {all}"))
    }

    /// Removes every trace of Oxlan from the node by `oxlan cleanup`.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn cleanup(&self) -> Result<String> {
        let mut command = self.netns.command(&binary("oxlan")?.to_string_lossy());
        command
            .args(["cleanup", "--yes"])
            .arg("--run-dir")
            .arg(&self.dirs.run);
        command
            .arg("--state-dir")
            .arg(&self.dirs.state)
            .arg("--bpf-dir")
            .arg(&self.dirs.bpf);
        output(&mut command)
    }

    /// The plugin's configuration on this node.
    #[must_use]
    pub fn cni_config(&self) -> Value {
        cni::config(&self.dirs.run.to_string_lossy())
    }

    /// Makes a namespace and has the plugin attach it.
    ///
    /// # Errors
    ///
    /// If the plugin reports an error.
    pub fn add_pod(&self, name: &str) -> Result<Pod> {
        let netns = self.pod_netns(name)?;
        let result = self.cni("ADD", netns.name(), &netns)?.result()?;
        Pod::from_result(netns.clone(), netns.name(), result)
    }

    /// Makes a namespace and has the plugin attach it with a configuration of its own.
    ///
    /// # Errors
    ///
    /// If the plugin reports an error.
    pub fn add_pod_with(&self, name: &str, config: Value) -> Result<Pod> {
        let netns = self.pod_netns(name)?;
        let answer = self.cni_with("ADD", netns.name(), &netns, config)?;
        Pod::from_result(netns.clone(), netns.name(), answer.result()?)
    }

    /// Makes a namespace that is not attached.
    ///
    /// # Errors
    ///
    /// If there is one with this name.
    pub fn pod_netns(&self, name: &str) -> Result<Netns> {
        Netns::create(&format!("{}-{}-{name}", self.scope_prefix, self.name))
    }

    /// Has the plugin detach a pod, and removes its namespace.
    ///
    /// # Errors
    ///
    /// If the plugin reports an error.
    pub fn delete_pod(&self, pod: &Pod) -> Result<()> {
        self.cni("DEL", &pod.container, &pod.netns)?.result()?;
        pod.netns.delete()
    }

    /// Calls the plugin for a container with the configuration of this node.
    ///
    /// # Errors
    ///
    /// If the plugin cannot be run; not if it reports an error.
    pub fn cni(&self, verb: &str, container: &str, netns: &Netns) -> Result<Answer> {
        self.cni_with(verb, container, netns, self.cni_config())
    }

    /// Calls the plugin for a container with another configuration.
    ///
    /// # Errors
    ///
    /// If the plugin cannot be run; not if it reports an error.
    pub fn cni_with(
        &self,
        verb: &str,
        container: &str,
        netns: &Netns,
        config: Value,
    ) -> Result<Answer> {
        let path = netns.path().to_string_lossy().into_owned();
        Call {
            verb,
            container,
            netns: &path,
            ifname: IFNAME,
            args: "",
            config,
        }
        .run(&self.netns)
    }

    /// Whether a command line succeeds on the node; its output is for the caller's error texts.
    ///
    /// # Errors
    ///
    /// If it cannot be run.
    pub fn succeeds(&self, line: &str) -> Result<bool> {
        let words = words(line);
        let Some((program, arguments)) = words.split_first() else {
            bail!("an empty command line")
        };
        Ok(finish(self.netns.command(program).args(arguments))?
            .status
            .success())
    }
}
