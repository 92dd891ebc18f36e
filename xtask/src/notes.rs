//! Notes of what other commands have skipped. `cargo xtask test` repeats them, because it comes last and its end
//! is what is read; each goes away when what it is about was done after all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace;

/// Notes that something was not done, and why.
pub(crate) fn skipped(what: &str, why: &str) -> Result<()> {
    write(&dir(), what, why)
}

/// Takes the note away: it was done.
pub(crate) fn done(what: &str) {
    let _ = std::fs::remove_file(dir().join(what));
}

/// All notes, as `what: why`.
pub(crate) fn all() -> Vec<String> {
    read(&dir())
}

fn dir() -> PathBuf {
    workspace::target().join("skipped")
}

fn write(dir: &Path, what: &str, why: &str) -> Result<()> {
    // A note is a line.
    let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(dir.join(what), why))
        .with_context(|| format!("cannot write to {}", dir.display()))
}

fn read(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let note = |entry: std::fs::DirEntry| {
        let why = std::fs::read_to_string(entry.path()).ok()?;
        Some(format!("{}: {why}", entry.file_name().to_string_lossy()))
    };
    let mut notes: Vec<String> = entries.filter_map(note).collect();
    notes.sort();
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_as_they_were_written() {
        let dir = std::env::temp_dir().join(format!("oxlan-notes-{}", std::process::id()));
        assert!(read(&dir).is_empty());
        write(&dir, "vm trixie", "no\n  network").unwrap();
        write(&dir, "arm", "no compiler").unwrap();
        write(&dir, "arm", "no library").unwrap();
        assert_eq!(read(&dir), ["arm: no library", "vm trixie: no network"]);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
