//! Options of `--source etcd`: Flannel's, where it has one.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;

use crate::cluster::etcd;

/// Where etcd is, and how to get in.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Options {
    /// Members of etcd, apart by commas, as http://10.0.0.1:2379 [--source etcd]
    #[arg(
        long,
        env = "OXLAN_ETCD_ENDPOINTS",
        value_name = "URL",
        value_delimiter = ',',
        required_if_eq("source", "etcd")
    )]
    etcd_endpoints: Vec<String>,
    /// What the network's keys begin with [--source etcd]
    #[arg(long, env = "OXLAN_ETCD_PREFIX", value_name = "KEY", default_value = etcd::Prefix::DEFAULT)]
    etcd_prefix: String,
    /// Certificates of the authorities that have signed etcd's, PEM [--source etcd]
    #[arg(long, env = "OXLAN_ETCD_CAFILE", value_name = "FILE")]
    etcd_cafile: Option<PathBuf>,
    /// Own certificate for etcd, PEM [--source etcd]
    #[arg(
        long,
        env = "OXLAN_ETCD_CERTFILE",
        value_name = "FILE",
        requires = "etcd_keyfile"
    )]
    etcd_certfile: Option<PathBuf>,
    /// Key of the own certificate, PEM [--source etcd]
    #[arg(
        long,
        env = "OXLAN_ETCD_KEYFILE",
        value_name = "FILE",
        requires = "etcd_certfile"
    )]
    etcd_keyfile: Option<PathBuf>,
    /// Name of a user of etcd [--source etcd]
    #[arg(
        long,
        env = "OXLAN_ETCD_USERNAME",
        value_name = "NAME",
        requires = "etcd_password_file"
    )]
    etcd_username: Option<String>,
    /// File with the user's password [--source etcd]
    #[arg(
        long,
        env = "OXLAN_ETCD_PASSWORD_FILE",
        value_name = "FILE",
        requires = "etcd_username"
    )]
    etcd_password_file: Option<PathBuf>,
    /// How long the node's subnet stays its own without renewal, in seconds [--source etcd]
    #[arg(long, env = "OXLAN_ETCD_LEASE", value_name = "SECONDS", default_value_t = etcd::LEASE.as_secs(), value_parser = clap::value_parser!(u64).range(5..=31_536_000))]
    etcd_lease: u64,
}

impl Options {
    /// The same in the source's terms.
    pub(super) fn chosen(self) -> anyhow::Result<etcd::Options> {
        let endpoints: Vec<String> = self
            .etcd_endpoints
            .iter()
            .map(|e| e.trim().trim_end_matches('/').to_owned())
            .filter(|e| !e.is_empty())
            .collect();
        ensure!(
            !endpoints.is_empty(),
            "--source etcd needs --etcd-endpoints URL"
        );
        Ok(etcd::Options {
            endpoints,
            prefix: etcd::Prefix::new(&self.etcd_prefix),
            ca: self.etcd_cafile,
            identity: self.etcd_certfile.zip(self.etcd_keyfile),
            user: self.etcd_username.zip(self.etcd_password_file),
            underlay: Vec::new(),
            lease: Duration::from_secs(self.etcd_lease),
        })
    }
}
