//! One operation at a time for each attachment; operations on different ones run side by side.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, PoisonError};

use super::Key;

/// The attachments that an operation is working on.
#[derive(Debug, Default)]
pub(super) struct Busy {
    keys: Mutex<HashSet<Key>>,
    freed: Condvar,
}

/// Held while an operation works on one attachment.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    busy: &'a Busy,
    key: Key,
}

impl Busy {
    /// Waits until nobody else works on this attachment.
    pub(super) fn turn(&self, key: &Key) -> Turn<'_> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        while !keys.insert(key.clone()) {
            keys = self
                .freed
                .wait(keys)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Turn {
            busy: self,
            key: key.clone(),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut keys = self
            .busy
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        keys.remove(&self.key);
        self.busy.freed.notify_all();
    }
}
