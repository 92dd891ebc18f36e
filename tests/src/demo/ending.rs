//! How the demonstration ends: what was shown, or what failed and where to look.

use std::time::Duration;

use anyhow::Error;

use super::explore::{self, Group};
use super::screen::{Cell, Screen, Style};
use super::stage::text;
use crate::cluster::Cluster;
use crate::node::Node;

/// Lines of each agent's log that a failure shows.
const TAIL: usize = 12;

/// What was done.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) pairs: usize,
    pub(super) datagrams: u64,
    /// What to look around with.
    pub(super) commands: Vec<Group>,
}

/// Everything worked.
pub(super) fn good(screen: &Screen, done: &Done, took: Duration, keep: bool) {
    let good = |text| screen.row(&[], &[Cell::new(text, Style::Good)]);
    screen.title("Everything worked");
    good(format!(
        "All {} pairs reached each other. None of {} datagrams around a killed agent was lost.",
        done.pairs, done.datagrams
    ));
    good(format!("It took {:.0} s.", took.as_secs_f64()));
    if keep {
        explore::show(screen, &done.commands);
    }
}

/// Something did not; `fatal` is what made an end of it.
pub(super) fn bad(screen: &Screen, fatal: Option<&Error>, cluster: &Cluster, keep: bool) {
    let count = screen.failures().len() + usize::from(fatal.is_some());
    let things = if count == 1 { "thing" } else { "things" };
    screen.title(&format!("{count} {things} did not work"));
    for failure in screen.failures() {
        complain(screen, failure);
    }
    if let Some(error) = fatal {
        complain(screen, &cause(error));
        screen.say("What comes after it was not tried.");
    }
    cluster.nodes.iter().for_each(|node| {
        tail(screen, node);
        drops(screen, node);
    });
    screen.gap();
    screen.say(if keep {
        "Everything is still there to look at; `cargo xtask demo --down` removes it."
    } else {
        "Everything is removed now; `cargo xtask demo --keep` leaves it there to look at."
    });
}

/// The error with its causes. The fixtures put a whole log into theirs, which [`tail`] shows better.
fn cause(error: &Error) -> String {
    let texts: Vec<String> = error
        .chain()
        .map(|cause| cause.to_string())
        .map(|text| {
            text.split("; its log:")
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    texts.join(": ")
}

fn complain(screen: &Screen, text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    screen.item(Cell::new("✗", Style::Bad), &lines.join(" "));
}

fn tail(screen: &Screen, node: &Node) {
    let log = node.log();
    let lines: Vec<&str> = log.lines().collect();
    if lines.is_empty() {
        return;
    }
    screen.gap();
    let title = format!(
        "{}: the end of its agent's log, {}",
        node.name,
        node.dirs.log.display()
    );
    screen.row(&[], &[Cell::new(title, Style::Strong)]);
    for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
        screen.row(&[2], &[Cell::new("│", Style::Dim), (*line).into()]);
    }
}

/// What the programs dropped, and why. Silent where no agent answers: its log says more.
fn drops(screen: &Screen, node: &Node) {
    let Ok(counters) = node.oxlan_json("drops") else {
        return;
    };
    for row in counters["drops"].as_array().into_iter().flatten() {
        if row["packets"].as_u64() > Some(0) {
            let (packets, name) = (&row["packets"], text(&row["name"]));
            screen.say(&format!("Its programs dropped {packets} packets: {name}."));
        }
    }
}
