//! What a pass did and could not do: logged as it happens, shown by `oxlan status` afterwards.

use std::error::Error;
use std::fmt::Display;

use crate::api::types::Health;
use crate::reconcile::Planned;

/// More lines in one pass, as when a large cluster is seen for the first time, say nothing new.
const MOST_LINES: usize = 40;

/// The account of one pass.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Things put back that somebody else had changed.
    pub(super) repairs: u64,
    /// Whether something could not be done and has to be tried again.
    pub(super) failed: bool,
    /// What is wrong, in words.
    pub(super) problems: Vec<String>,
    /// What the API says of the node's health.
    pub(super) health: Health,
    changes: usize,
}

impl Report {
    /// A step was done, or not.
    pub(super) fn step<S: Display, T, E: Error>(
        &mut self,
        planned: &Planned<S>,
        repair: bool,
        done: Result<T, E>,
    ) {
        match done {
            Err(error) => self.failure(&format!("see to {}", planned.step), &error),
            Ok(_) if repair => {
                self.repairs += 1;
                tracing::warn!("{}", planned.as_repair());
            }
            Ok(_) => {
                self.changes += 1;
                if self.changes <= MOST_LINES {
                    tracing::info!("{}", planned.as_change());
                }
            }
        }
    }

    /// A pin was made again.
    pub(super) fn repaired_pin(&mut self, path: &str) {
        self.repairs += 1;
        tracing::warn!("put back the pin {path}, which somebody removed");
    }

    /// Something could not be done and will be tried again.
    pub(super) fn failure(&mut self, what: &str, error: &dyn Error) {
        self.retry(format!("cannot {what}: {}", crate::datapath::chain(error)));
    }

    /// Something is wrong that trying again may change.
    pub(super) fn retry(&mut self, problem: String) {
        self.failed = true;
        self.problem(problem);
    }

    /// Something is wrong that trying again does not change.
    pub(super) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Tells how much was too much to tell.
    pub(super) fn finish(&self) {
        let more = self.changes.saturating_sub(MOST_LINES);
        if more > 0 {
            tracing::info!(
                changes = self.changes,
                "and {more} more changes of this kind"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Found;

    #[derive(Debug, thiserror::Error)]
    #[error("the kernel refuses")]
    struct Refused;

    #[test]
    fn only_repairs_count_and_failures_are_kept_in_words() {
        let mut report = Report::default();
        let planned = Planned {
            step: "the route",
            found: Found::Missing,
        };
        report.step::<_, (), Refused>(&planned, true, Ok(()));
        report.step::<_, (), Refused>(&planned, false, Ok(()));
        assert_eq!((report.repairs, report.failed), (1, false));
        report.step::<_, (), Refused>(&planned, true, Err(Refused));
        assert_eq!((report.repairs, report.failed), (1, true));
        assert_eq!(
            report.problems,
            ["cannot see to the route: the kernel refuses"]
        );
    }
}
