//! `cargo xtask vm kernels`: writes docs/KERNELS.md from what tests find out on each kernel. Tests that find out
//! something else later say so.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::report::Outcome;
use super::test::{self, Group};
use crate::workspace;

/// The page.
const PAGE: &str = "docs/KERNELS.md";

/// The tests that tell facts.
const TESTS: [&str; 2] = ["features::", "verifier::"];

/// Instructions that the verifier looks at before it refuses a program (include/linux/bpf.h,
/// `BPF_COMPLEXITY_LIMIT_INSNS`).
const LIMIT: u32 = 1_000_000;

/// The command.
pub(super) fn command() -> Result<ExitCode> {
    let report = test::on_all_kernels(Group::Prog, &TESTS)?;
    let path = workspace::root().join(PAGE);
    std::fs::write(&path, page(report.outcomes())?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// What tests of all programs have found out on a kernel and the page does not say.
pub(super) fn objections(outcome: &Outcome) -> Vec<String> {
    let objection =
        |text: String| format!("{PAGE}: {text}; `cargo xtask vm kernels` writes it anew");
    match std::fs::read_to_string(workspace::root().join(PAGE)) {
        Ok(page) => {
            let found = differences(&page, outcome).into_iter();
            found.map(objection).collect()
        }
        Err(error) => vec![objection(error.to_string())],
    }
}

fn differences(page: &str, outcome: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    for (kind, heading, differs) in KINDS {
        let tables = Table::all(page, heading);
        for subject in outcome.subjects(kind) {
            let words = outcome.fact(&format!("{kind} {subject}"));
            let words = words.unwrap_or_default();
            let told = tables.iter().filter_map(|table| {
                let cells = table.row(subject);
                let Some(cells) = cells else {
                    return Some(format!("a table has no row for `{subject}`"));
                };
                let cell = cells.get(table.column(outcome.release())?)?;
                let text = format!("`{subject}` is \"{cell}\" there, and now {words}");
                differs(cell, words).then_some(text)
            });
            found.extend(told);
        }
    }
    found
}

/// Kinds of facts, the heading of their tables, and whether what a cell says is another fact than this.
const KINDS: [(&str, &str, Differs); 2] = [
    ("feature", "feature", |cell, words| cell != words),
    ("verified", "program", |cell, words| {
        !first_number(cell)
            .zip(first_number(words))
            .is_some_and(|(then, now)| is_close(then, now))
    }),
];

type Differs = fn(&str, &str) -> bool;

/// A compiler of another machine, or another version of the same kernel, may make some difference.
const fn is_close(then: u32, now: u32) -> bool {
    then <= now.saturating_mul(2) && now <= then.saturating_mul(2)
}

fn first_number(text: &str) -> Option<u32> {
    text.split(' ').next()?.parse().ok()
}

/// A table of the page.
struct Table<'a> {
    head: Vec<&'a str>,
    rows: Vec<Vec<&'a str>>,
}

impl<'a> Table<'a> {
    /// Those whose first column has this heading.
    fn all(page: &'a str, heading: &str) -> Vec<Self> {
        let mut tables = Vec::new();
        let mut lines = page.lines();
        while let Some(line) = lines.next() {
            let head = cells(line);
            if head.first() == Some(&heading) {
                let rows = lines.by_ref().take_while(|line| line.starts_with('|'));
                let rows = rows.map(cells).collect();
                tables.push(Self { head, rows });
            }
        }
        tables
    }

    fn row(&self, subject: &str) -> Option<&[&'a str]> {
        let mut rows = self.rows.iter();
        let row = rows.find(|row| row.first().is_some_and(|c| c.trim_matches('`') == subject));
        row.map(Vec::as_slice)
    }

    /// The column of a kernel of the same series: Debian's kernels get a new release with each fix.
    fn column(&self, release: &str) -> Option<usize> {
        let mut head = self.head.iter();
        head.position(|of| series(of) == series(release))
    }
}

fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
}

/// `6.1` of `6.1.0-50-amd64`.
fn series(release: &str) -> Vec<&str> {
    release.split('.').take(2).collect()
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

    #[test]
    fn what_the_page_does_not_say_is_told() {
        let mut then = Outcome::new("bookworm", "6.1.0-50-amd64");
        then.read("KERNEL FACT feature tcx-links no");
        then.read("KERNEL FACT verified from_pod 60000 6553");
        let page = page(&[then]).unwrap();
        let now = |release, lines: &[&str]| {
            let mut now = Outcome::new("bookworm", release);
            lines.iter().for_each(|line| now.read(line));
            differences(&page, &now)
        };
        let same = [
            "KERNEL FACT feature tcx-links no",
            "KERNEL FACT verified from_pod 35000 6000",
        ];
        assert!(now("6.1.0-51-amd64", &same).is_empty());
        let other = [
            "KERNEL FACT feature tcx-links yes",
            "KERNEL FACT verified from_pod 29000 6553",
            "KERNEL FACT verified to_pod 1 1",
        ];
        assert_eq!(
            now("6.1.0-51-amd64", &other),
            [
                "`tcx-links` is \"no\" there, and now yes",
                "`from_pod` is \"60000 of 6553; 94.0 % left\" there, and now 29000 6553",
                "a table has no row for `to_pod`",
            ]
        );
        // Of a series that the page does not have only the rows are known.
        assert_eq!(now("6.12.1", &other), ["a table has no row for `to_pod`"]);
        let unknown = now("6.1.0", &["KERNEL FACT feature flying yes"]);
        assert_eq!(unknown.len(), 2, "{unknown:?}");
    }
}
