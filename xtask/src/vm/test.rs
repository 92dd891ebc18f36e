//! `cargo xtask vm test`: groups of tests on kernels of Debian, and a table of what passed where.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::accelerator::Accelerator;
use super::kernel::{self, Kernel};
use super::machine::Machine;
use super::report::{Outcome, Report};
use super::{Suite, console, initramfs, kernels};
use crate::exec::{exec, output};
use crate::lack::Lack;
use crate::test::{SLOWNESS, netns_targets};
use crate::{notes, setup, workspace};

#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Suites of Debian whose kernels are booted; all when none is named
    #[arg(value_enum, value_name = "KERNEL")]
    pub(crate) kernels: Vec<Suite>,
    /// Only this group of tests; may be given several times
    #[arg(long = "group", value_enum, value_name = "GROUP")]
    pub(crate) groups: Vec<Group>,
    /// Only tests whose names contain one of these, separated by commas; without, all of `prog` and a
    /// selection of `netns`
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) tests: Vec<String>,
    /// All that `cargo xtask test netns` runs, but not once more with XDP; that takes hours where the processor
    /// is emulated. What a test misses there it says, and is skipped
    #[arg(long, conflicts_with = "tests")]
    pub(crate) all: bool,
    /// How many machines may run at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(crate) jobs: u8,
    /// Go on, loudly, without kernels that cannot be fetched, or without any where this machine has another
    /// processor or the emulator cannot be installed; `cargo xtask test` repeats what was skipped
    #[arg(long)]
    pub(crate) optional: bool,
}

/// Tests that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Every program over packets, by BPF_PROG_TEST_RUN
    Prog,
    /// Clusters of nodes in network namespaces with real agents
    Netns,
}

impl Group {
    const ALL: [Self; 2] = [Self::Prog, Self::Netns];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Prog => "prog",
            Self::Netns => "netns",
        }
    }

    /// Its test executables, with the tests of each that say most about a kernel; all when none is
    /// named. Those of `netns`: all programs load and forward whatever there is to be forwarded, with XDP, too;
    /// drift is seen without comparing all the time, and a successor takes over. A test or two stand for each room.
    const fn selection(self) -> &'static [(&'static str, &'static [&'static str])] {
        match self {
            Self::Prog => &[("prog", &[])],
            Self::Netns => &[
                ("netns_idle", &[]),
                (
                    "netns",
                    &[
                        "bandwidth::a_pod_receives_no_faster",
                        "cleanup::nothing_is_left",
                        "drift::maps::the_configuration_map",
                        "drift::maps::the_pin_of_a_map",
                        "drift::programs",
                        "equal_paths::flows_in_vxlan_over_ipv4",
                        "features::status_and_log_tell",
                        "host_ports::everybody_reaches_a_port",
                        "life::a_killed_agent_and_its_successor_lose_nothing",
                        "life::a_successor_with_other_maps_loses_nothing",
                        "modes::automatic_means_as_it_is_on_the_link",
                        "mtu::a_narrow_way_is_learned_by_pods",
                        "offloads::datagrams_arrive_coalesced",
                        "outside::pods_reach_the_internet_as_their_node",
                        "over_ipv6::pods_and_hosts_reach_each_other",
                        "packet_shapes::fragments_arrive",
                        "packet_shapes::segmented_udp_arrives",
                        "reach::a_host_and_pods_of_another_node",
                        "reach::pods_of_one_node",
                        "reach::pods_of_two_nodes",
                        "refusals::a_pods_own_tunnel",
                        "services::a_service_is_reached_by_every_protocol",
                        "xdp::frames_go_to_pods_and_bulk_arrives",
                        "xdp::it_is_switched_off_and_on_under_a_stream",
                    ],
                ),
            ],
        }
    }

    /// What is run of it: the selection, or all there is.
    fn selected(self, all: bool) -> Result<Vec<Selected>> {
        if all && self == Self::Netns {
            let names = netns_targets()?.into_iter();
            return Ok(names.map(|name| (name, [].as_slice())).collect());
        }
        let selection = self.selection().iter();
        Ok(selection
            .map(|(name, tests)| ((*name).to_owned(), *tests))
            .collect())
    }
}

/// A test executable, and the tests of it that are run; all when none is named.
type Selected = (String, &'static [&'static str]);

/// What is run on every kernel.
struct Plan {
    groups: Vec<(Group, Vec<Selected>)>,
    tests: Vec<String>,
    all: bool,
    executables: BTreeMap<String, String>,
}

/// A kernel that is ready to be booted.
pub(super) struct Ready {
    pub(super) suite: Suite,
    pub(super) kernel: Kernel,
    pub(super) initramfs: PathBuf,
}

