//! `cargo xtask vm kernels`: writes docs/KERNELS.md from what tests find out on each kernel.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::report::Outcome;
use super::test::{self, Group};
use crate::workspace;

/// The tests that tell facts.
const TESTS: [&str; 2] = ["features::", "verifier::"];

/// Instructions that the verifier looks at before it refuses a program (include/linux/bpf.h,
/// `BPF_COMPLEXITY_LIMIT_INSNS`).
const LIMIT: u32 = 1_000_000;

/// The command.
pub(super) fn command() -> Result<ExitCode> {
    let report = test::on_all_kernels(Group::Prog, &TESTS)?;
    let path = workspace::root().join("docs/KERNELS.md");
    std::fs::write(&path, page(report.outcomes())?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(ExitCode::SUCCESS)
}

fn page(outcomes: &[Outcome]) -> Result<String> {
    let features = table(outcomes, "feature", "feature", |words| {
        Some(words.to_owned())
    })?;
    let verified = table(outcomes, "verified", "program", room)?;
    Ok(include_str!("kernels.md")
        .replace("{features}", &features)
        .replace("{verified}", &verified))
}

/// `48118 4057`, instructions that were looked at and that the program has, with what is left of [`LIMIT`].
fn room(words: &str) -> Option<String> {
    let (verified, length) = words.split_once(' ')?;
    let verified: u32 = verified.parse().ok()?;
    let left = f64::from(LIMIT.saturating_sub(verified)) * 100.0 / f64::from(LIMIT);
    Some(format!("{verified} of {length}; {left:.1} % left"))
}

/// A row for each subject of a kind of facts, a column for each kernel.
fn table(
    outcomes: &[Outcome],
    kind: &str,
    heading: &str,
    cell: impl Fn(&str) -> Option<String>,
) -> Result<String> {
    let mut table = format!("| {heading} |");
    for outcome in outcomes {
        let _ = write!(table, " {} |", outcome.release());
    }
    let _ = write!(table, "\n| --- |{}", " --- |".repeat(outcomes.len()));
    let mut subjects: Vec<&str> = Vec::new();
    for subject in outcomes.iter().flat_map(|outcome| outcome.subjects(kind)) {
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
    for subject in subjects {
        let _ = write!(table, "\n| `{subject}` |");
        for outcome in outcomes {
            let words = outcome.fact(&format!("{kind} {subject}"));
            let text = match words {
                Some(words) => cell(words).with_context(|| format!("`{words}` is no fact"))?,
                None => "not loaded".to_owned(),
            };
            let _ = write!(table, " {text} |");
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_become_tables() {
        let mut old = Outcome::new("bookworm", "6.1.0");
        let mut new = Outcome::new("trixie", "6.12.1");
        old.read("test a ... KERNEL FACT feature tcx-links no");
        old.read("KERNEL FACT verified from_pod 67101 6553");
        new.read("KERNEL FACT feature tcx-links yes");
        let page = page(&[old, new]).unwrap();
        for row in [
            "| feature | 6.1.0 | 6.12.1 |\n| --- | --- | --- |\n| `tcx-links` | no | yes |",
            "| `from_pod` | 67101 of 6553; 93.3 % left | not loaded |",
        ] {
            assert!(page.contains(row), "{page}");
        }
        assert!(!page.contains(['{', '}']), "{page}");
    }
}
