//! What passed, failed and was skipped on each kernel, read from the machines' consoles.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::test::Group;
use crate::test::{SKIP_MARK, failed_test, result_line};

/// What a machine prints before the tests of a group; the group's name follows.
pub(super) const GROUP_MARK: &str = "==> group ";

/// What a test prints before something that it found out about the kernel (`oxlan_tests::fact`).
const FACT_MARK: &str = "KERNEL FACT ";

/// What happened on one kernel.
#[derive(Debug)]
pub(super) struct Outcome {
    kernel: &'static str,
    release: String,
    groups: Vec<Sums>,
    /// What tests found out about the kernel.
    facts: Vec<String>,
    /// What is wrong though no test failed.
    troubles: Vec<String>,
}

/// What happened to the tests of one group.
#[derive(Debug)]
struct Sums {
    group: String,
    began: Instant,
    took: Duration,
    passed: u32,
    failed: u32,
    /// Reasons, with the names of the tests.
    skipped: BTreeMap<String, Vec<String>>,
    failures: Vec<String>,
}

/// All kernels.
#[derive(Debug, Default)]
pub(super) struct Report {
    groups: Vec<&'static str>,
    /// Only tests with certain names were wanted.
    named: bool,
    outcomes: Vec<Outcome>,
}

impl Outcome {
    pub(super) fn new(kernel: &'static str, release: &str) -> Self {
        Self {
            kernel,
            release: release.to_owned(),
            groups: Vec::new(),
            facts: Vec::new(),
            troubles: Vec::new(),
        }
    }

    /// Takes what counts out of a line of the machine's console.
    pub(super) fn read(&mut self, line: &str) {
        if let Some(group) = line.strip_prefix(GROUP_MARK) {
            self.groups.push(Sums::new(group));
            return;
        }
        if let Some((_, fact)) = line.split_once(FACT_MARK) {
            self.facts.push(fact.to_owned());
        }
        let Some(sums) = self.groups.last_mut() else {
            return;
        };
        if let Some(at) = line.find(SKIP_MARK) {
            let (test, reason) = line[at + SKIP_MARK.len()..]
                .split_once(": ")
                .unwrap_or(("a test", "no reason"));
            let tests = sums.skipped.entry(reason.to_owned()).or_default();
            if !tests.iter().any(|known| known == test) {
                tests.push(test.to_owned());
            }
        } else if let Some(name) = failed_test(line) {
            sums.failures.push(name.to_owned());
        } else if let Some((passed, failed)) = result_line(line) {
            sums.passed += passed;
            sums.failed += failed;
        }
        sums.took = sums.began.elapsed();
    }

    /// The machine did not say that all was well.
    pub(super) fn ended_early(&mut self, why: &str) {
        if self.groups.iter().all(|sums| sums.failed == 0) {
            self.troubles.push(why.to_owned());
        }
    }

    /// What tests found out is not what is written.
    pub(super) fn disagrees(&mut self, objections: Vec<String>) {
        self.troubles.extend(objections);
    }

    /// As `uname -r` says.
    pub(super) fn release(&self) -> &str {
        &self.release
    }

    /// The words behind a fact that starts with these.
    pub(super) fn fact(&self, subject: &str) -> Option<&str> {
        let mut facts = self.facts.iter();
        facts.find_map(|fact| fact.strip_prefix(subject)?.strip_prefix(' '))
    }

    /// The second words of facts that start with this one, in their order.
    pub(super) fn subjects<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        let words = self.facts.iter().map(|fact| fact.split(' '));
        words.filter_map(move |mut words| {
            words
                .next()
                .filter(|first| *first == kind)
                .and(words.next())
        })
    }

    fn group(&self, name: &str) -> Option<&Sums> {
        self.groups.iter().find(|sums| sums.group == name)
    }

    /// Whether a test of this group was run.
    fn ran(&self, group: &str) -> bool {
        self.group(group)
            .is_some_and(|sums| sums.passed + sums.failed > 0)
    }

    /// Tests that passed and failed; whatever else is wrong counts as a failure.
    fn totals(&self) -> (u32, u32) {
        let troubles = u32::try_from(self.troubles.len()).unwrap_or(u32::MAX);
        self.groups.iter().fold((0, troubles), |(p, f), sums| {
            (p + sums.really_passed(), f + sums.failed)
        })
    }
}

