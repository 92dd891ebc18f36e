//! The figures as JSON, as Markdown with plots, and beside the goals.

mod budget;
mod machine;
mod plots;
mod tables;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::figures::{Figures, Measure};
use super::{Effort, Group};

/// What was measured.
#[derive(Debug)]
pub struct Report {
    effort: Effort,
    groups: Vec<Group>,
    machine: String,
    figures: Figures,
}

impl Report {
    pub(super) fn new(effort: Effort, groups: &[Group], figures: Figures) -> Self {
        Self {
            effort,
            groups: groups.to_vec(),
            machine: machine::describe(),
            figures,
        }
    }

    /// Every value: `{"machine", "effort", "groups", "figures": [{"measure", "unit", "subject", "median", "values"}]}`.
    #[must_use]
    pub fn json(&self) -> Value {
        let figures: Vec<Value> = self.figures.entries().iter().map(|entry| {
            let about = entry.measure.about();
            json!({
                "measure": about.key, "title": about.title, "unit": about.unit,
                "less_is_better": about.less_is_better, "subject": entry.subject,
                "median": self.figures.median(entry.measure, &entry.subject), "values": entry.values,
            })
        }).collect();
        json!({
            "machine": self.machine,
            "effort": self.effort.key(),
            "groups": self.groups.iter().map(|group| group.key()).collect::<Vec<_>>(),
            "figures": figures,
        })
    }

    /// Tables of everything that was measured, and the goals. `plots` is the directory of the plots
    /// as the reader of the text finds it; without it the text has none.
    #[must_use]
    pub fn markdown(&self, plots: Option<&str>) -> String {
        let mut text = self.introduction();
        text.push_str(&budget::table(&self.figures, self.effort));
        for group in &self.groups {
            text.push_str(&format!("\n## {}\n", group.title()));
            text.push_str(&match group {
                Group::Paths => tables::paths(&self.figures, plots),
                Group::Programs => tables::programs(&self.figures, plots),
                Group::Control => tables::control(&self.figures, self.effort, plots),
            });
        }
        text
    }

    fn introduction(&self) -> String {
        let rounds = self.effort.rounds();
        let rounds = match self.effort {
            Effort::Full => format!("{rounds} interleaved rounds"),
            Effort::Quick => "one round (`--quick`), so without a spread".to_owned(),
            Effort::Smoke => "the shortest run that there is: its figures mean nothing".to_owned(),
        };
        format!(
            "{}; {rounds}.\n\
             Nodes and pods are network namespaces of one machine, a node's underlay is a veth pair.\n\
             Every figure is a median; compare ratios, not absolute figures.\n",
            self.machine
        )
    }

    /// Writes a plot of every measure that has one into a directory.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn write_plots(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        for measure in self.measures() {
            plots::write(measure, &self.figures, directory)
                .with_context(|| format!("cannot plot {}", measure.about().title))?;
        }
        Ok(())
    }

    /// What was measured, in the order of the report.
    fn measures(&self) -> impl Iterator<Item = Measure> {
        let entries = self.figures.entries();
        let keys: BTreeSet<&str> = entries.iter().map(|e| e.measure.about().key).collect();
        let all = Measure::ALL.iter().copied();
        all.filter(move |measure| keys.contains(measure.about().key))
    }
}
