//! The benchmark: systems side by side on one machine, measured in turn within one run.
//!
//! Absolute figures say little on a shared machine, so every figure is also a ratio to the limit of
//! its group: host to host between nodes, a bare veth pair on one node. Systems are interleaved
//! (A B C A B C), and medians are reported with their spread.

mod load;
mod report;
mod systems;

use anyhow::Result;

pub use load::Kind;
pub use report::Report;
use systems::Systems;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How often each system gets its turn.
    pub rounds: u32,
    /// Length of one measurement, seconds.
    pub seconds: u32,
}

/// Sets everything up, measures, and removes it again. `progress` hears of every measurement.
///
/// # Errors
///
/// If a system cannot be set up or a measurement fails.
pub fn run(effort: Effort, progress: &mut dyn FnMut(&str)) -> Result<Report> {
    progress("setting up");
    let systems = Systems::start()?;
    let mut report = Report::new(effort);
    for round in 1..=effort.rounds {
        for kind in Kind::ALL {
            for path in systems.paths() {
                let value = load::measure(*kind, path, effort.seconds)?;
                progress(&format!(
                    "round {round}/{}: {}: {}: {} {}",
                    effort.rounds,
                    kind.title(),
                    path.system.title(),
                    kind.shown(value),
                    kind.unit()
                ));
                report.add(path.system, *kind, value);
            }
        }
    }
    Ok(report)
}
