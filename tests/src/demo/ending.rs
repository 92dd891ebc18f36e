//! How the demonstration ends: what was shown, or what failed and where to look.

use std::time::Duration;

use anyhow::Error;

use super::screen::{Cell, Screen, Style};
use crate::cluster::Cluster;
use crate::node::Node;

/// Lines of each agent's log that a failure shows.
const TAIL: usize = 12;

/// What was done, in numbers.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) pings: usize,
    pub(super) datagrams: u64,
}

/// Everything worked.
pub(super) fn good(screen: &Screen, done: &Done, took: Duration) {
    let text = format!(
        "Everything worked: {} pairs reached each other, {} datagrams crossed a killed agent and none was lost. \
         It took {:.0} s.",
        done.pings,
        done.datagrams,
        took.as_secs_f64()
    );
    screen.title("Result");
    screen.row(&[], &[Cell::new(text, Style::Good)]);
}

/// Something did not; `fatal` is what made an end of it.
pub(super) fn bad(screen: &Screen, fatal: Option<&Error>, cluster: Option<&Cluster>) {
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
    if let Some(cluster) = cluster {
        cluster.nodes.iter().for_each(|node| tail(screen, node));
    }
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
    screen.row(&[2], &[Cell::new("✗", Style::Bad), text.into()]);
}

fn tail(screen: &Screen, node: &Node) {
    let log = node.log();
    let lines: Vec<&str> = log.lines().collect();
    screen.gap();
    let title = format!(
        "{}: the end of its agent's log, {}",
        node.name,
        node.dirs.log.display()
    );
    screen.row(&[], &[Cell::new(title, Style::Strong)]);
    if lines.is_empty() {
        screen.say("It is empty.");
    }
    for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
        screen.row(&[2], &[Cell::new("│", Style::Dim), (*line).into()]);
    }
}
