//! `cargo xtask test vm`: a selection of the tests on other kernels, in a virtual machine.
//!
//! The machine's root is this machine's, read-only with a layer in memory over it: its programs,
//! this checkout, and the tests as they were built here. Only the kernel is another one, unpacked
//! from a package of Debian below `target/vm`. The processor is emulated, so it needs no more than
//! an ordinary user may do, and patience.

mod initramfs;
mod kernel;
mod machine;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::exec::{exec, output};
use crate::{setup, workspace};

/// A suite of Debian whose kernel is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Linux 6.1: filters of clsact, as there are no TCX links before 6.6
    Bookworm,
    /// Linux 6.12
    Trixie,
    /// The newest kernel that Debian offers for a release
    TrixieBackports,
}

/// The test executables with the tests of each that say most about a kernel: all programs load
/// and forward, drift is seen without comparing all the time, and a successor takes over.
const SELECTION: [(&str, &[&str]); 2] = [
    ("netns_idle", &[]),
    (
        "netns",
        &[
            "cleanup::nothing_is_left",
            "drift::maps::the_configuration_map",
            "drift::maps::the_pin_of_a_map",
            "drift::programs",
            "life::a_killed_agent_and_its_successor_lose_nothing",
            "outside::pods_reach_the_internet_as_their_node",
            "packet_shapes::fragments_arrive",
            "packet_shapes::segmented_udp_arrives",
            "reach::a_host_and_pods_of_another_node",
            "reach::pods_of_one_node",
            "reach::pods_of_two_nodes",
            "refusals::a_pods_own_tunnel",
        ],
    ),
];

impl Suite {
    /// The suites whose kernels are tried unless one is named.
    pub(crate) const ALL: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::TrixieBackports];

    /// As apt and the command line name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::TrixieBackports => "trixie-backports",
        }
    }

    /// Where its files are.
    fn dir(self) -> PathBuf {
        workspace::target().join("vm").join(self.name())
    }
}

/// Builds what is tested.
pub(crate) fn prepare() -> Result<()> {
    ensure!(
        std::env::consts::ARCH == "x86_64",
        "the virtual machine is an x86-64 one: this tier is only for such machines"
    );
    setup::ensure_emulator()?;
    exec(workspace::cargo().args(["build", "--package", "oxlan", "--bins"]))
}

/// The command that boots a kernel and runs the selection there, or the tests whose name contains `filter`.
pub(crate) fn command(suite: Suite, filter: Option<&str>) -> Result<Command> {
    let kernel = kernel::unpack(suite)?;
    let initramfs = initramfs::build(&suite.dir(), &kernel)?;
    let executables = executables()?;
    let mut runs = Vec::new();
    for (name, tests) in SELECTION {
        let path = executables.get(name);
        let path = path.with_context(|| format!("cargo built no test executable {name}"))?;
        runs.push(machine::Run {
            name,
            path,
            tests: filter.map_or_else(|| tests.to_vec(), |filter| vec![filter]),
        });
    }
    machine::command(&suite.dir(), &kernel, &initramfs, &runs)
}

/// The test executables of [`SELECTION`] by name.
fn executables() -> Result<BTreeMap<String, String>> {
    let mut build = workspace::cargo();
    build.args(["test", "--no-run", "--package", "oxlan-tests"]);
    build.args(["--quiet", "--message-format", "json-render-diagnostics"]);
    for (name, _) in SELECTION {
        build.args(["--test", name]);
    }
    Ok(output(&mut build)?.lines().filter_map(executable).collect())
}

/// Name and path of an executable, from a line of cargo's messages.
fn executable(message: &str) -> Option<(String, String)> {
    let path = field(message, "executable")?;
    let target = &message[message.find("\"target\":")?..];
    Some((field(target, "name")?, path))
}

/// The text of a field without escapes, which neither names of targets nor usual paths have.
fn field(json: &str, name: &str) -> Option<String> {
    let (_, rest) = json.split_once(&format!("\"{name}\":\""))?;
    rest.split_once('"').map(|(text, _)| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_in_cargos_messages() {
        let message = r#"{"reason":"compiler-artifact","package_id":"path+file:///x#oxlan-tests@0.1.0","target":{"kind":["test"],"name":"netns","src_path":"/x/main.rs"},"executable":"/x/target/debug/deps/netns-0a1b","fresh":true}"#;
        let (name, path) = executable(message).unwrap();
        assert_eq!(
            (name.as_str(), path.as_str()),
            ("netns", "/x/target/debug/deps/netns-0a1b")
        );
        let library = r#"{"reason":"compiler-artifact","target":{"name":"a"},"executable":null}"#;
        assert_eq!(executable(library), None);
    }
}
