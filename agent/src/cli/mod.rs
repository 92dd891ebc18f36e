//! The command line: one file per subcommand. It prints; decisions are the agent's.

mod agent;
mod ask;
mod cleanup;
mod completions;
mod drops;
mod install_cni;
mod lists;
mod man;
mod output;
mod pause;
mod source;
mod source_etcd;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use output::Format;

/// Pod networking by eBPF.
#[derive(Debug, Parser)]
#[command(name = "oxlan", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node agent
    Agent(Box<agent::Options>),
    /// Remove every trace of Oxlan from this node
    Cleanup(cleanup::Options),
    /// Show this node: health, cluster, devices, problems
    Status(status::Options),
    /// List the pods of this node
    Pods(Ask),
    /// List the nodes of the cluster
    Nodes(Ask),
    /// List the prefixes that the datapath encapsulates for
    Routes(Ask),
    /// Show what the datapath dropped, and why
    Drops(drops::Options),
    /// Put the CNI plugin and its configuration where the container runtime looks for them
    InstallCni(install_cni::Options),
    /// Print a script that completes oxlan's commands and options in a shell
    Completions(completions::Options),
    /// Wait until told to stop, as the container of a DaemonSet has to whose work is done
    #[command(hide = true)]
    Pause,
    /// Write the manual pages
    #[command(hide = true)]
    Man(man::Options),
}

/// Where an agent is found.
#[derive(Debug, Args)]
pub(crate) struct RunDir {
    /// Directory of the agent's socket and lock
    #[arg(
        long,
        env = "OXLAN_RUN_DIR",
        value_name = "DIR",
        default_value = "/run/oxlan"
    )]
    pub(crate) run_dir: PathBuf,
}

/// Where an agent keeps things: for the agent, and for who removes them.
#[derive(Debug, Args)]
pub(crate) struct Directories {
    #[command(flatten)]
    pub(crate) run: RunDir,
    /// Directory of what must survive a reboot: pod attachments, one file each
    #[arg(
        long,
        env = "OXLAN_STATE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/oxlan"
    )]
    pub(crate) state_dir: PathBuf,
    /// Directory of pinned maps, programs and links, on a bpffs
    #[arg(
        long,
        env = "OXLAN_BPF_DIR",
        value_name = "DIR",
        default_value = "/sys/fs/bpf/oxlan"
    )]
    pub(crate) bpf_dir: PathBuf,
    /// Where kernel parameters can be written: in a container, where the host's /proc/sys is mounted
    #[arg(
        long,
        env = "OXLAN_PROC_SYS",
        value_name = "DIR",
        default_value = crate::host::sysctl::DEFAULT_ROOT
    )]
    proc_sys: PathBuf,
}

/// Options of every command that asks the agent.
#[derive(Debug, Args)]
pub(crate) struct Ask {
    #[command(flatten)]
    pub(crate) run: RunDir,
    /// Form of the answer
    #[arg(long, short, value_name = "FORM", default_value = "table")]
    pub(crate) output: Format,
}

impl Cli {
    /// Does what was asked. Errors go to standard error, with their causes.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Agent(options) => agent::run(*options),
            Command::Cleanup(options) => cleanup::run(options),
            Command::Status(options) => status::run(&options),
            Command::Pods(options) => lists::pods(&options),
            Command::Nodes(options) => lists::nodes(&options),
            Command::Routes(options) => lists::routes(&options),
            Command::Drops(options) => drops::run(&options),
            Command::Completions(options) => completions::run(&options),
            Command::InstallCni(options) => install_cni::run(options),
            Command::Pause => pause::run(),
            Command::Man(options) => man::run(&options),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("oxlan: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(test)]
mod manifest_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// A full map tells which option to raise.
    #[test]
    fn options_that_errors_name_exist() {
        let cli = Cli::command();
        let agent = cli.find_subcommand("agent").unwrap();
        let options: Vec<_> = agent.get_arguments().filter_map(|a| a.get_long()).collect();
        for option in crate::datapath::CAPACITY_OPTIONS {
            let name = option.strip_prefix("--").unwrap();
            assert!(
                options.contains(&name),
                "{option} is not one of {options:?}"
            );
        }
    }

    #[test]
    fn a_map_without_room_is_refused() {
        for option in crate::datapath::CAPACITY_OPTIONS {
            let line = [
                "oxlan",
                "agent",
                "--node=a",
                "--cluster-file=f",
                option,
                "0",
            ];
            let refused = Cli::try_parse_from(line).unwrap_err().to_string();
            assert!(refused.contains(option), "{refused}");
        }
    }
}
