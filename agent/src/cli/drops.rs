//! `oxlan drops`: what the datapath refused, and why.

use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::Ask;
use super::ask::ask;
use super::output::{self, Format};
use crate::api::types::{CounterRow, Drops};
use crate::pods::seconds_since_1970;

const PATH: &str = "/v1/drops";

/// Options of `oxlan drops`.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    ask: Ask,
    /// Go on and print each second what has been dropped in it
    #[arg(long, short)]
    watch: bool,
}

/// Prints the drops.
pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    if options.watch {
        return watch(&options.ask);
    }
    let answered = ask::<Drops>(&options.ask, PATH)?;
    output::print(&match options.ask.output {
        Format::Json => output::pretty(&answered.json),
        Format::Table => render(&answered.value),
    })
}

fn render(drops: &Drops) -> String {
    let mut table = output::table(&["REASON", "PACKETS", "BYTES", "MEANING"], 3);
    for row in &drops.drops {
        let (packets, bytes) = (row.packets.to_string(), row.bytes.to_string());
        table.add_row([&row.name, &packets, &bytes, &row.explanation]);
    }
    let passed = drops
        .verdicts
        .iter()
        .map(|row| format!("{} {}", row.name, row.packets));
    let passed: Vec<String> = passed.collect();
    format!(
        "{}\nNot dropped, in packets: {}\n",
        output::render(&table),
        passed.join(", ")
    )
}

/// One line for each reason that has counted since the last look; in JSON one object.
fn watch(options: &Ask) -> anyhow::Result<()> {
    let mut before = ask::<Drops>(options, PATH)?.value;
    if options.output == Format::Table {
        output::print("TIME (UTC)  REASON                PACKETS  MEANING\n")?;
    }
    loop {
        sleep(Duration::from_secs(1));
        let now = ask::<Drops>(options, PATH)?.value;
        for row in increases(&before, &now) {
            output::print(&match options.output {
                Format::Table => line(seconds_since_1970(), &row),
                Format::Json => format!("{}\n", json!({"time": seconds_since_1970(), "drop": row})),
            })?;
        }
        before = now;
    }
}

/// What `now` has more than `before`. Counters that went back have begun anew.
fn increases(before: &Drops, now: &Drops) -> Vec<CounterRow> {
    let increase = |row: &CounterRow| {
        let old = before
            .drops
            .iter()
            .find(|old| old.name == row.name && old.packets <= row.packets);
        let (packets, bytes) = old.map_or((0, 0), |old| (old.packets, old.bytes));
        CounterRow {
            packets: row.packets.saturating_sub(packets),
            bytes: row.bytes.saturating_sub(bytes),
            ..row.clone()
        }
    };
    now.drops
        .iter()
        .map(increase)
        .filter(|row| row.packets > 0)
        .collect()
}

fn line(time: u64, row: &CounterRow) -> String {
    let (hours, minutes, seconds) = (time / 3600 % 24, time / 60 % 60, time % 60);
    let CounterRow {
        name,
        packets,
        explanation,
        ..
    } = row;
    let mut text =
        format!("{hours:02}:{minutes:02}:{seconds:02}    {name:20}  {packets:>7}  {explanation}");
    if text.chars().count() > usize::from(output::WIDTH) {
        text = text
            .chars()
            .take(usize::from(output::WIDTH) - 3)
            .collect::<String>()
            + "...";
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drops(packets: u64) -> Drops {
        let row = |name: &str, packets| CounterRow {
            name: name.into(),
            packets,
            bytes: packets * 100,
            explanation: "A pod sent something that it must not send at all. ".repeat(3),
        };
        Drops {
            drops: vec![row("foreign-source", packets), row("no-route", 7)],
            verdicts: vec![row("local-pod", 3)],
        }
    }

    #[test]
    fn the_table_fits_and_names_every_reason() {
        let text = render(&drops(0));
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
        assert!(
            text.contains("foreign-source") && text.contains("local-pod 3"),
            "{text}"
        );
    }

    #[test]
    fn only_increases_are_watched() {
        let rows = increases(&drops(5), &drops(8));
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].packets, rows[0].bytes), (3, 300));
        assert_eq!(increases(&drops(8), &drops(5))[0].packets, 5);
        let text = line(3661, &rows[0]);
        assert!(text.starts_with("01:01:01    foreign-source"), "{text}");
        assert!(text.trim_end().chars().count() <= 100, "{text}");
    }
}
