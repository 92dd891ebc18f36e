//! A tree of files that becomes a tar archive, the same bytes each time: sorted, without times, all root's.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::GzBuilder;
use tar::{Builder, EntryType, Header};

/// The files, by their paths.
#[derive(Default)]
pub(crate) struct Tree {
    files: BTreeMap<String, (u32, Vec<u8>)>,
    directories: BTreeSet<String>,
}

impl Tree {
    /// Puts a file in, with its permissions.
    pub(crate) fn add(&mut self, path: &str, mode: u32, contents: Vec<u8>) {
        let path = path.trim_start_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.add_directory(parent);
        }
        self.files.insert(path.to_owned(), (mode, contents));
    }

    /// Puts a copy of a file of this machine in.
    pub(crate) fn add_copy(&mut self, path: &str, mode: u32, of: &Path) -> Result<()> {
        let contents =
            std::fs::read(of).with_context(|| format!("cannot read {}", of.display()))?;
        self.add(path, mode, contents);
        Ok(())
    }

    /// Puts a directory in, with those above it.
    pub(crate) fn add_directory(&mut self, path: &str) {
        let path = path.trim_start_matches('/');
        let ends = path.match_indices('/').map(|(end, _)| end);
        for end in ends.chain([path.len()]) {
            self.directories.extend(path.get(..end).map(str::to_owned));
        }
    }

    /// The archive, not compressed.
    pub(crate) fn tar(&self) -> Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for directory in &self.directories {
            let mut header = header(EntryType::Directory, 0o755, 0);
            archive.append_data(&mut header, format!("{directory}/"), std::io::empty())?;
        }
        for (path, (mode, contents)) in &self.files {
            let size = u64::try_from(contents.len())?;
            let mut header = header(EntryType::Regular, *mode, size);
            archive.append_data(&mut header, path, contents.as_slice())?;
        }
        Ok(archive.into_inner()?)
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Compresses, the same bytes each time.
pub(crate) fn gzip(contents: &[u8]) -> Result<Vec<u8>> {
    let mut compressed = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::default());
    compressed.write_all(contents)?;
    Ok(compressed.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_adding_does_not_matter() {
        let tree = |paths: [&str; 3]| {
            let mut tree = Tree::default();
            for path in paths {
                tree.add(path, 0o644, path.trim_start_matches('/').into());
            }
            gzip(&tree.tar().unwrap()).unwrap()
        };
        let one = tree(["/a/b/c", "a/d", "e"]);
        assert_eq!(one, tree(["e", "/a/d", "a/b/c"]));
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(one.as_slice()));
        let names = archive.entries().unwrap().map(|e| {
            let entry = e.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 0);
            entry.path().unwrap().display().to_string()
        });
        let names: Vec<String> = names.collect();
        assert_eq!(names, ["a/", "a/b/", "a/b/c", "a/d", "e"]);
    }
}
