//! Attachments on disk: one readable JSON file each, written atomically.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Attachment, Key, PodError};

/// The directory `attachments` below the state directory, and what IPAM has to remember beside it.
#[derive(Debug)]
pub(super) struct Store {
    state: PathBuf,
    attachments: PathBuf,
}

/// What [`Store::load`] found.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// Records that could be read.
    pub(super) attachments: Vec<Attachment>,
    /// Files that are no records, with the reason.
    pub(super) broken: Vec<PodError>,
}

impl Store {
    /// Opens the store, making its directories.
    pub(super) fn open(state: &Path) -> Result<Self, PodError> {
        let attachments = state.join("attachments");
        fs::create_dir_all(&attachments)
            .map_err(|e| fault("make the directory", &attachments, e))?;
        Ok(Self {
            state: state.to_owned(),
            attachments,
        })
    }

    /// Every record. Files that a crash left half-written are removed: nothing was made for them yet.
    pub(super) fn load(&self) -> Result<Loaded, PodError> {
        let mut loaded = Loaded::default();
        let directory = &self.attachments;
        let entries = fs::read_dir(directory).map_err(|e| fault("list", directory, e))?;
        for entry in entries {
            let path = entry.map_err(|e| fault("list", directory, e))?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("json") => match read(&path) {
                    Ok(attachment) => loaded.attachments.push(attachment),
                    Err(error) => loaded.broken.push(error),
                },
                Some("tmp") => remove(&path)?,
                _ => {}
            }
        }
        loaded
            .attachments
            .sort_by(|a, b| Key::of(a).cmp(&Key::of(b)));
        Ok(loaded)
    }

    /// Writes or replaces a record: the old or the new one is there at any time, never a part.
    pub(super) fn save(&self, attachment: &Attachment) -> Result<(), PodError> {
        write_atomically(&self.path_of(&Key::of(attachment)), attachment, true)
    }

    /// Removes a record; that there is none is no error.
    pub(super) fn remove(&self, key: &Key) -> Result<(), PodError> {
        remove(&self.path_of(key))
    }

    /// What IPAM remembers, or none when there is nothing readable.
    pub(super) fn memory<T: DeserializeOwned>(&self) -> Option<T> {
        let text = fs::read(self.memory_path()).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes what IPAM has to remember. It is not synced: after a power failure no pod is left
    /// that late packets could be meant for.
    pub(super) fn save_memory<T: Serialize>(&self, memory: &T) -> Result<(), PodError> {
        write_atomically(&self.memory_path(), memory, false)
    }

    fn memory_path(&self) -> PathBuf {
        self.state.join("ipam.json")
    }

    /// The `@` keeps `a-b` + `c` apart from `a` + `b-c`: no container's name has one.
    fn path_of(&self, key: &Key) -> PathBuf {
        let Key {
            container_id,
            ifname,
        } = key;
        self.attachments
            .join(format!("{container_id}@{ifname}.json"))
    }
}

fn read(path: &Path) -> Result<Attachment, PodError> {
    let text = fs::read(path).map_err(|e| fault("read", path, e))?;
    serde_json::from_slice(&text).map_err(|source| PodError::Record {
        path: path.to_owned(),
        source,
    })
}

fn remove(path: &Path) -> Result<(), PodError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(fault("remove", path, e)),
        _ => Ok(()),
    }
}

fn write_atomically<T: Serialize>(path: &Path, value: &T, sync: bool) -> Result<(), PodError> {
    let temporary = path.with_extension("tmp");
    let written = (|| -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        let mut file = File::create(&temporary)?;
        file.write_all(&text)?;
        if sync {
            file.sync_data()?;
        }
        fs::rename(&temporary, path)
    })();
    written.map_err(|e| {
        // Best effort: what stays is removed by the next `load`.
        let _ = fs::remove_file(&temporary);
        fault("write", path, e)
    })
}

fn fault(action: &'static str, path: &Path, source: io::Error) -> PodError {
    PodError::State {
        action,
        path: path.to_owned(),
        source,
    }
}