impl Sums {
    fn new(group: &str) -> Self {
        Self {
            group: group.to_owned(),
            began: Instant::now(),
            took: Duration::ZERO,
            passed: 0,
            failed: 0,
            skipped: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    fn skipped(&self) -> u32 {
        let tests: usize = self.skipped.values().map(Vec::len).sum();
        u32::try_from(tests).unwrap_or(u32::MAX)
    }

    /// To the test harness a test that is skipped has passed.
    fn really_passed(&self) -> u32 {
        self.passed.saturating_sub(self.skipped())
    }

    fn cell(&self) -> String {
        let mut cell = format!("{} passed", self.really_passed());
        for (count, word) in [(self.failed, "FAILED"), (self.skipped(), "skipped")] {
            if count > 0 {
                cell.push_str(&format!(", {count} {word}"));
            }
        }
        cell.push_str(&format!(", {} s", self.took.as_secs()));
        cell
    }
}

impl Report {
    /// `named` is whether only tests with certain names were wanted, which not every group has.
    pub(super) fn new(groups: &[Group], named: bool, outcomes: Vec<Outcome>) -> Self {
        Self {
            groups: groups.iter().map(|group| group.name()).collect(),
            named,
            outcomes,
        }
    }

    /// Whether enough was run on every kernel, and nothing failed.
    pub(super) fn is_good(&self) -> bool {
        let (passed, failed) = self.totals();
        passed > 0 && failed == 0
    }

    /// Whether every group ran a test on a kernel; of named tests, whether any did.
    fn enough_ran(&self, outcome: &Outcome) -> bool {
        let mut ran = self.groups.iter().map(|group| outcome.ran(group));
        if self.named {
            ran.any(|ran| ran)
        } else {
            ran.all(|ran| ran)
        }
    }

    pub(super) fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    pub(super) fn print(&self) {
        println!("\n==> kernels");
        print!("{}", self.table());
        print!("{}", self.remarks());
        let (passed, failed) = self.totals();
        println!("{passed} passed, {failed} failed");
    }

    /// Tests that passed and failed; a kernel on which too little was run counts as a failure.
    fn totals(&self) -> (u32, u32) {
        self.outcomes.iter().fold((0, 0), |(p, f), outcome| {
            let (passed, failed) = outcome.totals();
            let idle = u32::from(failed == 0 && !self.enough_ran(outcome));
            (p + passed, f + failed + idle)
        })
    }

    /// A row for each kernel, a column for each group.
    fn table(&self) -> String {
        let mut head = format!("{:<18}{:<26}", "KERNEL", "RELEASE");
        for group in &self.groups {
            head.push_str(&format!("{:<36}", group.to_uppercase()));
        }
        let mut table = format!("{}\n", head.trim_end());
        for outcome in &self.outcomes {
            let mut row = format!("{:<18}{:<26}", outcome.kernel, outcome.release);
            for group in &self.groups {
                let cell = outcome
                    .group(group)
                    .map_or_else(|| "not run".into(), Sums::cell);
                row.push_str(&format!("{cell:<36}"));
            }
            table.push_str(row.trim_end());
            table.push('\n');
        }
        table
    }

    /// What was skipped and why, what failed, and which machine is not to be trusted.
    fn remarks(&self) -> String {
        let mut text = String::new();
        for outcome in &self.outcomes {
            let kernel = outcome.kernel;
            text.push_str(&self.idle_groups(outcome));
            for Sums {
                group,
                skipped,
                failures,
                ..
            } in &outcome.groups
            {
                for (reason, tests) in skipped {
                    let names = tests.join(", ");
                    text.push_str(&format!(
                        "skipped on {kernel}, {group}: {reason}: {names}\n"
                    ));
                }
                for failure in failures {
                    text.push_str(&format!("failed on {kernel}, {group}: {failure}\n"));
                }
            }
            for trouble in &outcome.troubles {
                text.push_str(&format!("failed on {kernel}: {trouble}\n"));
            }
        }
        text
    }

    /// Groups of which nothing was run.
    fn idle_groups(&self, outcome: &Outcome) -> String {
        let state = if self.enough_ran(outcome) {
            "nothing ran"
        } else {
            "failed"
        };
        let why = if self.named {
            "none of its tests has such a name"
        } else {
            "none of its tests was run"
        };
        let idle = self.groups.iter().filter(|group| !outcome.ran(group));
        idle.map(|group| format!("{state} on {}, {group}: {why}\n", outcome.kernel))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(lines: &[&str]) -> Outcome {
        let mut outcome = Outcome::new("bookworm", "6.1.0-50-amd64");
        for line in lines {
            outcome.read(line);
        }
        outcome
    }

    #[test]
    fn consoles_become_a_table() {
        let outcome = outcome(&[
            "[    1.0] a line of the kernel",
            "==> group prog",
            "test a ... SKIPPED a: TCX links need Linux 6.6",
            "test a ... ok",
            "test b ... ok",
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.0s",
            "==> group netns",
            "test c ... FAILED",
            "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.0s",
            "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.0s",
        ]);
        let report = Report::new(&[Group::Prog, Group::Netns], false, vec![outcome]);
        assert_eq!(
            report
                .table()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
            "KERNEL RELEASE PROG NETNS bookworm 6.1.0-50-amd64 \
             1 passed, 1 skipped, 0 s 7 passed, 1 FAILED, 0 s"
        );
        assert_eq!(
            report.remarks(),
            "skipped on bookworm, prog: TCX links need Linux 6.6: a\nfailed on bookworm, netns: c\n"
        );
        assert_eq!(report.totals(), (8, 1));
        assert!(!report.is_good());
    }

    #[test]
    fn a_machine_that_ends_early_has_failed() {
        let passed = "test result: ok. 2 passed; 0 failed; 0 ignored";
        let mut early = outcome(&["==> group prog", passed]);
        early.ended_early("it did not come to its end");
        let report = |outcome| Report::new(&[Group::Prog], false, vec![outcome]);
        assert!(!report(early).is_good());
        assert!(report(outcome(&["==> group prog", passed])).is_good());
        assert!(!report(outcome(&["==> group prog"])).is_good());
        assert!(!report(outcome(&["Kernel panic"])).is_good());
        assert!(
            !report(outcome(&[
                "==> group prog",
                "test result: ok. 0 passed; 0 failed; 0"
            ]))
            .is_good()
        );
    }

    #[test]
    fn named_tests_need_not_be_in_every_group() {
        let groups = [Group::Prog, Group::Netns];
        let lines = |prog: &'static str| {
            let none = "test result: ok. 0 passed; 0 failed; 0 ignored";
            outcome(&["==> group prog", prog, "==> group netns", none])
        };
        let one = "test result: ok. 1 passed; 0 failed; 0 ignored";
        let none = "test result: ok. 0 passed; 0 failed; 0 ignored";
        for (named, prog, good, remark) in [
            (
                true,
                one,
                true,
                "nothing ran on bookworm, netns: none of its tests has such a name\n",
            ),
            (
                false,
                one,
                false,
                "failed on bookworm, netns: none of its tests was run\n",
            ),
            (
                true,
                none,
                false,
                "failed on bookworm, prog: none of its tests has such a name\n\
                 failed on bookworm, netns: none of its tests has such a name\n",
            ),
        ] {
            let report = Report::new(&groups, named, vec![lines(prog)]);
            assert_eq!(report.is_good(), good, "{remark}");
            assert_eq!(report.remarks(), remark);
        }
        // Each kernel has to run something.
        let report = Report::new(&groups, true, vec![lines(one), lines(none)]);
        assert_eq!(report.totals(), (1, 1));
    }
}
