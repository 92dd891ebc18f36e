//! The goals, each with what was reached.

use super::super::Effort;
use super::super::control::{OXLAN, REFERENCE, large, large_kube, small_kube};
use super::super::figures::{Figures, Measure};
use super::super::programs::{SIZES, forwards, subject};
use super::super::systems::System;
use super::tables::branches;

/// Programs' time that is still well, nanoseconds.
const PROGRAM_NS: f64 = 150.0;

/// Growth of a program's time that still counts as flat.
const FLAT: f64 = 1.10;

/// Part of one CPU, in milliseconds per minute, below which nothing can be polling.
const IDLE_MS: f64 = 6.0;

/// A part of a goal: what was reached, as text, and whether that is enough.
type Reached = Option<(String, bool)>;

/// A row: what, the goal, and its parts.
type Row = (&'static str, &'static str, Vec<Reached>);

/// A table of all goals.
pub(super) fn table(figures: &Figures, effort: Effort) -> String {
    let mut text =
        "\n## Goals\n\n| what | goal | reached | |\n| --- | --- | --- | --- |\n".to_owned();
    for (what, goal, parts) in rows(figures, effort) {
        let reached: Vec<&str> = parts.iter().flatten().map(|(text, _)| &**text).collect();
        let outcome = match (
            reached.len() == parts.len(),
            parts.iter().flatten().all(|p| p.1),
        ) {
            (false, _) => "not measured",
            (true, true) => "met",
            (true, false) => "missed",
        };
        text.push_str(&format!(
            "| {what} | {goal} | {} | {outcome} |\n",
            reached.join("; ")
        ));
    }
    text
}

fn rows(figures: &Figures, effort: Effort) -> Vec<Row> {
    let [oxlan, host, kernel] = [System::Oxlan, System::Host, System::KernelVxlan];
    let [local, veth] = [System::OxlanLocal, System::Veth];
    let large = large(effort);
    let kube = large_kube(effort);
    let below = |measure, subject: &str, limit| at_most(figures, measure, subject, limit);
    vec![
        (
            "node to node, TCP request/response p50 (64 B)",
            "at most 1.15 x host to host",
            vec![ratio(figures, Measure::PathLength, oxlan, host, |r| {
                r <= 1.15
            })],
        ),
        (
            "node to node, UDP 64 B packet rate",
            "at least 0.90 x host to host and 2 x kernel bridge + VXLAN",
            vec![
                ratio(figures, Measure::PacketRate, oxlan, host, |r| r >= 0.90),
                ratio(figures, Measure::PacketRate, oxlan, kernel, |r| r >= 2.0),
            ],
        ),
        (
            "node to node, TCP stream",
            "at least 0.95 x host to host at the same MTU, and never below kernel bridge + VXLAN",
            vec![
                ratio(figures, Measure::Stream, oxlan, host, |r| r >= 0.95),
                ratio(figures, Measure::Stream, oxlan, kernel, |r| r >= 1.0),
                ratio(figures, Measure::Streams, oxlan, kernel, |r| r >= 1.0),
            ],
        ),
        (
            "same node, request/response p50",
            "at most 1.05 x a bare veth pair",
            vec![ratio(figures, Measure::PathLength, local, veth, |r| {
                r <= 1.05
            })],
        ),
        (
            "a program's own time per packet, where it forwards",
            "at most 150 ns, and flat (within 10 %) from 10 to 100,000 pods and 5,000 nodes",
            vec![longest(figures), growth(figures)],
        ),
        (
            "CNI ADD",
            "p50 10 ms; 100 at once within 1 s; 5 x faster than bridge + host-local",
            vec![
                below(Measure::Add, OXLAN, 10.0),
                below(Measure::AddAtOnce, OXLAN, 1000.0),
                faster(figures, Measure::Add),
                faster(figures, Measure::AddAtOnce),
            ],
        ),
        (
            "agent with 5,000 nodes",
            "20 MiB resident; 300 ms from start to forwarding; no polling when idle",
            vec![
                below(Measure::Memory, &large, 20.0),
                below(Measure::Start, &large, 300.0),
                below(Measure::IdleCpu, &large, IDLE_MS),
            ],
        ),
        (
            "change of one node of 5,000",
            "in the map within 50 ms of the source's event",
            vec![
                below(Measure::Change, &large, 50.0),
                below(Measure::Event, &kube, 50.0),
            ],
        ),
        (
            "agent with 5,000 Nodes of Kubernetes",
            "20 MiB more than with its own alone; all in the map within 1 s of the list",
            vec![
                more_memory(figures, effort),
                below(Measure::Converge, &kube, 1000.0),
            ],
        ),
    ]
}

