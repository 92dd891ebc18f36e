//! `cargo xtask test`: runs the tests of a tier, or of all, and ends with one line of sums.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::exec::{exec, find_program, is_root, line};
use crate::{notes, setup, vm, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which tests
    #[arg(value_enum, default_value_t = Tier::All)]
    tier: Tier,
    /// Only tests whose name contains this
    filter: Option<String>,
    /// The Debian suite whose kernel the tier `vm` boots, instead of several
    #[arg(long, value_enum)]
    kernel: Option<vm::Suite>,
    /// Directory of `kubelab`, by which the tier `kube` has a Kubernetes; without it that tier is skipped
    #[arg(long, env = KUBELAB, value_name = "DIR")]
    kubelab: Option<PathBuf>,
    /// A step before the tests that has failed: it counts as a failure, so that the end tells of it
    #[arg(long, value_name = "COMMAND")]
    failed_before: Vec<String>,
}

/// The variable by which test executables know how many tests they may run at once.
const TEST_THREADS: &str = "RUST_TEST_THREADS";

/// The variable by which tests wait longer.
pub(crate) const SLOWNESS: &str = "OXLAN_TEST_SLOWNESS";

/// The variable by which tests find `kubelab`.
const KUBELAB: &str = "OXLAN_KUBELAB";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tier {
    /// Everything that needs no kernel features and no root
    Unit,
    /// Every program over packets, by BPF_PROG_TEST_RUN
    Prog,
    /// Clusters of nodes in network namespaces with real agents
    Netns,
    /// A container runtime that calls the plugin
    Runtime,
    /// A real Kubernetes, which `kubelab` starts
    Kube,
    /// The same as `cargo xtask vm test`: on other kernels in virtual machines, which is slow and not one of `all`
    Vm,
    /// All of them but `vm`
    All,
}

/// What a test that cannot run here prints: this, its name, a colon and why.
pub(crate) const SKIP_MARK: &str = "SKIPPED ";

/// Tiers that need root: files of `tests/tests` belong to one by the start of their names.
const ROOT_TIERS: [(Tier, &str, &[&str]); 4] = [
    (Tier::Prog, "prog", &["prog"]),
    (Tier::Netns, "netns", &["netns", "interop", "cni"]),
    (Tier::Runtime, "runtime", &["runtime"]),
    (Tier::Kube, "kube", &["kube"]),
];

/// Tests of `netns` that do not run once more with XDP on the uplinks, by what their names contain.
///
/// Left out is what takes minutes and has nothing to do with frames: sources of the cluster, and the order of streams. The
/// tests of `xdp` have XDP in any case.
const WITHOUT_XDP: [&str; 5] = ["kube::", "cluster_", "order::", "xdp::", "idle::"];

#[derive(Default)]
struct Sums {
    passed: u32,
    failed: u32,
    skipped: Vec<String>,
    /// What other commands have left out, none of which is a test that counts as passed.
    skipped_before: Vec<String>,
    failures: Vec<String>,
    suites: Vec<Suite>,
}

/// What a test executable has come to.
#[derive(Debug, PartialEq, Eq)]
struct Suite {
    name: String,
    passed: u32,
    failed: u32,
    /// As the executable tells it, if it does.
    time: String,
}