/// The command; fails when a test fails, and when a machine does not come to its end.
pub(crate) fn command(arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure()?;
    let kernels = unpack(&or_all(&arguments.kernels, &Suite::ALL), arguments.optional)?;
    if kernels.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let report = run(arguments, bootable(kernels)?)?;
    Ok(if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs tests on all kernels and prints the table; where one fails, that is an error.
pub(super) fn on_all_kernels(group: Group, tests: &[&str]) -> Result<Report> {
    let arguments = Arguments {
        groups: vec![group],
        tests: tests.iter().map(|&test| test.to_owned()).collect(),
        jobs: 1,
        ..Arguments::default()
    };
    let report = run(&arguments, fetch(Suite::ALL.to_vec())?)?;
    ensure!(report.is_good(), "not all was run, or something failed");
    Ok(report)
}

fn or_all<T: Copy>(named: &[T], all: &[T]) -> Vec<T> {
    if named.is_empty() { all } else { named }.to_vec()
}

/// Ensures that there is what boots these kernels.
pub(super) fn fetch(suites: Vec<Suite>) -> Result<Vec<Ready>> {
    setup::ensure()?;
    bootable(unpack(&suites, false)?)
}

/// What others have made: the emulator and kernels. If they are optional, those that cannot be had are left out.
fn unpack(suites: &[Suite], optional: bool) -> Result<Vec<(Suite, Kernel)>> {
    let mut kernels = Vec::new();
    if let Err(error) = super::prepare() {
        skip(suites, optional, error)?;
        return Ok(kernels);
    }
    for &suite in suites {
        let unpacked = kernel::unpack(suite);
        match unpacked.with_context(|| format!("the kernel of {} cannot be had", suite.name())) {
            Ok(kernel) => kernels.push((suite, kernel)),
            Err(error) => skip(&[suite], optional, error)?,
        }
    }
    Ok(kernels)
}

/// Says that nothing runs on these kernels; what is not optional, or has failed for another reason than
/// that something cannot be had, is an error.
fn skip(suites: &[Suite], optional: bool, error: anyhow::Error) -> Result<()> {
    if !optional || Lack::of(&error).is_none() {
        return Err(error);
    }
    let line = "!".repeat(100);
    for suite in suites {
        let why = format!("nothing was tried on this kernel: {error:#}");
        println!("{line}\nSKIPPED {}: {why}\n{line}", suite.name());
        notes::skipped(&note(*suite), &why)?;
    }
    Ok(())
}

/// Name of the note that a kernel was skipped.
fn note(suite: Suite) -> String {
    format!("vm {}", suite.name())
}

fn bootable(kernels: Vec<(Suite, Kernel)>) -> Result<Vec<Ready>> {
    let ready = |(suite, kernel): (Suite, Kernel)| {
        let initramfs = initramfs::build(&suite.dir(), &kernel)?;
        Ok(Ready {
            suite,
            kernel,
            initramfs,
        })
    };
    kernels.into_iter().map(ready).collect()
}

fn run(arguments: &Arguments, ready: Vec<Ready>) -> Result<Report> {
    let groups = or_all(&arguments.groups, &Group::ALL);
    let selected = |group: &Group| anyhow::Ok((*group, group.selected(arguments.all)?));
    let selected = groups.iter().map(selected).collect::<Result<Vec<_>>>()?;
    let plan = Plan {
        executables: build(&selected)?,
        groups: selected,
        tests: arguments.tests.clone(),
        all: arguments.all,
    };
    let Some(first) = ready.first() else {
        return Ok(Report::default());
    };
    let accelerator = Accelerator::find(&first.kernel, &first.initramfs);
    let several = arguments.jobs > 1 && ready.len() > 1;
    let queue = Mutex::new(VecDeque::from_iter(ready.iter().enumerate()));
    let outcomes = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some((place, ready)) = take(&queue) {
            let outcome = try_kernel(ready, &plan, accelerator, several);
            if plan.tests.is_empty() {
                notes::done(&note(ready.suite));
            }
            let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            outcomes.insert(place, outcome);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(work);
        }
    });
    let outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let outcomes = outcomes.into_values().collect();
    let report = Report::new(&groups, !plan.tests.is_empty(), outcomes);
    report.print();
    Ok(report)
}

fn take<T>(queue: &Mutex<VecDeque<T>>) -> Option<T> {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    queue.pop_front()
}

