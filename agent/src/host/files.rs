//! Files that are replaced as a whole: a reader, or the next process after a crash, finds the old one or the new one.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a file must outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The end of this process; after a power failure it may be empty.
    Process,
    /// A power failure, too, which costs a sync.
    Power,
}

/// Writes `contents` beside `path`, with the permissions `mode`, and renames it over `path`.
///
/// # Errors
/// When the system refuses a step; nothing is left then, and `path` is as it was.
pub fn replace(path: &Path, contents: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    let temporary = temporary(path)?;
    let written = (|| {
        // Of its own: what a crash has left may have another mode, or be a link to elsewhere.
        remove(&temporary)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        let mut file = options.open(&temporary)?;
        // The mode of `open` is cut by the umask.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(contents)?;
        if durability == Durability::Power {
            file.sync_data()?;
        }
        fs::rename(&temporary, path)
    })();
    written.inspect_err(|_| {
        // Best effort: the next writer removes what stays.
        let _ = fs::remove_file(&temporary);
    })
}

/// Removes a file; that it is gone is success.
///
/// # Errors
/// When the system refuses.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `.name.tmp` beside it: the dot hides it from readers that take every file of a directory, as CNI's do.
fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".tmp");
    Ok(path.with_file_name(hidden))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(directory.path().join(".file.tmp"), "left by a crash").unwrap();
        for (contents, mode) in [("one", 0o755), ("two", 0o600)] {
            replace(&path, contents.as_bytes(), mode, Durability::Power).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), contents);
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o7777, mode);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_replaced_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("directory");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "kept").unwrap();
        replace(&path, b"new", 0o644, Durability::Process).unwrap_err();
        assert!(path.join("inside").exists());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(replace(Path::new("/"), b"", 0o644, Durability::Process).is_err());
    }
}
