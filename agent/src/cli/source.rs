//! Where `oxlan agent` gets the cluster's nodes from.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::source_etcd;
use crate::cluster::{SourceOptions, etcd};

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
    /// Own address on the underlay, one per family; the file names it itself [default: that of the default route]
    #[arg(
        long,
        env = "OXLAN_UNDERLAY",
        value_name = "ADDR",
        value_delimiter = ','
    )]
    underlay: Vec<IpAddr>,
    #[command(flatten)]
    etcd: source_etcd::Options,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Source {
    /// A TOML file that names the nodes
    File,
    /// etcd, in Flannel's layout
    Etcd,
}

impl Options {
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
        })
    }
}
