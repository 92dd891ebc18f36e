//! Where things are pinned below the BPF directory, and how pins are moved and removed.
//!
//! `maps/` and `progs/` hold what is in force, `links/` one entry per attachment, named
//! `<program>-<device>-<index>`. `maps-new/` holds the maps of an agent that is still starting.
//! A bpffs allows no dots in names, so a dot in a device's name becomes a colon, which no device's name contains.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::pin::PinError;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::load::PINNED_MAPS;
use super::{DatapathError, Program};

/// The layout of the BPF directory.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    dir: PathBuf,
}

impl Pins {
    /// The layout below `dir`, with all directories made.
    pub(super) fn create(dir: &Path) -> Result<Self, DatapathError> {
        let pins = Self::at(dir);
        pins.create_dirs()?;
        Ok(pins)
    }

    /// The layout below `dir`, as it may be.
    pub(super) fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_path_buf(),
        }
    }

    /// Makes the directories that are not there.
    pub(super) fn create_dirs(&self) -> Result<(), DatapathError> {
        [self.maps(), self.progs(), self.links()]
            .iter()
            .try_for_each(|dir| create_dir(dir))
    }

    /// Refuses when no pin can be made, such as when the bpffs was unmounted. To be asked before a link
    /// is pinned, because aya closes a link that it cannot pin, and that would detach the program.
    pub(super) fn require_bpffs(&self) -> Result<(), DatapathError> {
        let path = self.links();
        let file_system = statfs(&path).map(|fs| fs.filesystem_type());
        if file_system == Ok(BPF_FS_MAGIC) {
            Ok(())
        } else {
            Err(DatapathError::NoBpffs { path })
        }
    }

    /// The pins of loaded programs that are not there.
    pub(super) fn missing_programs(&self, ebpf: &Ebpf) -> Vec<PathBuf> {
        let loaded = Program::ALL.into_iter();
        let loaded = loaded.filter(|program| super::load::is_loaded(ebpf, *program));
        let paths = loaded.map(|program| self.program(program));
        paths.filter(|path| !path.exists()).collect()
    }

    pub(super) fn links(&self) -> PathBuf {
        self.dir.join("links")
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name.to_ascii_lowercase())
    }

    pub(super) fn link(&self, program: Program, ifname: &str, ifindex: u32) -> PathBuf {
        let ifname = ifname.replace('.', ":");
        self.links()
            .join(format!("{}-{ifname}-{ifindex}", program.name()))
    }

    /// Where new maps wait for [`Pins::unstage_maps`]; whatever a failed start left there is removed.
    pub(super) fn stage_maps(&self) -> Result<PathBuf, DatapathError> {
        let staged = self.staged_maps();
        self.remove_staged()?;
        create_dir(&staged)?;
        Ok(staged)
    }

    /// Removes what a failed start has left.
    pub(super) fn remove_staged(&self) -> Result<(), DatapathError> {
        remove_dir(&self.staged_maps())
    }

    /// Moves each new map over its predecessor.
    pub(super) fn unstage_maps(&self) -> Result<(), DatapathError> {
        for spec in PINNED_MAPS {
            let to = self.map(spec.name);
            let from = self.staged_maps().join(spec.name.to_ascii_lowercase());
            fs::rename(&from, &to).map_err(pin_file("move", &from))?;
        }
        self.remove_staged()
    }

    /// Pins the loaded programs in place of their predecessors, and removes the pins of those that are not loaded.
    pub(super) fn pin_programs(&self, ebpf: &mut Ebpf) -> Result<(), DatapathError> {
        for program in Program::ALL {
            if super::load::is_loaded(ebpf, program) {
                self.pin_program(ebpf, program)?;
            } else {
                remove_file(&self.program(program))?;
                remove_file(&self.program_aside(program))?;
            }
        }
        Ok(())
    }

    /// Pins a loaded program in place of its predecessor.
    pub(super) fn pin_program(
        &self,
        ebpf: &mut Ebpf,
        program: Program,
    ) -> Result<(), DatapathError> {
        let aside = self.program_aside(program);
        remove_file(&aside)?;
        super::load::pin_program(ebpf, program, &aside)?.map_err(pin(&aside))?;
        fs::rename(&aside, self.program(program)).map_err(pin_file("move", &aside))
    }

    /// Pins again with `pin_at` if `path` is gone.
    pub(super) fn repair(
        &self,
        path: &Path,
        repaired: &mut Vec<String>,
        pin_at: impl FnOnce(&Path) -> Result<(), PinError>,
    ) -> Result<(), DatapathError> {
        if path.exists() {
            return Ok(());
        }
        if let Some(dir) = path.parent() {
            create_dir(dir)?;
        }
        pin_at(path).map_err(pin(path))?;
        repaired.push(path.display().to_string());
        Ok(())
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.dir.join("maps")
    }

    fn staged_maps(&self) -> PathBuf {
        self.dir.join("maps-new")
    }

    fn progs(&self) -> PathBuf {
        self.dir.join("progs")
    }

    fn program(&self, program: Program) -> PathBuf {
        self.progs().join(program.name())
    }

    /// Where a program waits to take its predecessor's place.
    fn program_aside(&self, program: Program) -> PathBuf {
        self.progs().join(format!("{}-new", program.name()))
    }
}

