//! Debian's etcd, one member or several, in a namespace that every node reaches.

pub mod tls;

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::binaries::unpacked;
use crate::netns::Netns;
use crate::run::output;
use crate::scope::Scope;
use crate::underlay::Underlay;
use crate::wait::until;
use tls::Certificates;

/// Where the switch answers, which every node has on its underlay.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 254);

/// A cluster may take some elections to agree.
const AGREE: Duration = Duration::from_secs(30);

/// A running etcd. Dropping it ends its members, by their ids.
#[derive(Debug)]
pub struct Etcd {
    netns: Netns,
    dir: PathBuf,
    members: Vec<Member>,
    /// Of the members and of clients, if connections are encrypted.
    pub certificates: Option<Certificates>,
    /// `NAME:PASSWORD` that `ctl` uses.
    user: Option<String>,
}

#[derive(Debug)]
struct Member {
    /// From 0 on.
    number: u16,
    child: Option<Child>,
}

impl Etcd {
    /// Starts this many members on the switch of an underlay, encrypted or not, and waits until they agree.
    ///
    /// # Errors
    ///
    /// If a member cannot be started, or they do not agree.
    pub fn start(
        scope: &Scope,
        underlay: &Underlay,
        members: u16,
        encrypted: bool,
    ) -> Result<Self> {
        let dir = scope.dir().join("etcd");
        std::fs::create_dir_all(&dir)?;
        let certificates = encrypted
            .then(|| Certificates::make(&dir, HOST))
            .transpose()?;
        let mut etcd = Self {
            netns: underlay.switch.clone(),
            dir,
            members: Vec::new(),
            certificates,
            user: None,
        };
        for number in 0..members {
            let child = None;
            etcd.members.push(Member { number, child });
        }
        for number in 0..usize::from(members) {
            etcd.restart(number)?;
        }
        etcd.wait()?;
        Ok(etcd)
    }

    /// The namespace it is in.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Addresses of all members, apart by commas.
    #[must_use]
    pub fn endpoints(&self) -> String {
        let all: Vec<String> = self
            .members
            .iter()
            .map(|m| self.endpoint(m.number))
            .collect();
        all.join(",")
    }

    fn endpoint(&self, number: u16) -> String {
        format!("{}://{HOST}:{}", self.scheme(), client_port(number))
    }

