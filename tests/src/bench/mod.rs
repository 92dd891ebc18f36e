//! The benchmark: systems side by side on one machine, measured in turn within one run.
//!
//! Absolute figures say little on a shared machine, so systems are interleaved (A B C A B C), medians
//! are reported with their spread, and figures of packets are ratios to the limit of their group.

mod control;
mod effort;
mod figures;
mod loads;
mod profile;
mod programs;
mod report;
mod systems;

use anyhow::Result;

pub use effort::{Effort, Group};
pub use profile::profile;
pub use report::Report;

/// Hears what is being done.
pub type Progress<'a> = dyn FnMut(&str) + 'a;

/// Sets up what the groups need, measures, and removes it again.
///
/// # Errors
///
/// If a system cannot be set up or a measurement fails.
pub fn run(effort: Effort, groups: &[Group], progress: &mut Progress<'_>) -> Result<Report> {
    let mut figures = figures::Figures::default();
    for group in groups {
        progress(&format!("{}: setting up", group.title()));
        match group {
            Group::Paths => systems::measure(effort, &mut figures, progress)?,
            Group::Programs => programs::measure(effort, &mut figures, progress)?,
            Group::Control => control::measure(effort, &mut figures, progress)?,
        }
    }
    Ok(Report::new(effort, groups, figures))
}