/// Runs the plan on one kernel.
fn try_kernel(ready: &Ready, plan: &Plan, accelerator: Accelerator, several: bool) -> Outcome {
    let Ready { suite, kernel, .. } = ready;
    let prefix = if several {
        format!("{:<18}", suite.name())
    } else {
        println!("\n==> {} on Linux {}", suite.name(), kernel.release);
        String::new()
    };
    let mut outcome = Outcome::new(suite.name(), &kernel.release);
    let machine = Machine {
        dir: &suite.dir(),
        kernel,
        initramfs: &ready.initramfs,
        accelerator,
        memory: 2048,
        limit: Some(if plan.all { 240 } else { 60 }),
        devices: None,
        script: &script(*suite, plan, accelerator),
    };
    let ended = machine
        .command()
        .and_then(|command| console::run(command, &prefix, |line| outcome.read(line)));
    match ended {
        // All programs were tried, so all is told that docs/KERNELS.md is about.
        Ok(_) if machine.is_done() && plan.tests.is_empty() => {
            outcome.disagrees(kernels::objections(&outcome));
        }
        Ok(_) if machine.is_done() => {}
        Ok(status) => outcome.ended_early(&format!("it did not come to its end ({status})")),
        Err(error) => outcome.ended_early(&format!("{error:#}")),
    }
    outcome
}

/// What the machine does.
fn script(suite: Suite, plan: &Plan, accelerator: Accelerator) -> String {
    let mut script = String::new();
    let slowness = accelerator.slowness();
    let _ = writeln!(script, "export {SLOWNESS}={slowness}");
    let _ = writeln!(script, "cd {}", workspace::root().display());
    for (group, selection) in &plan.groups {
        let _ = writeln!(
            script,
            "echo '{}{}'",
            super::report::GROUP_MARK,
            group.name()
        );
        let strict = suite.has_every_feature() || *group == Group::Netns;
        let strict = if strict && !plan.all {
            "OXLAN_TEST_NO_SKIP=1 "
        } else {
            ""
        };
        for (name, selected) in selection {
            let Some(path) = plan.executables.get(name) else {
                continue;
            };
            let named: Vec<&str> = plan.tests.iter().map(String::as_str).collect();
            let tests = if named.is_empty() {
                selected.join(" ")
            } else {
                named.join(" ")
            };
            let _ = writeln!(
                script,
                "{strict}{path} --color never --test-threads 1 {tests} || failed=1"
            );
        }
    }
    script.push_str("finish\n");
    script
}

/// Builds the agent, which the tests start, and the test executables of groups; their paths by name.
fn build(groups: &[(Group, Vec<Selected>)]) -> Result<BTreeMap<String, String>> {
    exec(workspace::cargo().args(["build", "--package", "oxlan", "--bins"]))?;
    let mut build = workspace::cargo();
    build.args(["test", "--no-run", "--package", "oxlan-tests"]);
    build.args(["--quiet", "--message-format", "json-render-diagnostics"]);
    for (name, _) in groups.iter().flat_map(|(_, selected)| selected) {
        build.args(["--test", name]);
    }
    let built: BTreeMap<String, String> =
        output(&mut build)?.lines().filter_map(executable).collect();
    for path in built.values() {
        ensure!(Path::new(path).is_file(), "cargo built no {path}");
    }
    Ok(built)
}

/// Name and path of an executable, from a line of cargo's messages.
fn executable(message: &str) -> Option<(String, String)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), path.to_owned()))
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

    #[test]
    fn a_skipped_test_counts_as_failed_where_the_kernel_has_everything() {
        let plan = |all| Plan {
            groups: Group::ALL
                .map(|group| (group, group.selected(all).unwrap()))
                .into(),
            tests: Vec::new(),
            all,
            executables: ["prog", "netns", "interop", "cni_crash"]
                .map(|name| (name.to_owned(), format!("/t/{name}")))
                .into(),
        };
        let of = |suite| script(suite, &plan(false), Accelerator::Tcg);
        assert!(of(Suite::Trixie).contains("\nOXLAN_TEST_NO_SKIP=1 /t/prog "));
        assert!(of(Suite::Bookworm).contains("\n/t/prog "));
        assert!(of(Suite::Bookworm).contains("\nOXLAN_TEST_NO_SKIP=1 /t/netns "));
        assert!(of(Suite::Bookworm).contains(" reach::pods_of_two_nodes "));
        assert!(!of(Suite::Trixie).contains("interop"));
        let all = script(Suite::Trixie, &plan(true), Accelerator::Tcg);
        for name in ["prog", "netns", "interop", "cni_crash"] {
            let line = format!("\n/t/{name} --color never --test-threads 1  ||");
            assert!(all.contains(&line), "{all}");
        }
    }

    #[test]
    fn only_what_cannot_be_had_is_skipped() {
        let broken = || anyhow::anyhow!("no space left on device");
        for optional in [false, true] {
            assert!(skip(&[Suite::Trixie], optional, broken()).is_err());
        }
        assert!(skip(&[Suite::Trixie], false, broken().context(Lack::Download)).is_err());
        assert!(skip(&[], true, broken().context(Lack::Download)).is_ok());
    }
}
