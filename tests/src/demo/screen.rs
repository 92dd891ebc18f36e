//! What the demonstration prints: sections, sentences, aligned rows. Fits 100 columns.

use std::io::{self, IsTerminal, Write};

/// Columns of the terminal for which everything is made.
const WIDTH: usize = 100;

/// Blanks in front of everything but titles.
const INDENT: &str = "  ";

/// How a text looks on a terminal; in a file all look the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Strong,
    Dim,
    Good,
    Bad,
}

impl Style {
    /// Parameters of "select graphic rendition" (ECMA-48, 8.3.117).
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Strong => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Bad => "1;31",
        }
    }
}

/// A text with its look.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(super) fn new(text: impl Into<String>, style: Style) -> Self {
        Self {
            text: text.into(),
            style,
        }
    }

    /// What came out of a check.
    pub(super) fn outcome(text: impl Into<String>, good: bool) -> Self {
        Self::new(text, if good { Style::Good } else { Style::Bad })
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Style::Plain)
    }
}

/// The terminal, and what has gone wrong so far.
#[derive(Debug)]
pub(super) struct Screen {
    colour: bool,
    sections: usize,
    failures: Vec<String>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            colour: wanted && io::stdout().is_terminal(),
            sections: 0,
            failures: Vec::new(),
        }
    }

    /// The next numbered section.
    pub(super) fn section(&mut self, title: &str) {
        self.sections += 1;
        let text = format!("{}  {title} ", self.sections);
        self.title(&text);
    }

    /// A title with a line to the right margin.
    pub(super) fn title(&self, text: &str) {
        let text = format!("{} ", text.trim_end());
        let rest = "─".repeat(WIDTH.saturating_sub(text.chars().count()));
        put("");
        put(&format!(
            "{}{}",
            self.paint(&text, Style::Strong),
            self.paint(&rest, Style::Dim)
        ));
        put("");
    }

    /// Sentences, wrapped.
    pub(super) fn say(&self, text: &str) {
        for line in wrap(text, WIDTH - INDENT.len()) {
            put(&format!("{INDENT}{line}"));
        }
    }

    /// Sentences, wrapped, behind a mark.
    pub(super) fn item(&self, mark: Cell, text: &str) {
        const MARK: usize = 2;
        let mut mark = mark;
        for line in wrap(text, WIDTH - INDENT.len() - MARK) {
            self.row(&[MARK], &[mark, line.into()]);
            mark = "".into();
        }
    }

    /// An empty line.
    pub(super) fn gap(&self) {
        put("");
    }

    /// Cells in columns of these widths; the last one may be as long as it likes.
    pub(super) fn row(&self, widths: &[usize], cells: &[Cell]) {
        let mut line = INDENT.to_owned();
        for (index, cell) in cells.iter().enumerate() {
            line.push_str(&self.paint(&cell.text, cell.style));
            if index + 1 < cells.len() {
                let width = widths.get(index).copied().unwrap_or_default();
                let blanks = width.saturating_sub(cell.text.chars().count()).max(1);
                line.push_str(&" ".repeat(blanks));
            }
        }
        put(line.trim_end());
    }

    /// Headings of columns.
    pub(super) fn headings(&self, widths: &[usize], headings: &[&str]) {
        let cells: Vec<Cell> = headings
            .iter()
            .map(|text| Cell::new(*text, Style::Dim))
            .collect();
        self.row(widths, &cells);
    }

    /// Remembers that something did not work; the exit code will say so.
    pub(super) fn failed(&mut self, what: impl Into<String>) {
        self.failures.push(what.into());
    }

    /// Remembers it if the condition does not hold, which is returned.
    pub(super) fn check(&mut self, holds: bool, otherwise: impl FnOnce() -> String) -> bool {
        if !holds {
            self.failed(otherwise());
        }
        holds
    }

    /// What did not work so far.
    pub(super) fn failures(&self) -> &[String] {
        &self.failures
    }

    fn paint(&self, text: &str, style: Style) -> String {
        if self.colour && style != Style::Plain && !text.is_empty() {
            format!("\x1b[{}m{text}\x1b[0m", style.code())
        } else {
            text.to_owned()
        }
    }
}

/// Writes a line. A reader that has gone away (`| head`) must not end us before we have cleaned up.
fn put(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let used = lines.last().map_or(0, |line| line.chars().count());
        if used > 0 && used + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_wrapped_at_blanks() {
        assert_eq!(
            wrap("one two  three\nfour", 9),
            ["one two", "three", "four"]
        );
        assert_eq!(wrap("much-too-long a b", 5), ["much-too-long", "a b"]);
    }
}
