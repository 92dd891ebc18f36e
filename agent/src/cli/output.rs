//! Printing: tables that fit a terminal, or JSON.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs; the form is stable
    Json,
}

/// Columns that every table fits in.
pub(super) const WIDTH: u16 = 100;

/// A table with these headings, without lines: `grep`, `awk` and narrow terminals like it.
/// Only the cells of the column `flexible` are wrapped; addresses stay whole, to be copied.
pub(super) fn table(headings: &[&str], flexible: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(WIDTH);
    table.set_header(headings.iter().copied());
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index != flexible {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table
}

/// The table as text without blanks at the ends of lines.
pub(super) fn render(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// JSON with line breaks.
pub(super) fn pretty(json: &serde_json::Value) -> String {
    format!("{json:#}\n")
}

/// Writes to standard output. That the reader has gone away (`oxlan pods | head -1`) is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// A list for one cell.
pub(super) fn joined<T: ToString>(items: &[T], between: &str) -> String {
    let texts: Vec<String> = items.iter().map(T::to_string).collect();
    texts.join(between)
}

/// A duration in its largest units: `42s`, `7m03s`, `5h12m`, `3d04h`.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (423, "7m03s"),
            (18720, "5h12m"),
            (273_600, "3d04h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn a_table_fits_whatever_is_in_it() {
        let mut table = table(&["A", "B", "C"], 1);
        table.add_row(["x".repeat(60), "y ".repeat(60), "z".into()]);
        let text = render(&table);
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
    }
}
