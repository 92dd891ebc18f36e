//! The way commands go to a machine and answers come back: its second serial port.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Stands for a line's end within an answer.
const LINE_END: char = '\u{1}';

pub(super) struct Channel {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Channel {
    /// Connects to a machine, which waits for that before it boots.
    pub(super) fn open(path: &Path, limit: Duration) -> Result<Self> {
        let writer = UnixStream::connect(path)?;
        writer.set_read_timeout(Some(limit))?;
        Ok(Self {
            reader: BufReader::new(writer.try_clone()?),
            writer,
        })
    }

    /// Waits until the machine takes commands.
    pub(super) fn greet(&mut self) -> Result<()> {
        let greeting = self.line().context("the machine does not come up")?;
        ensure!(greeting == "ready", "the machine says `{greeting}`");
        Ok(())
    }

    /// Runs a line of shell on the machine; returns what it printed, and whether it succeeded.
    pub(super) fn run(&mut self, line: &str) -> Result<(String, bool)> {
        writeln!(self.writer, "{line}")?;
        let answer = self
            .line()
            .with_context(|| format!("no answer to `{line}`"))?;
        Ok(read(&answer))
    }

    /// The same for what has to succeed.
    pub(super) fn expect(&mut self, line: &str) -> Result<String> {
        let (text, succeeded) = self.run(line)?;
        ensure!(succeeded, "`{line}` failed: {text}");
        Ok(text)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line)?;
        ensure!(read > 0, "the machine was switched off");
        Ok(line.trim_end().to_owned())
    }
}

/// What was printed, and whether the status is that of success. Without a word there is the status alone.
fn read(answer: &str) -> (String, bool) {
    let (status, text) = answer.split_once(' ').unwrap_or((answer, ""));
    (text.replace(LINE_END, "\n"), status == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_what_was_printed() {
        for (answer, printed, succeeded) in [
            ("0 two\u{1}lines", "two\nlines", true),
            ("0", "", true),
            ("1", "", false),
            ("127 not found", "not found", false),
        ] {
            assert_eq!(read(answer), (printed.to_owned(), succeeded));
        }
    }
}
