//! Where `oxlan agent` gets the cluster's nodes from.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::source_etcd;
use crate::cluster::{KubeOptions, SourceOptions, etcd};

/// Options of all sources; each reads its own.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Options {
    /// Where the cluster's nodes come from
    #[arg(
        long,
        env = "OXLAN_SOURCE",
        value_name = "SOURCE",
        default_value = "file"
    )]
    source: Source,
    /// TOML file that names the cluster's nodes; followed when it changes [--source file]
    #[arg(
        long,
        env = "OXLAN_CLUSTER_FILE",
        value_name = "FILE",
        required_if_eq("source", "file")
    )]
    cluster_file: Option<PathBuf>,
    /// How to reach the API server [default: as a Pod, by its service account] [--source kube]
    #[arg(long, env = "OXLAN_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Flannel's network configuration; followed when it changes [--source kube]
    #[arg(
        long,
        env = "OXLAN_NET_CONF",
        value_name = "FILE",
        default_value = "/etc/kube-flannel/net-conf.json"
    )]
    net_conf: PathBuf,
    /// What the keys of Flannel's annotations begin with [--source kube]
    #[arg(
        long,
        env = "OXLAN_ANNOTATION_PREFIX",
        value_name = "PREFIX",
        default_value = "flannel.alpha.coreos.com"
    )]
    annotation_prefix: String,
    /// Own address on the underlay, one per family; the file names it itself [default: with Kubernetes
    /// the internal addresses of the Node, else those of the default routes]
    #[arg(
        long,
        env = "OXLAN_UNDERLAY",
        value_name = "ADDR",
        value_delimiter = ','
    )]
    underlay: Vec<IpAddr>,
    /// Where to write Flannel's file for other programs [--source kube, etcd]
    #[arg(
        long,
        env = "OXLAN_SUBNET_ENV",
        value_name = "FILE",
        default_value = "/run/flannel/subnet.env"
    )]
    subnet_env: PathBuf,
    #[command(flatten)]
    etcd: source_etcd::Options,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Source {
    /// A TOML file that names the nodes
    File,
    /// The Nodes of Kubernetes, with Flannel's annotations
    Kube,
    /// etcd, in Flannel's layout
    Etcd,
}

impl Options {
    /// Flannel's file, for sources by which this node takes Flannel's place.
    pub(super) fn subnet_env(&self) -> Option<PathBuf> {
        match self.source {
            Source::File => None,
            Source::Kube | Source::Etcd => Some(self.subnet_env.clone()),
        }
    }

    /// The source that was asked for, with its options.
    pub(super) fn chosen(self) -> anyhow::Result<SourceOptions> {
        Ok(match self.source {
            Source::File => SourceOptions::File {
                path: self
                    .cluster_file
                    .context("--source file needs --cluster-file FILE")?,
            },
            Source::Etcd => SourceOptions::Etcd(etcd::Options {
                underlay: self.underlay,
                ..self.etcd.chosen()?
            }),
            Source::Kube => SourceOptions::Kube(KubeOptions {
                kubeconfig: self.kubeconfig,
                net_conf: self.net_conf,
                annotation_prefix: self.annotation_prefix,
                underlay: self.underlay,
            }),
        })
    }
}
