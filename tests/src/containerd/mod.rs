//! A container runtime on a node: containerd from Debian, with everything it keeps below the
//! test's directory, and `ctr`, which calls CNI plugins through libcni.

pub mod cgroup;
pub mod container;
pub mod image;
pub mod room;
pub mod site;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::binaries::unpacked;
use crate::netns::Netns;
use crate::run::output;
use crate::scope::{self, Scope};
use crate::wait::{SOON, until};
use container::Container;
use image::IMAGE;
use room::Room;

/// A running containerd. Dropping it ends it and every container it started.
#[derive(Debug)]
pub struct Containerd {
    /// containerd's namespace of our containers, and the name of their control groups.
    namespace: String,
    room: Room,
    base: PathBuf,
    server: Child,
}

impl Containerd {
    /// Starts one for a node, with busybox's image, but without a CNI plugin.
    ///
    /// # Errors
    ///
    /// If it is not unpacked, or does not start; the text holds its log.
    pub fn start(scope: &Scope, netns: &Netns, name: &str) -> Result<Self> {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let base = scope.dir().join(format!("{name}.containerd"));
        let room = Room::create(netns, &scope.dir(), &base)?;
        let server = spawn(&room, &base)?;
        let namespace = format!("{}-{name}", scope.prefix());
        let runtime = Self {
            namespace,
            room,
            base,
            server,
        };
        until(SOON, "answer of containerd", || runtime.ctr(&["version"]))
            .with_context(|| format!("its log:\n{}", runtime.log()))?;
        let archive = image::build(&runtime.base)?;
        runtime.ctr(&["image", "import", &archive.to_string_lossy()])?;
        Ok(runtime)
    }

    /// Puts a plugin where the runtime looks for plugins.
    ///
    /// # Errors
    ///
    /// If it cannot be copied.
    pub fn install_plugin(&self, plugin: &Path) -> Result<()> {
        let name = plugin.file_name().context("a plugin without a name")?;
        std::fs::copy(plugin, self.room.plugins().join(name))
            .with_context(|| format!("cannot install {}", plugin.display()))?;
        Ok(())
    }

    /// Makes this network the one that containers get.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn configure(&self, network: &Value) -> Result<()> {
        let file = self.room.configurations().join("10-network.conflist");
        std::fs::write(&file, network.to_string())
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Starts a container on the network and waits until its program, split at blanks, runs.
    ///
    /// # Errors
    ///
    /// If the runtime reports an error; the text holds what it said.
    pub fn run(&self, name: &str, program: &str) -> Result<Container<'_>> {
        Container::start(self, name, program)
    }

    /// Runs `ctr` with these arguments to its end.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        output(self.ctr_command()?.args(arguments))
    }

    /// `ctr`, for our namespace.
    fn ctr_command(&self) -> Result<Command> {
        let mut command = self.room.command(&unpacked("usr/bin/ctr")?);
        command.args(["--namespace", &self.namespace]);
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// What plugins get as the container's id.
    #[must_use]
    pub fn cni_id(&self, container: &str) -> String {
        format!("{}-{container}", self.namespace)
    }

    /// Names of the containers that the runtime knows.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn containers(&self) -> Result<Vec<String>> {
        let text = self.ctr(&["container", "list", "--quiet"])?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Process id of a container's program, once it runs.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn task(&self, name: &str) -> Result<i32> {
        let list = self.ctr(&["task", "list"])?;
        let line = list
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name));
        let fields: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        match fields[..] {
            [_, pid, "RUNNING"] => pid.parse().with_context(|| format!("not a pid: {pid}")),
            _ => bail!("{name} does not run: {list}"),
        }
    }

    /// What containerd printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.base.join("log")).unwrap_or_default()
    }

    fn end(&mut self) -> Result<()> {
        // The containers first, as long as their shims see them end; the rest then has no children.
        cgroup::remove(&self.namespace)?;
        until(SOON, "end of containerd and its shims", || {
            let pids = self.room.processes()?;
            for pid in &pids {
                // One that ended meanwhile is as good as killed.
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            self.server.try_wait()?;
            ensure!(pids.is_empty(), "these are left: {pids:?}");
            Ok(())
        })
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- log of containerd {}\n{}", self.namespace, self.log());
        }
        if let Err(error) = self.end() {
            eprintln!("clean-up: {error:#}");
        }
    }
}

fn spawn(room: &Room, base: &Path) -> Result<Child> {
    let config = base.join("config.toml");
    std::fs::write(&config, configuration(base))?;
    let log = File::create(base.join("log"))?;
    let program = unpacked("usr/bin/containerd")?;
    let mut command = room.command(&program);
    command
        .arg("--config")
        .arg(&config)
        .env("PATH", search_path()?);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    command
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))
}

/// No CRI: `ctr` calls the plugins itself, and CRI would want its own images and settings.
fn configuration(base: &Path) -> String {
    format!(
        "version = 2\n\
         root = \"{}\"\n\
         state = \"/run/containerd\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\n\
         address = \"/run/containerd/containerd.sock\"\n",
        base.join("root").display()
    )
}

/// containerd finds its shim and runc here.
fn search_path() -> Result<String> {
    let shim = unpacked("usr/bin/containerd-shim-runc-v2")?;
    let runc = unpacked("usr/sbin/runc")?;
    let ours = [shim.parent(), runc.parent()]
        .into_iter()
        .flatten()
        .map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::join_paths(ours.chain(std::env::split_paths(&path)))?;
    all.into_string()
        .ok()
        .context("a search path that is not UTF-8")
}

/// Ends the containers of test processes that were killed.
fn sweep() {
    for name in cgroup::names(|name| scope::dead_prefix(name).is_some()) {
        if let Err(error) = cgroup::remove(&name) {
            eprintln!("clean-up: {error:#}");
        }
    }
}

/// Arguments of `ctr run` for a container on the network.
fn run_arguments<'a>(name: &'a str, program: &'a str) -> Vec<&'a str> {
    let mut arguments = vec!["run", "--rm", "--cni", IMAGE, name];
    arguments.extend(program.split_whitespace());
    arguments
}