/// The program, device name and index that a pin in `links/` is named after.
pub(super) fn parse_link_name(name: &str) -> Option<(Program, String, u32)> {
    let (program, rest) = name.split_once('-')?;
    let (ifname, ifindex) = rest.rsplit_once('-')?;
    Some((
        Program::by_name(program)?,
        ifname.replace(':', "."),
        ifindex.parse().ok()?,
    ))
}

/// Removes every pin of ours in `bpf_dir`, which detaches the programs, and the directories that are
/// empty then, and says what was removed. What others have pinned there stays.
///
/// # Errors
///
/// The first pin that cannot be removed; the others are removed all the same.
pub fn remove_all(bpf_dir: &Path) -> Result<Vec<String>, DatapathError> {
    let pins = Pins::at(bpf_dir);
    super::clsact::detach_all(&pins.links())?;
    let mut removed = Vec::new();
    let mut result = Ok(());
    for dir in [pins.links(), pins.progs(), pins.maps(), pins.staged_maps()] {
        for path in list(&dir)?.into_iter().filter(|path| is_ours(path)) {
            let outcome = remove_file(&path);
            result = result.and(outcome.map(|()| removed.push(path.display().to_string())));
        }
        result = result.and(remove_if_empty(&dir));
    }
    result
        .and_then(|()| remove_if_empty(bpf_dir))
        .map(|()| removed)
}

/// Whether a pin has a name that only we give.
fn is_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| {
        Program::by_name(name.strip_suffix("-new").unwrap_or(name)).is_some()
            || parse_link_name(name).is_some()
            || PINNED_MAPS
                .iter()
                .any(|spec| spec.name.to_ascii_lowercase() == name)
    })
}

/// Removes a directory, unless others have something in it or have mounted something on it.
fn remove_if_empty(dir: &Path) -> Result<(), DatapathError> {
    match fs::remove_dir(dir) {
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy
            ) =>
        {
            Err(pin_file("remove", dir)(error))
        }
        _ => Ok(()),
    }
}

/// The entries of a directory; none when it does not exist.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(pin_file("list", dir))?,
    };
    entries
        .map(|entry| Ok(entry.map_err(pin_file("list", dir))?.path()))
        .collect()
}

fn remove_dir(dir: &Path) -> Result<(), DatapathError> {
    for path in list(dir)? {
        remove_file(&path)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(pin_file("remove", dir)(error)),
        _ => Ok(()),
    }
}

/// Removes a pin, if it is there.
pub(super) fn remove_file(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(pin_file("remove", path)(error)),
        _ => Ok(()),
    }
}

fn create_dir(dir: &Path) -> Result<(), DatapathError> {
    fs::create_dir_all(dir).map_err(|source| DatapathError::BpfDir {
        path: dir.to_path_buf(),
        source,
    })
}

/// For `map_err` on pinning.
pub(super) fn pin(path: &Path) -> impl Fn(PinError) -> DatapathError {
    let path = path.to_path_buf();
    move |source| DatapathError::Pin {
        path: path.clone(),
        source,
    }
}

fn pin_file(action: &'static str, path: &Path) -> impl Fn(io::Error) -> DatapathError {
    let path = path.to_path_buf();
    move |source| DatapathError::PinFile {
        action,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_others_stay() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for dir in ["links", "maps", "progs", "others"] {
            fs::create_dir(at(dir)).unwrap();
        }
        let (ours, others) = (
            [
                "links/from_pod-oxl1-7",
                "maps/pods",
                "progs/from_uplink-new",
            ],
            ["links/their_link", "maps/cilium_lxc", "others/x", "y"],
        );
        for name in ours.iter().chain(&others) {
            fs::write(at(name), "").unwrap();
        }
        let mut removed = remove_all(root.path()).unwrap();
        removed.sort();
        assert_eq!(
            removed,
            ours.map(|name| at(name).display().to_string()).as_slice()
        );
        let stays: Vec<_> = others.iter().filter(|name| at(name).exists()).collect();
        assert_eq!(stays.len(), others.len(), "only {stays:?} are left");
        assert!(!at("progs").exists(), "what is empty goes");
    }

    #[test]
    fn link_names_are_reversible() {
        let pins = Pins {
            dir: PathBuf::from("/x"),
        };
        for ifname in ["eth0", "eth0.5", "a-b-3"] {
            let path = pins.link(Program::FromUplink, ifname, 7);
            let name = path.file_name().and_then(|name| name.to_str()).unwrap();
            assert!(!name.contains('.'));
            assert_eq!(
                parse_link_name(name),
                Some((Program::FromUplink, ifname.to_owned(), 7))
            );
        }
        assert_eq!(parse_link_name("from_pod-eth0"), None);
        assert_eq!(parse_link_name("unknown-eth0-1"), None);
    }
}
