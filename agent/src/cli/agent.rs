//! `oxlan agent`.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use oxlan_common::maps::{MAX_FLOWS, MAX_HOP_SETS, MAX_POD_ADDRESSES, MAX_ROUTES, MAX_VTEPS};
use tracing_subscriber::EnvFilter;

use super::{Directories, source};
use crate::cni::install::{CONF_NAME, Configuration};
use crate::datapath;
use crate::host::sysctl;
use crate::node;

/// Options of `oxlan agent`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Name of this node in the cluster
    #[arg(long, env = "OXLAN_NODE", value_name = "NAME")]
    node: String,
    #[command(flatten)]
    source: source::Options,
    #[command(flatten)]
    directories: Directories,
    /// Device on the underlay [default: the one that holds the node's underlay address]
    #[arg(long, env = "OXLAN_UPLINK", value_name = "DEV")]
    uplink: Option<String>,
    /// Prefixes outside the cluster that see pods' own addresses: what pods send there is not masqueraded
    #[arg(
        long,
        env = "OXLAN_NO_MASQUERADE_TO",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    no_masquerade_to: Vec<ipnet::IpNet>,
    /// Take VXLAN off received frames in the driver (native XDP), before the kernel makes packets of them
    #[arg(long, env = "OXLAN_XDP", value_name = "WHEN", default_value = "auto")]
    xdp: node::XdpWish,
    /// Most pod addresses on this node; a pod with both families has two
    #[arg(long, env = "OXLAN_MAX_PODS", value_name = "N", default_value_t = MAX_POD_ADDRESSES, value_parser = clap::value_parser!(u32).range(1..))]
    max_pods: u32,
    /// Most pod CIDRs in the cluster; a node with both families has two
    #[arg(long, env = "OXLAN_MAX_ROUTES", value_name = "N", default_value_t = MAX_ROUTES, value_parser = clap::value_parser!(u32).range(1..))]
    max_routes: u32,
    /// Most nodes in the cluster
    #[arg(long, env = "OXLAN_MAX_NODES", value_name = "N", default_value_t = MAX_VTEPS, value_parser = clap::value_parser!(u32).range(1..))]
    max_nodes: u32,
    /// Most flows between pods that this node's host translates (services, published ports) at the same time
    #[arg(long, env = "OXLAN_MAX_FLOWS", value_name = "N", default_value_t = MAX_FLOWS, value_parser = clap::value_parser!(u32).range(1..))]
    max_flows: u32,
    /// Most different sets of equal next hops; nodes behind the same routers share one
    #[arg(long, env = "OXLAN_MAX_HOP_SETS", value_name = "N", default_value_t = MAX_HOP_SETS, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    max_hop_sets: u32,
    #[command(flatten)]
    runtime: RuntimeOptions,
    /// What to log: error, warn, info, debug or trace, or rules as `info,oxlan::node=trace`
    #[arg(long, env = "OXLAN_LOG", value_name = "RULES", default_value = "info")]
    log: String,
}

/// What a node's supervisor and its container runtime are told.
#[derive(Debug, Args)]
struct RuntimeOptions {
    /// Answer HTTP probes here: /livez, and /readyz when pods can be attached [default: do not]
    #[arg(long, env = "OXLAN_HEALTH_ADDR", value_name = "ADDR:PORT")]
    health_addr: Option<SocketAddr>,
    /// Write the CNI configuration into this directory as soon as pods can be attached [default: do not]
    #[arg(long, env = "OXLAN_CNI_CONF_DIR", value_name = "DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// Name of the configuration's file there; a container runtime takes the first by name
    #[arg(
        long,
        env = "OXLAN_CNI_CONF_NAME",
        value_name = "NAME",
        default_value = CONF_NAME,
        requires = "cni_conf_dir"
    )]
    cni_conf_name: String,
    /// A CNI configuration of your own to write there, with other plugins behind oxlan-cni
    #[arg(
        long,
        env = "OXLAN_CNI_CONF",
        value_name = "FILE",
        requires = "cni_conf_dir"
    )]
    cni_conf: Option<PathBuf>,
}

impl RuntimeOptions {
    fn configuration(&self, run_dir: &Path) -> anyhow::Result<Option<Configuration>> {
        let Some(dir) = self.cni_conf_dir.clone() else {
            return Ok(None);
        };
        let text = match &self.cni_conf {
            Some(file) => Configuration::read(file)?,
            None => Configuration::shipped(run_dir),
        };
        let name = self.cni_conf_name.clone();
        let configuration = Configuration { dir, name, text };
        configuration.check()?;
        Ok(Some(configuration))
    }
}

/// Runs the agent until it is told to stop.
pub(super) fn run(options: Options) -> anyhow::Result<()> {
    log_to_stderr(&options.log)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = options.node,
        pid = std::process::id(),
        "oxlan agent"
    );
    // Two threads suffice for the little that waits here; what blocks has threads of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let directories = options.directories;
    sysctl::find_them_in(&directories.proc_sys);
    let options = node::Options {
        cni_conf: options.runtime.configuration(&directories.run.run_dir)?,
        health_addr: options.runtime.health_addr,
        node: options.node,
        subnet_env: options.source.subnet_env(),
        source: options.source.chosen()?,
        run_dir: directories.run.run_dir,
        state_dir: directories.state_dir,
        datapath: datapath::Options {
            bpf_dir: directories.bpf_dir,
            max_pod_addresses: options.max_pods,
            max_routes: options.max_routes,
            max_vteps: options.max_nodes,
            max_flows: options.max_flows,
            max_hop_sets: options.max_hop_sets,
        },
        uplink: options.uplink,
        unmasqueraded: options.no_masquerade_to,
        xdp: options.xdp,
    };
    let outcome = runtime.block_on(node::run(options));
    // Nothing that still blocks may keep the agent from ending.
    runtime.shutdown_background();
    Ok(outcome?)
}

/// One line per event on standard error; colours only for people.
fn log_to_stderr(rules: &str) -> anyhow::Result<()> {
    // What a library warns of at each attempt, the agent says once and in its own words.
    let filter = EnvFilter::try_new(format!("kube_runtime=error,{rules}"))
        .with_context(|| format!("--log {rules:?} is not a level or a list of rules"))?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .init();
    Ok(())
}