fn at_most(figures: &Figures, measure: Measure, subject: &str, limit: f64) -> Reached {
    let value = figures.median(measure, subject)?;
    let text = format!("{} {}", measure.shown(value), measure.about().unit);
    Some((text, value <= limit))
}

/// What many Nodes need.
fn more_memory(figures: &Figures, effort: Effort) -> Reached {
    let memory = |subject: &str| figures.median(Measure::Memory, subject);
    let more = memory(&large_kube(effort))? - memory(&small_kube())?;
    Some((
        format!("{} MiB more", Measure::Memory.shown(more)),
        more <= 20.0,
    ))
}

fn ratio(
    figures: &Figures,
    measure: Measure,
    system: System,
    to: System,
    enough: fn(f64) -> bool,
) -> Reached {
    let ratio = figures.ratio(measure, system.key(), to.key())?;
    // Judged as it is shown.
    let ratio = (ratio * 100.0).round() / 100.0;
    let flows = if measure == Measure::Streams {
        " (eight flows)"
    } else {
        ""
    };
    Some((format!("{ratio:.2} x {}{flows}", to.title()), enough(ratio)))
}

/// How many times faster than the reference plugins.
fn faster(figures: &Figures, measure: Measure) -> Reached {
    let times = figures.ratio(measure, REFERENCE, OXLAN)?;
    let which = if measure == Measure::AddAtOnce {
        " at once"
    } else {
        ""
    };
    Some((format!("{times:.1} x faster{which}"), times >= 5.0))
}

/// The branches that the goals are about: who is answered or refused waits for nothing.
fn forwarding(figures: &Figures) -> impl Iterator<Item = String> {
    branches(figures).into_iter().filter(|name| forwards(name))
}

/// The program and branch that takes longest, at any size.
fn longest(figures: &Figures) -> Reached {
    let times = forwarding(figures).flat_map(|branch| {
        SIZES.map(|size| {
            let time = figures.median(Measure::ProgramTime, &subject(&branch, size));
            time.map(|time| (branch.clone(), time))
        })
    });
    let (branch, time) = times.flatten().max_by(|a, b| a.1.total_cmp(&b.1))?;
    Some((format!("{time:.0} ns ({branch})"), time <= PROGRAM_NS))
}

/// The branch that grows most from the smallest size to another.
fn growth(figures: &Figures) -> Reached {
    let [small, ..] = SIZES;
    let time = |branch: &str, size| figures.median(Measure::ProgramTime, &subject(branch, size));
    let growths = forwarding(figures).filter_map(|branch| {
        let others = SIZES.into_iter().filter_map(|size| time(&branch, size));
        let growth = others.reduce(f64::max)? / time(&branch, small)?;
        Some((branch, growth))
    });
    let (branch, growth) = growths.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let percent = (growth - 1.0) * 100.0;
    Some((
        format!("at most {percent:.0} % longer ({branch})"),
        growth <= FLAT,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(figures: &[(Measure, &str, f64)]) -> String {
        let mut all = Figures::default();
        for (measure, subject, value) in figures {
            all.add(*measure, subject, *value);
        }
        table(&all, Effort::Full)
    }

    #[test]
    fn goals_are_met_missed_or_not_measured() {
        let path = |oxlan| {
            text(&[
                (Measure::PathLength, "oxlan", oxlan),
                (Measure::PathLength, "host", 2.0),
            ])
        };
        assert!(
            path(2.29).contains("| 1.15 x host to host | met |"),
            "{}",
            path(2.29)
        );
        assert!(path(2.4).contains("| 1.20 x host to host | missed |"));
        assert!(text(&[]).matches("not measured").count() == 9);
        // One part is missing, one is not good enough.
        let add = text(&[(Measure::Add, OXLAN, 11.0)]);
        assert!(add.contains("| 11.0 ms | not measured |"), "{add}");
    }

    #[test]
    fn programs_are_judged_by_the_worst() {
        let at = |branch, size| subject(branch, SIZES[size]);
        let (a, b, c) = (at("a", 0), at("a", 2), at("b", 0));
        let (answer, drop) = (at("a: answer to ARP", 0), at("a: drop, too old", 0));
        let table = text(&[
            (Measure::ProgramTime, &a, 100.0),
            (Measure::ProgramTime, &b, 120.0),
            (Measure::ProgramTime, &c, 90.0),
            (Measure::ProgramTime, &answer, 900.0),
            (Measure::ProgramTime, &drop, 800.0),
        ]);
        assert!(
            table.contains("| 120 ns (a); at most 20 % longer (a) | missed |"),
            "{table}"
        );
    }
}
