//! Figures of all rounds, as Markdown and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::systems::System;
use super::{Effort, Kind};

/// What was measured, round by round.
#[derive(Debug)]
pub struct Report {
    effort: Effort,
    values: BTreeMap<(Kind, System), Vec<f64>>,
}

impl Report {
    pub(super) fn new(effort: Effort) -> Self {
        Self {
            effort,
            values: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, system: System, kind: Kind, value: f64) {
        self.values.entry((kind, system)).or_default().push(value);
    }

    fn spread(&self, kind: Kind, system: System) -> Option<Spread> {
        self.values
            .get(&(kind, system))
            .and_then(|values| Spread::of(values))
    }

    /// A table for each thing that was measured.
    #[must_use]
    pub fn markdown(&self) -> String {
        let Effort { rounds, seconds } = self.effort;
        let mut text = format!(
            "{}, {rounds} interleaved rounds of {seconds} s.\n\
             Medians, with the smallest and the largest value; the ratio is to the first row of each group.\n",
            machine()
        );
        for kind in Kind::ALL {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\n**{}**, {}\n", kind.title(), kind.unit());
            let _ = writeln!(
                text,
                "| | | median | range | ratio |\n| --- | --- | ---: | ---: | ---: |"
            );
            for (group, systems) in System::GROUPS {
                self.group(&mut text, *kind, group, systems);
            }
        }
        text
    }

    fn group(&self, text: &mut String, kind: Kind, group: &str, systems: &[System]) {
        let limit = systems.first().and_then(|first| self.spread(kind, *first));
        for system in systems {
            let (Some(limit), Some(spread)) = (&limit, self.spread(kind, *system)) else {
                continue;
            };
            let _ = writeln!(
                text,
                "| {group} | {} | {} | {} to {} | {:.2} |",
                system.title(),
                kind.shown(spread.median),
                kind.shown(spread.min),
                kind.shown(spread.max),
                spread.median / limit.median
            );
        }
    }

    /// All values: `{"machine", "rounds", "seconds", "values": {KIND: {SYSTEM: [..]}}}`.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut values = BTreeMap::<&str, BTreeMap<&str, &[f64]>>::new();
        for ((kind, system), list) in &self.values {
            values
                .entry(kind.key())
                .or_default()
                .insert(system.key(), list);
        }
        json!({
            "machine": machine(),
            "rounds": self.effort.rounds,
            "seconds": self.effort.seconds,
            "values": values,
        })
    }
}

struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            *sorted.get(middle)?
        } else {
            f64::midpoint(*sorted.get(middle.checked_sub(1)?)?, *sorted.get(middle)?)
        };
        Some(Self {
            median,
            min: *sorted.first()?,
            max: *sorted.last()?,
        })
    }
}

/// Processor, number of CPUs and kernel.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown processor", |rest| {
        rest.trim_start_matches(['\t', ' ', ':'])
    });
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{model}, {cpus} CPUs, Linux {}",
        read("/proc/sys/kernel/osrelease").trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let mut report = Report::new(Effort {
            rounds: 3,
            seconds: 1,
        });
        for (host, oxlan) in [(2.0, 3.0), (4.0, 2.0), (2.0, 9.0)] {
            report.add(System::Host, Kind::Latency, host);
            report.add(System::Oxlan, Kind::Latency, oxlan);
        }
        let row = "| node to node | Oxlan | 3.00 | 2.00 to 9.00 | 1.50 |";
        assert!(report.markdown().contains(row), "{}", report.markdown());
        assert_eq!(
            report.json()["values"]["tcp_rr_p50_us"]["host"],
            json!([2.0, 4.0, 2.0])
        );
        assert!(Spread::of(&[]).is_none());
        assert!((Spread::of(&[1.0, 2.0]).unwrap().median - 1.5).abs() < f64::EPSILON);
    }
}
