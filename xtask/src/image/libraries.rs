//! What programs need to run besides themselves: shared libraries, and the licences of all that is copied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::exec::output;

/// The libraries of these programs, the loader among them, where the loader looks for them.
pub(super) fn of(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut all = BTreeSet::new();
    for program in programs {
        // It fails for a static program, which has none.
        if let Ok(text) = output(Command::new("ldd").arg(program)) {
            ensure!(
                !text.contains("not found"),
                "{} misses libraries:\n{text}",
                program.display()
            );
            all.extend(paths(&text));
        }
    }
    Ok(all)
}

/// Paths in lines as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)` and `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn paths(ldd: &str) -> impl Iterator<Item = PathBuf> {
    ldd.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.find(|word| word.starts_with('/')).map(PathBuf::from)
    })
}

/// The copyright files of the Debian packages that these files are from.
pub(super) fn licences<'a>(
    files: impl Iterator<Item = &'a PathBuf>,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for file in files {
        if let Some(package) = package(file) {
            let path = Path::new("/usr/share/doc").join(&package).join("copyright");
            if let Ok(text) = std::fs::read(path) {
                all.insert(package, text);
            }
        }
    }
    Ok(all)
}

fn package(file: &Path) -> Option<String> {
    // dpkg knows a file by the path in its package, with or without /usr.
    let real = file.canonicalize().ok();
    let short = real.as_ref().and_then(|real| {
        let rest = real.strip_prefix("/usr").ok()?;
        Some(Path::new("/").join(rest))
    });
    let candidates = [Some(file.to_owned()), real, short];
    let owner = candidates
        .into_iter()
        .flatten()
        .find_map(|path| output(Command::new("dpkg").arg("-S").arg(path)).ok())?;
    owner.split([':', ',']).next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ldd_are_understood() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<PathBuf> = paths(text).collect();
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
    }
}
