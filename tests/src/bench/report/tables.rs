//! Markdown tables of what was measured.

use std::fmt::Write as _;

use super::super::Effort;
use super::super::control::{OXLAN, REFERENCE, large, large_kube, small, small_kube};
use super::super::figures::{Figures, Measure};
use super::super::programs::{SIZES, calls_of, subject, together};
use super::super::systems::System;

/// The measures of packets.
pub(super) const PATHS: &[Measure] = &[
    Measure::PathLength,
    Measure::RoundTrip,
    Measure::Stream,
    Measure::Streams,
    Measure::PacketRate,
    Measure::ConnectRate,
    Measure::StreamCpu,
    Measure::PacketCpu,
];

/// A table for each measure of packets, with the ratio to the limit.
pub(super) fn paths(figures: &Figures, plots: Option<&str>) -> String {
    let mut text =
        "\nThe ratio is to the first row of each group, which is the limit.\n".to_owned();
    for measure in PATHS {
        heading(&mut text, *measure, plots);
        text.push_str("| | | median | range | ratio |\n| --- | --- | ---: | ---: | ---: |\n");
        for (group, systems) in System::GROUPS {
            for system in systems {
                let row = path_row(figures, *measure, group, systems[0], *system);
                text.push_str(&row.unwrap_or_default());
            }
        }
    }
    text
}

fn path_row(
    figures: &Figures,
    measure: Measure,
    group: &str,
    limit: System,
    system: System,
) -> Option<String> {
    let spread = figures.spread(measure, system.key())?;
    let shown = |value| measure.shown(value);
    let ratio = figures.ratio(measure, system.key(), limit.key());
    Some(format!(
        "| {group} | {} | {} | {} to {} | {} |\n",
        system.title(),
        shown(spread.median),
        shown(spread.min),
        shown(spread.max),
        ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
    ))
}

/// A row for each branch with a column for each size, and XDP.
pub(super) fn programs(figures: &Figures, plots: Option<&str>) -> String {
    let mut text = String::new();
    heading(&mut text, Measure::ProgramTime, plots);
    text.push_str(
        "Each program runs once per call of `BPF_PROG_TEST_RUN` over packets of 64 flows in turn; \
         the kernel's statistics of programs tell the time, less that of an empty program.\n\
         The goal is about the branches that forward packets. Answers and drops are in the table, too: a packet \
         that is not forwarded may cost more, but shows what a flood of them costs.\n\
         The plot has a bar for the largest cluster and a line from the least to the most of all three.\n\n| |",
    );
    for size in SIZES {
        let _ = write!(text, " {} pods, {} nodes |", size.pods, size.nodes);
    }
    text.push_str("\n| --- | ---: | ---: | ---: |\n");
    for branch in branches(figures) {
        let _ = write!(text, "| {branch} |");
        for size in SIZES {
            let time = figures.median(Measure::ProgramTime, &subject(&branch, size));
            let shown = time.map_or("-".to_owned(), |time| Measure::ProgramTime.shown(time));
            let _ = write!(text, " {shown} |");
        }
        text.push('\n');
    }
    text.push_str(&helpers(figures));
    for measure in [Measure::CallTime, Measure::LiveFrames] {
        heading(&mut text, measure, plots);
        text.push_str("| | median | range |\n| --- | ---: | ---: |\n");
        let entries = figures.entries().iter();
        for entry in entries.filter(|entry| entry.measure == measure) {
            let row = row(figures, measure, &entry.subject);
            let _ = writeln!(text, "| {} | {} |", entry.subject, row.unwrap_or_default());
        }
    }
    text
}

