//! Printing: tables that fit a terminal, or JSON.

use std::io::{self, Write};

use clap::ValueEnum;

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs; the form is stable
    Json,
}

/// Writes to standard output. That the reader has gone away (`oxlan pods | head -1`) is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}
