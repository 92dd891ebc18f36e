//! `oxlan install-cni`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::RunDir;
use crate::cni::install::{CONF_NAME, Configuration, Installation, PLUGIN};

/// Options of `oxlan install-cni`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where the container runtime looks for plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Where it looks for configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// Name of the configuration's file; a runtime takes the first by name
    #[arg(long, value_name = "NAME", default_value = CONF_NAME)]
    conf_name: String,
    /// The plugin [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    #[command(flatten)]
    run: RunDir,
    /// Leave the configuration to the agent, which writes it when it is ready (its --cni-conf-dir)
    #[arg(long)]
    plugin_only: bool,
    /// Take both away instead
    #[arg(long)]
    remove: bool,
}

/// Installs the plugin and its configuration, or removes them.
pub(super) fn run(options: Options) -> anyhow::Result<()> {
    let plugin = match options.plugin {
        Some(plugin) => plugin,
        None => std::env::current_exe()
            .context("cannot tell where this program is")?
            .with_file_name(PLUGIN),
    };
    let installation = Installation {
        plugin,
        bin_dir: options.bin_dir,
        conf: (!options.plugin_only).then(|| Configuration {
            text: Configuration::shipped(&options.run.run_dir),
            dir: options.conf_dir,
            name: options.conf_name,
        }),
    };
    let (word, files) = if options.remove {
        ("removed", installation.remove()?)
    } else {
        ("installed", installation.install()?)
    };
    let mut text = String::new();
    for file in &files {
        text += &format!("{word} {}\n", file.display());
    }
    if files.is_empty() {
        text = "nothing to do\n".into();
    }
    super::output::print(&text)
}
