//! The programs on the devices: which to attach and which to detach.

use std::collections::BTreeSet;
use std::fmt;

use super::{Found, Planned};
use crate::datapath::{Attachment, Program};

/// A program on a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filter {
    /// The program.
    pub program: Program,
    /// Name of the device.
    pub ifname: String,
    /// Its interface index.
    pub ifindex: u32,
}

/// One change. It displays as what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Attach the program, or put this agent's version in the place of another.
    Attach(Filter),
    /// Detach the program and remove its pin.
    Detach(Filter),
}

/// The steps from `actual` to `desired`. With `all`, also programs that run are attached again,
/// which replaces another version's and leaves this one's alone.
#[must_use]
pub fn plan(desired: &BTreeSet<Filter>, actual: &[Attachment], all: bool) -> Vec<Planned<Step>> {
    let alive: BTreeSet<Filter> = actual.iter().filter(|a| a.alive).map(filter).collect();
    let pinned: BTreeSet<Filter> = actual.iter().map(filter).collect();
    let attach = desired
        .iter()
        .filter(|f| all || !alive.contains(*f))
        .map(|f| Planned {
            step: Step::Attach(f.clone()),
            found: if alive.contains(f) {
                Found::Different("a predecessor's".into())
            } else {
                Found::Missing
            },
        });
    let detach = pinned.difference(desired).map(|f| Planned {
        step: Step::Detach(f.clone()),
        found: Found::Unwanted,
    });
    attach.chain(detach).collect()
}

fn filter(attachment: &Attachment) -> Filter {
    Filter {
        program: attachment.program,
        ifname: attachment.ifname.clone(),
        ifindex: attachment.ifindex,
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Attach(filter) | Self::Detach(filter)) = self;
        write!(
            f,
            "the program {} on {}",
            filter.program.name(),
            filter.ifname
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(program: Program, ifname: &str, ifindex: u32) -> Filter {
        Filter {
            program,
            ifname: ifname.into(),
            ifindex,
        }
    }

    fn attachment(program: Program, ifname: &str, ifindex: u32, alive: bool) -> Attachment {
        Attachment {
            program,
            ifname: ifname.into(),
            ifindex,
            alive,
        }
    }

    #[test]
    fn what_is_dead_or_missing_is_attached_and_what_is_left_over_goes() {
        let up = filter(Program::FromUplink, "eth0", 2);
        let dead = filter(Program::FromOverlay, "oxlan0", 5);
        let missing = filter(Program::FromPod, "oxl1", 7);
        let left = filter(Program::FromPod, "oxl0", 6);
        let desired = BTreeSet::from([up.clone(), dead.clone(), missing.clone()]);
        let actual = [
            attachment(Program::FromUplink, "eth0", 2, true),
            attachment(Program::FromOverlay, "oxlan0", 5, false),
            attachment(Program::FromPod, "oxl0", 6, false),
        ];
        let steps: Vec<Step> = plan(&desired, &actual, false)
            .into_iter()
            .map(|p| p.step)
            .collect();
        assert_eq!(
            steps,
            [
                Step::Attach(missing),
                Step::Attach(dead),
                Step::Detach(left)
            ]
        );
        let all = plan(&desired, &actual, true);
        assert!(all.iter().any(|p| p.step == Step::Attach(up.clone())));
    }

    #[test]
    fn a_device_that_was_made_again_is_another() {
        let desired = BTreeSet::from([filter(Program::ToOverlay, "oxlan0", 9)]);
        let actual = [attachment(Program::ToOverlay, "oxlan0", 5, false)];
        let steps = plan(&desired, &actual, false);
        assert_eq!(steps.len(), 2);
        assert!(matches!(&steps[1].step, Step::Detach(f) if f.ifindex == 5));
    }
}