/// The command; fails when a test fails, when a tier cannot be built, and when it executes no test.
pub(crate) fn command(arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure()?;
    ensure!(
        arguments.kernel.is_none() || arguments.tier == Tier::Vm,
        "--kernel is for `cargo xtask test vm`: the other tiers run on the kernel of this machine"
    );
    if arguments.tier == Tier::Vm {
        return vm::test::command(&vm::test::Arguments {
            kernels: arguments.kernel.into_iter().collect(),
            groups: Vec::new(),
            tests: arguments.filter.iter().cloned().collect(),
            all: false,
            jobs: 1,
            optional: false,
        });
    }
    let mut sums = Sums::after(&arguments.failed_before);
    let wanted = |tier| arguments.tier == Tier::All || arguments.tier == tier;
    let kubelab = arguments.kubelab.as_deref().filter(|_| wanted(Tier::Kube));
    let kubelab = kubelab.map(kubelab_directory).transpose()?;
    let filter = arguments.filter.as_deref();
    if wanted(Tier::Unit) {
        for command in unit_commands(filter) {
            sums.add("unit", Ok(command), filter);
        }
    }
    if ROOT_TIERS.iter().any(|(tier, ..)| wanted(*tier)) {
        println!("==> building the agent and the plugin");
        exec(workspace::cargo().args(["build", "--package", "oxlan", "--bins"]))?;
    }
    for (tier, name, prefixes) in ROOT_TIERS {
        if wanted(tier) {
            let command = targets(prefixes).and_then(|t| root_command(&t, filter));
            let command = command.map(|mut command| {
                command.envs(kubelab.as_ref().map(|directory| (KUBELAB, directory)));
                if tier == Tier::Netns {
                    side_by_side(&mut command);
                }
                command
            });
            sums.add(name, command, filter);
        }
    }
    if wanted(Tier::Netns) && filter.is_none() {
        sums.add("netns with XDP", xdp_command(), None);
    }
    if arguments.tier == Tier::All && filter.is_none() {
        sums.skipped_before = notes::all();
    }
    sums.print();
    Ok(if sums.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The directory for tests, which run in directories of their own.
fn kubelab_directory(directory: &Path) -> Result<PathBuf> {
    ensure!(
        directory.join("kubelab").is_file(),
        "--kubelab {}: there is no program kubelab in it",
        directory.display()
    );
    let found = directory.canonicalize();
    found.with_context(|| format!("cannot find {}", directory.display()))
}

/// All tests of all crates but those of `oxlan-tests/tests`, which need root.
fn unit_commands(filter: Option<&str>) -> [Command; 2] {
    let mut others = workspace::cargo();
    others.args(["test", "--no-fail-fast", "--workspace"]);
    others.args(["--exclude", "oxlan-ebpf", "--exclude", "oxlan-tests"]);
    let mut fixtures = workspace::cargo();
    fixtures.args([
        "test",
        "--no-fail-fast",
        "--package",
        "oxlan-tests",
        "--lib",
    ]);
    [others, fixtures].map(|mut command| {
        command.args(filter);
        command
    })
}

/// The tests of clusters, but for [`WITHOUT_XDP`], in clusters with XDP.
fn xdp_command() -> Result<Command> {
    let mut command = root_command(&["netns".to_owned()], None)?;
    side_by_side(&mut command);
    command.arg("--");
    for name in WITHOUT_XDP {
        command.args(["--skip", name]);
    }
    command.env("OXLAN_TEST_XDP", "on");
    Ok(command)
}

/// Two tests for each processor, as half of the time they wait for the kernel. They wait longer before they fail
/// for that.
fn side_by_side(command: &mut Command) {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for (variable, value) in [(TEST_THREADS, 2 * processors), (SLOWNESS, 3)] {
        if std::env::var_os(variable).is_none() {
            command.env(variable, value.to_string());
        }
    }
}

/// Names of the test executables of the tier `netns`.
pub(crate) fn netns_targets() -> Result<Vec<String>> {
    let tiers = ROOT_TIERS.iter();
    let mut prefixes =
        tiers.filter_map(|(tier, _, prefixes)| (*tier == Tier::Netns).then_some(*prefixes));
    targets(prefixes.next().unwrap_or_default())
}

/// Names of the tests, files or directories, that start with one of these, in order.
fn targets(prefixes: &[&str]) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    let directory = workspace::root().join("tests/tests");
    for entry in std::fs::read_dir(&directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
    {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let stem = name.strip_suffix(".rs").unwrap_or(&name);
        if prefixes.iter().any(|prefix| stem.starts_with(prefix)) {
            targets.push(stem.to_owned());
        }
    }
    ensure!(
        !targets.is_empty(),
        "no file of {} starts with {prefixes:?}",
        directory.display()
    );
    targets.sort();
    Ok(targets)
}

/// Cargo itself runs as the caller, so that the target directory stays his; only tests become root.
fn root_command(targets: &[String], filter: Option<&str>) -> Result<Command> {
    let mut command = workspace::cargo();
    command.args(["test", "--no-fail-fast", "--package", "oxlan-tests"]);
    for target in targets {
        command.args(["--test", target]);
    }
    command.args(filter);
    if !is_root() {
        ensure!(
            find_program("sudo").is_some(),
            "these tests need root and there is no sudo"
        );
        println!("==> these tests need root, so sudo may ask for your password");
        command.env(runner_variable(), "sudo --preserve-env");
    }
    Ok(command)
}

/// The variable that makes cargo start test binaries through a program.
fn runner_variable() -> String {
    let triple = format!("{}_unknown_linux_gnu", std::env::consts::ARCH).to_uppercase();
    format!("CARGO_TARGET_{triple}_RUNNER")
}

impl Sums {
    /// Begins with steps that have failed already.
    fn after(failed: &[String]) -> Self {
        Self {
            failed: u32::try_from(failed.len()).unwrap_or(u32::MAX),
            failures: failed.to_vec(),
            ..Self::default()
        }
    }

    /// Runs a tier; one that cannot be run counts as a failure, and the others go on.
    fn add(&mut self, tier: &str, command: Result<Command>, filter: Option<&str>) {
        println!("\n==> {tier} tests");
        let run = command.and_then(|command| self.run_tier(tier, command, filter));
        if let Err(error) = run {
            self.failed += 1;
            self.failures.push(format!("{tier}: {error:#}"));
        }
    }

    /// That a filter left nothing of a tier is no error, that it has no test is.
    fn run_tier(&mut self, tier: &str, command: Command, filter: Option<&str>) -> Result<()> {
        let (passed, failed) = (self.passed, self.failed);
        let ended_well = self.run(command)?;
        ensure!(
            ended_well || self.failed > failed,
            "the {tier} tests could not be built or ended early"
        );
        let executed = self.passed + self.failed > passed + failed;
        ensure!(executed || filter.is_some(), "no {tier} test was run");
        Ok(())
    }

    fn run(&mut self, mut command: Command) -> Result<bool> {
        println!("{}", line(&command));
        // One pipe for both streams keeps their lines in order.
        let (reader, writer) = std::io::pipe()?;
        command
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .stdin(Stdio::null());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run `{}`", line(&command)))?;
        // It holds the writing ends, without which the pipe does not end.
        drop(command);
        let mut suite = String::new();
        for text in BufReader::new(reader).lines() {
            let text = text?;
            println!("{text}");
            self.read(&text, &mut suite);
        }
        Ok(child.wait()?.success())
    }

    /// Takes what counts out of a line of `cargo test`.
    fn read(&mut self, text: &str, suite: &mut String) {
        if let Some(target) = text.trim_start().strip_prefix("Running ") {
            *suite = suite_name(target);
        } else if let Some(at) = text.find(SKIP_MARK) {
            self.skipped.push(text[at + SKIP_MARK.len()..].to_owned());
        } else if let Some(name) = failed_test(text) {
            self.failures.push(format!("{suite}: {name}"));
        } else if let Some((passed, failed)) = result_line(text) {
            self.passed += passed;
            self.failed += failed;
            let time = text.split_once("finished in ").map_or("", |(_, time)| time);
            self.suites.push(Suite {
                name: suite.clone(),
                passed,
                failed,
                time: time.to_owned(),
            });
        }
    }

    fn print(&self) {
        println!("\n==> suites");
        for suite in self
            .suites
            .iter()
            .filter(|suite| suite.passed + suite.failed > 0)
        {
            let Suite {
                name,
                passed,
                failed,
                time,
            } = suite;
            println!("{name:<40} {passed:>5} passed {failed:>5} failed {time:>10}");
        }
        for skipped in self.skipped_before.iter().chain(&self.skipped) {
            println!("skipped {skipped}");
        }
        for failure in &self.failures {
            println!("failed {failure}");
        }
        let skipped = u32::try_from(self.skipped.len()).unwrap_or(u32::MAX);
        println!(
            "{} passed, {} failed",
            self.passed.saturating_sub(skipped),
            self.failed
        );
    }
}

/// `tests/netns.rs (target/debug/deps/netns-0a1b)` is `netns`, `unittests src/lib.rs (.../oxlan-0a1b)` is `oxlan`.
fn suite_name(target: &str) -> String {
    let file = target
        .rsplit('/')
        .next()
        .unwrap_or(target)
        .trim_end_matches(')');
    file.rsplit_once('-')
        .map_or(file, |(name, _)| name)
        .to_owned()
}

/// The name in `test drift::sysctls ... FAILED`.
pub(crate) fn failed_test(text: &str) -> Option<&str> {
    text.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// Numbers of passed and failed tests in `test result: ok. 3 passed; 0 failed; ...`.
pub(crate) fn result_line(text: &str) -> Option<(u32, u32)> {
    let mut parts = text
        .strip_prefix("test result: ")?
        .split_once(". ")?
        .1
        .split("; ");
    let passed = parts.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = parts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some((passed, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_cargo_are_understood() {
        let mut sums = Sums::default();
        let mut suite = String::new();
        for text in [
            "     Running tests/netns.rs (target/debug/deps/netns-0a1b2c)",
            "test a ... SKIPPED a: no SRv6 here",
            "test b ... ok",
            "test room::c ... FAILED",
            "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.0s",
        ] {
            sums.read(text, &mut suite);
        }
        let suite = Suite {
            name: "netns".to_owned(),
            passed: 12,
            failed: 3,
            time: "2.0s".to_owned(),
        };
        assert_eq!(sums.suites, [suite]);
        assert_eq!(sums.skipped, ["a: no SRv6 here"]);
        assert_eq!(sums.failures, ["netns: room::c"]);
        assert_eq!((sums.passed, sums.failed), (12, 3));
    }

    #[test]
    fn a_step_that_failed_before_is_a_failure() {
        let sums = Sums::after(&["cargo xtask lint".to_owned()]);
        assert_eq!((sums.passed, sums.failed), (0, 1));
        assert_eq!(sums.failures, ["cargo xtask lint"]);
    }
}
