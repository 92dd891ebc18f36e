//! The servers that the demonstration's clients ask.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use anyhow::{Context, Result};

use super::stage::Stage;
use crate::netns::Netns;
use crate::wait::{SOON, until_true};

/// Port of iperf3, unless it is told otherwise.
const IPERF_PORT: u16 = 5201;

/// Starts HTTP servers in two pods and outside the cluster, and iperf3 in the pods and on a node.
pub(super) fn start_all(stage: &Stage<'_>) -> Result<()> {
    for name in ["cache", "web"] {
        let netns = &stage.actor(name)?.pod.netns;
        serve(stage, netns, name)?;
        start(stage, netns, "iperf3", &["-s"], IPERF_PORT)?;
    }
    let node = &stage.node(2)?.netns;
    start(stage, node, "iperf3", &["-s"], IPERF_PORT)?;
    serve(stage, &stage.cluster.underlay.internet, "internet")
}

fn serve(stage: &Stage<'_>, netns: &Netns, name: &str) -> Result<()> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    start(stage, netns, &own.to_string_lossy(), &["serve", name], 80)
}

/// Starts a server and waits until it listens. It ends with its namespace.
fn start(
    stage: &Stage<'_>,
    netns: &Netns,
    program: &str,
    arguments: &[&str],
    port: u16,
) -> Result<()> {
    let path = stage
        .cluster
        .scope()
        .dir()
        .join(format!("{}-{port}.log", netns.name()));
    let log = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut command = netns.command(program);
    command
        .args(arguments)
        // It must outlive the terminal when it is kept.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    command
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let what = format!("server on port {port} of {}", netns.name());
    until_true(SOON, &what, || listens(netns, port))
        .with_context(|| format!("see {}", path.display()))
}

/// Whether a server listens on this port, by the kernel's table of sockets.
fn listens(netns: &Netns, port: u16) -> Result<bool> {
    const LISTEN: &str = "0A";
    let table = netns.inside(|| Ok(std::fs::read_to_string("/proc/thread-self/net/tcp6")?))?;
    Ok(table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = fields.get(1).copied().unwrap_or_default();
        local.ends_with(&format!(":{port:04X}")) && fields.get(3) == Some(&LISTEN)
    }))
}