/// How much of a program's time is the kernel's.
fn helpers(figures: &Figures) -> String {
    let mut text =
        "\n**what of a program's time the kernel's helpers take**, ns, in the smallest cluster\n\n\
        | | in all | helpers | the program's own |\n| --- | ---: | ---: | ---: |\n"
            .to_owned();
    for branch in branches(figures) {
        let in_all = figures.median(Measure::ProgramTime, &subject(&branch, SIZES[0]));
        let calls = calls_of(&branch);
        let (Some(in_all), Some(calls)) = (in_all, together(figures, calls)) else {
            continue;
        };
        if calls > 0.0 {
            let [all, helpers, own] =
                [in_all, calls, in_all - calls].map(|time| Measure::ProgramTime.shown(time));
            let _ = writeln!(text, "| {branch} | {all} | {helpers} | {own} |");
        }
    }
    text
}

/// Names of branches in the order in which they were measured.
pub(in crate::bench) fn branches(figures: &Figures) -> Vec<String> {
    let suffix = subject("", SIZES[0]);
    let entries = figures.entries().iter();
    entries
        .filter(|entry| entry.measure == Measure::ProgramTime)
        .filter_map(|entry| entry.subject.strip_suffix(&suffix))
        .map(str::to_owned)
        .collect()
}

/// The plugin beside the reference plugins, and the agent.
pub(super) fn control(figures: &Figures, effort: Effort, plots: Option<&str>) -> String {
    let mut text = String::new();
    let many = effort.at_once();
    for (measure, note) in [
        (Measure::Add, "one after the other"),
        (Measure::Delete, "one after the other"),
        (Measure::AddAtOnce, &*format!("{many} pods")),
        (Measure::DeleteAtOnce, &*format!("{many} pods")),
    ] {
        heading(&mut text, measure, plots);
        let _ = writeln!(
            text,
            "Processes of the plugin, {note}, pods with IPv4.\n\n\
             | | median | p99 | range | ratio |\n| --- | ---: | ---: | ---: | ---: |"
        );
        for name in [OXLAN, REFERENCE] {
            text.push_str(&call_row(figures, measure, name).unwrap_or_default());
        }
    }
    text.push_str("\n**The agent**\n\n| | | median | range |\n| --- | --- | ---: | ---: |\n");
    for measure in [
        Measure::Start,
        Measure::Load,
        Measure::Change,
        Measure::Converge,
        Measure::Event,
        Measure::Memory,
        Measure::IdleCpu,
        Measure::IdleWakeups,
    ] {
        let about = measure.about();
        let subjects = [small(), large(effort), small_kube(), large_kube(effort)];
        for subject in subjects {
            // Not every source has every figure.
            let Some(row) = row(figures, measure, &subject) else {
                continue;
            };
            let nodes = subject.split_once(", ").map_or("", |(_, nodes)| nodes);
            let _ = writeln!(
                text,
                "| {}, {} | {nodes} | {row} |",
                about.title, about.unit
            );
        }
    }
    text
}

fn call_row(figures: &Figures, measure: Measure, name: &str) -> Option<String> {
    let spread = figures.spread(measure, name)?;
    let [median, p99, min, max] =
        [spread.median, spread.p99, spread.min, spread.max].map(|value| measure.shown(value));
    let ratio = figures.ratio(measure, name, REFERENCE)?;
    Some(format!(
        "| {name} | {median} | {p99} | {min} to {max} | {ratio:.2} |\n"
    ))
}

fn row(figures: &Figures, measure: Measure, subject: &str) -> Option<String> {
    let spread = figures.spread(measure, subject)?;
    let [median, min, max] =
        [spread.median, spread.min, spread.max].map(|value| measure.shown(value));
    Some(format!("{median} | {min} to {max}"))
}

/// Title, unit, which way is better, and the plot.
fn heading(text: &mut String, measure: Measure, plots: Option<&str>) {
    let about = measure.about();
    let better = if about.less_is_better {
        "lower is better"
    } else {
        "higher is better"
    };
    let _ = writeln!(text, "\n**{}**, {}, {better}\n", about.title, about.unit);
    if let Some(directory) = plots {
        let _ = writeln!(text, "![{}]({directory}/{}.svg)\n", about.title, about.key);
    }
}