    fn scheme(&self) -> &'static str {
        if self.certificates.is_some() {
            "https"
        } else {
            "http"
        }
    }

    /// Runs `etcdctl` with these arguments and returns what it printed.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self
            .netns
            .command(&unpacked("usr/bin/etcdctl")?.to_string_lossy());
        command.env("ETCDCTL_API", "3");
        // Only those that run: it would wait for the others.
        let up = self.members.iter().filter(|m| m.child.is_some());
        let endpoints: Vec<String> = up.map(|m| self.endpoint(m.number)).collect();
        command.args(["--endpoints", &endpoints.join(",")]);
        if let Some(certificates) = &self.certificates {
            command.arg("--cacert").arg(&certificates.ca);
            command.arg("--cert").arg(&certificates.certificate);
            command.arg("--key").arg(&certificates.key);
        }
        if let Some(user) = &self.user {
            command.args(["--user", user]);
        }
        output(command.args(arguments))
    }

    /// Has `ctl` be this user, as `NAME:PASSWORD`, from now on.
    pub fn log_in(&mut self, user: &str) {
        self.user = Some(user.to_owned());
    }

    /// What the first member counts, in the text form of Prometheus.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn metrics(&self) -> Result<String> {
        let url = format!("{}/metrics", self.endpoint(0));
        output(
            self.netns
                .command("curl")
                .args(["--silent", "--fail", &url]),
        )
    }

    /// A key and its metadata; null if there is none.
    ///
    /// # Errors
    ///
    /// If etcd does not answer.
    pub fn key(&self, key: &str) -> Result<Value> {
        let all = self.keys(&[key])?;
        Ok(all.first().cloned().unwrap_or_default())
    }

    /// What `etcdctl get` with these arguments finds: a list of keys with their metadata. Keys and values are Base64.
    ///
    /// # Errors
    ///
    /// If etcd does not answer.
    pub fn keys(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let text = self.ctl(&[&["get", "--write-out", "json"], arguments].concat())?;
        let answer: Value = serde_json::from_str(&text)?;
        Ok(answer["kvs"].as_array().cloned().unwrap_or_default())
    }

    /// Number of the member that leads.
    ///
    /// # Errors
    ///
    /// If none does.
    pub fn leader(&self) -> Result<usize> {
        let text = self.ctl(&["endpoint", "status", "--write-out", "json"])?;
        let all: Value = serde_json::from_str(&text)?;
        let rows = all.as_array().context("no list of members")?;
        let leads = |row: &&Value| {
            let status = &row["Status"];
            status["leader"].is_u64() && status["leader"] == status["header"]["member_id"]
        };
        let row = rows
            .iter()
            .find(leads)
            .with_context(|| format!("no leader: {text}"))?;
        let leader = row["Endpoint"].as_str().unwrap_or_default();
        let number = self
            .members
            .iter()
            .position(|m| self.endpoint(m.number) == leader);
        number.with_context(|| format!("who is {leader}?"))
    }

    /// Kills a member.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        let member = self.members.get_mut(number).context("no such member")?;
        let mut child = member.child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts a member, again with what it has on its disk.
    ///
    /// # Errors
    ///
    /// If it runs, or cannot be started.
    pub fn restart(&mut self, number: usize) -> Result<()> {
        let member = self.members.get(number).context("no such member")?;
        ensure!(member.child.is_none(), "it runs");
        let child = self.spawn(member.number)?;
        self.members[number].child = Some(child);
        Ok(())
    }

    /// Waits until a majority agrees on what was written.
    ///
    /// # Errors
    ///
    /// If that takes too long.
    pub fn wait(&self) -> Result<()> {
        until(AGREE, "agreement of etcd's members", || {
            self.ctl(&["--command-timeout=2s", "get", "nothing"])
        })
        .with_context(|| self.logs())?;
        Ok(())
    }

    /// What the members have printed.
    #[must_use]
    pub fn logs(&self) -> String {
        let log = |m: &Member| {
            let text = std::fs::read_to_string(self.log(m.number)).unwrap_or_default();
            format!("--- log of etcd {}\n{text}", m.number)
        };
        self.members.iter().map(log).collect()
    }

    fn log(&self, number: u16) -> PathBuf {
        self.dir.join(format!("{number}.log"))
    }

    fn spawn(&self, number: u16) -> Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log(number))?;
        let mut command = self.command(number)?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        command
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))
    }

    fn command(&self, number: u16) -> Result<Command> {
        let peer = |n: u16| format!("http://{HOST}:{}", peer_port(n));
        let all = self
            .members
            .iter()
            .map(|m| format!("m{}={}", m.number, peer(m.number)));
        let all: Vec<String> = all.collect();
        let client = self.endpoint(number);
        let mut command = self
            .netns
            .command(&unpacked("usr/bin/etcd")?.to_string_lossy());
        command
            .arg("--data-dir")
            .arg(self.dir.join(format!("m{number}")));
        command.args(["--name", &format!("m{number}")]);
        command.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        command.args(["--listen-peer-urls", &peer(number)]);
        command.args(["--initial-advertise-peer-urls", &peer(number)]);
        command.args([
            "--initial-cluster",
            &all.join(","),
            "--initial-cluster-state",
            "new",
        ]);
        command.args(["--heartbeat-interval", "100", "--election-timeout", "1000"]);
        command.args(["--log-level", "warn", "--logger", "zap"]);
        if let Some(certificates) = &self.certificates {
            command.arg("--client-cert-auth");
            command.arg("--trusted-ca-file").arg(&certificates.ca);
            command
                .arg("--cert-file")
                .arg(&certificates.server_certificate);
            command.arg("--key-file").arg(&certificates.server_key);
        }
        Ok(command)
    }
}

fn client_port(number: u16) -> u16 {
    2379 + 100 * number
}

fn peer_port(number: u16) -> u16 {
    2380 + 100 * number
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            // One that was killed is what is wanted.
            let _ = self.kill(number);
        }
        if std::thread::panicking() {
            println!("{}", self.logs());
        }
    }
}
