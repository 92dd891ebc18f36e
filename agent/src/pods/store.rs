//! Attachments on disk: one readable JSON file each, written atomically.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Attachment, Key, PodError};
use crate::host::files::{self, Durability};

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
    /// Files that are no records of this version.
    pub(super) unreadable: Vec<Unreadable>,
}

/// A record that this version does not understand, such as a later version's.
#[derive(Debug)]
pub(super) struct Unreadable {
    /// From the file's name.
    pub(super) key: Key,
    /// Whatever can be understood of the addresses it takes.
    pub(super) addresses: Vec<IpAddr>,
    /// What is wrong with it.
    pub(super) error: PodError,
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

    /// Every record. What a crash (`.tmp`) or a power failure (a file without contents: empty, or zeros) has cut short is
    /// removed: nothing had been made for the one, and nothing made is left after the other.
    pub(super) fn load(&self) -> Result<Loaded, PodError> {
        let mut loaded = Loaded::default();
        let directory = &self.attachments;
        let entries = fs::read_dir(directory).map_err(|e| fault("list", directory, e))?;
        for entry in entries {
            let path = entry.map_err(|e| fault("list", directory, e))?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("json") => match read(&path) {
                    Ok(Some(attachment)) => loaded.attachments.push(attachment),
                    Ok(None) => remove(&path)?,
                    Err(error) => loaded.unreadable.push(unreadable(&path, error)),
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
    ///
    /// It is not synced, which would be the slowest step of an ADD: no namespace survives a power failure,
    /// so what a record is about is gone then, and the runtime adds each pod anew. [`Self::load`] takes away
    /// what is left of the record.
    pub(super) fn save(&self, attachment: &Attachment) -> Result<(), PodError> {
        write_atomically(&self.path_of(&Key::of(attachment)), attachment)
    }

    /// Removes a record; that there is none is no error.
    pub(super) fn remove(&self, key: &Key) -> Result<(), PodError> {
        remove(&self.path_of(key))
    }

    /// Whether there is a record, be it one that cannot be read.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.path_of(key).exists()
    }

    /// What IPAM remembers, or none when there is nothing readable.
    pub(super) fn memory<T: DeserializeOwned>(&self) -> Option<T> {
        let text = fs::read(self.memory_path()).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes what IPAM has to remember. It is not synced: after a power failure no pod is left
    /// that late packets could be meant for.
    pub(super) fn save_memory<T: Serialize>(&self, memory: &T) -> Result<(), PodError> {
        write_atomically(&self.memory_path(), memory)
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

fn read(path: &Path) -> Result<Option<Attachment>, PodError> {
    let text = fs::read(path).map_err(|e| fault("read", path, e))?;
    if text.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let record = serde_json::from_slice(&text);
    record.map(Some).map_err(|source| PodError::Record {
        path: path.to_owned(),
        source,
    })
}

fn unreadable(path: &Path, error: PodError) -> Unreadable {
    let text = fs::read(path).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let addresses = value["addresses"].as_array().into_iter().flatten();
    let addresses = addresses.filter_map(|a| a.as_str()?.parse().ok());
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let (container_id, ifname) = stem.and_then(|s| s.split_once('@')).unwrap_or_default();
    Unreadable {
        key: Key {
            container_id: container_id.into(),
            ifname: ifname.into(),
        },
        addresses: addresses.collect(),
        error,
    }
}

fn remove(path: &Path) -> Result<(), PodError> {
    files::remove(path).map_err(|e| fault("remove", path, e))
}

fn write_atomically<T: Serialize>(path: &Path, value: &T) -> Result<(), PodError> {
    let text = serde_json::to_vec_pretty(value).map_err(io::Error::from);
    let written = text.and_then(|mut text| {
        text.push(b'\n');
        files::replace(path, &text, 0o644, Durability::Process)
    });
    written.map_err(|e| fault("write", path, e))
}

fn fault(action: &'static str, path: &Path, source: io::Error) -> PodError {
    PodError::State {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::{Phase, PodLabels};
    use oxlan_common::addr::Mac;

    fn attachment(container_id: &str, ifname: &str) -> Attachment {
        Attachment {
            container_id: container_id.into(),
            ifname: ifname.into(),
            network: "oxlan".into(),
            netns: "/run/netns/x".into(),
            phase: Phase::Ready,
            addresses: vec!["10.244.1.2".parse().unwrap()],
            mac: Mac::new([0x0a, 0x58, 10, 244, 1, 2]),
            host_ifname: "oxl00000000001".into(),
            host_ifindex: 7,
            host_mac: Mac::new([0x0e, 0, 0, 0, 0, 1]),
            netns_id: Some(3),
            mtu: 1450,
            ports: Vec::new(),
            bandwidth: crate::pods::Bandwidth::default(),
            mtu_limit: None,
            created: 1,
            pod: PodLabels::default(),
            polls: false,
            unfit: false,
        }
    }

    #[test]
    fn records_are_readable_and_come_back() {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path()).unwrap();
        let records = [attachment("a", "b-c"), attachment("a-b", "c")];
        for record in &records {
            store.save(record).unwrap();
        }
        let loaded = Store::open(state.path()).unwrap().load().unwrap();
        assert_eq!(
            loaded.attachments, records,
            "names that look alike are kept apart"
        );
        let text = fs::read_to_string(state.path().join("attachments/a@b-c.json")).unwrap();
        for line in [
            "\"phase\": \"ready\"",
            "\"mac\": \"0a:58:0a:f4:01:02\"",
            "\"10.244.1.2\"",
        ] {
            assert!(text.contains(line), "{text}");
        }
        for record in &records {
            store.remove(&Key::of(record)).unwrap();
            store.remove(&Key::of(record)).unwrap();
        }
        assert_eq!(store.load().unwrap().attachments, []);
    }

    #[test]
    fn what_is_cut_short_goes_and_what_is_strange_stays() {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path()).unwrap();
        let directory = state.path().join("attachments");
        for (name, text) in [
            ("a@eth0.json", ""),
            ("b@eth0.tmp", "{"),
            ("d@eth0.json", "\0\0"),
            (
                "c@eth0.json",
                r#"{"phase": "moving", "addresses": ["10.244.1.2", 7]}"#,
            ),
        ] {
            fs::write(directory.join(name), text).unwrap();
        }
        let loaded = store.load().unwrap();
        let [strange] = &loaded.unreadable[..] else {
            panic!("{loaded:?}");
        };
        assert!(
            matches!(&strange.error, PodError::Record { path, .. } if path.ends_with("c@eth0.json"))
        );
        assert_eq!(strange.key.container_id, "c");
        assert_eq!(strange.key.ifname, "eth0");
        assert_eq!(strange.addresses, ["10.244.1.2".parse::<IpAddr>().unwrap()]);
        let left: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["c@eth0.json"]);
    }

    #[test]
    fn an_unwritable_directory_is_named() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Store::open(&file).unwrap_err();
        assert!(
            error.to_string().contains(file.to_str().unwrap()),
            "{error}"
        );
    }
}
