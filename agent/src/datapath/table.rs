//! A typed hash map of the datapath.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::Pod;
use aya::maps::{HashMap, IterableMap, MapData, MapError};

use super::{DatapathError, batch};

/// The map behind a [`Table`].
pub(super) struct TableData<K, V> {
    pub(super) name: &'static str,
    pub(super) capacity: u32,
    /// The option of `oxlan agent` that sets the capacity.
    pub(super) option: &'static str,
    pub(super) map: Mutex<HashMap<MapData, K, V>>,
}

/// A view of one of the maps `PODS`, `ROUTES` and `VTEPS`.
pub struct Table<'a, K, V> {
    data: &'a TableData<K, V>,
}

impl<K: Pod, V: Pod> TableData<K, V> {
    pub(super) fn table(&self) -> Table<'_, K, V> {
        Table { data: self }
    }
}

impl<K: Pod, V: Pod> Table<'_, K, V> {
    /// The value of `key`.
    ///
    /// # Errors
    ///
    /// The kernel refuses to read the map.
    pub fn get(&self, key: &K) -> Result<Option<V>, DatapathError> {
        match self.map().get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }

    /// All entries, in no particular order.
    ///
    /// # Errors
    ///
    /// The kernel refuses to read the map.
    pub fn entries(&self) -> Result<Vec<(K, V)>, DatapathError> {
        let map = self.map();
        batch::entries(IterableMap::map(&*map)).map_err(|source| DatapathError::Entries {
            map: self.data.name,
            source,
        })
    }

    /// Makes or replaces the entry of `key`.
    ///
    /// # Errors
    ///
    /// [`DatapathError::Full`] when there is no room, or the kernel refuses to write the map.
    pub fn set(&self, key: &K, value: &V) -> Result<(), DatapathError> {
        self.map().insert(*key, *value, 0).map_err(|error| {
            if is_full(&error) {
                DatapathError::Full {
                    map: self.data.name,
                    capacity: self.data.capacity,
                    option: self.data.option,
                }
            } else {
                self.error(error)
            }
        })
    }

    /// Removes the entry of `key`, if there is one.
    ///
    /// # Errors
    ///
    /// The kernel refuses to write the map.
    pub fn remove(&self, key: &K) -> Result<(), DatapathError> {
        match self.map().remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) if errno(&error) == Some(nix::errno::Errno::ENOENT) => Ok(()),
            Err(error) => Err(self.error(error)),
        }
    }

    fn map(&self) -> MutexGuard<'_, HashMap<MapData, K, V>> {
        // Each use of the map is one system call, so a panic of a holder leaves nothing half done.
        self.data.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, error: MapError) -> DatapathError {
        DatapathError::map(self.data.name)(error)
    }
}

/// A full hash map says `E2BIG` (kernel/bpf/hashtab.c, `alloc_htab_elem`).
fn is_full(error: &MapError) -> bool {
    errno(error) == Some(nix::errno::Errno::E2BIG)
}

fn errno(error: &MapError) -> Option<nix::errno::Errno> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "aya's enum; only failed system calls have an errno"
    )]
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
    .map(nix::errno::Errno::from_raw)
}
