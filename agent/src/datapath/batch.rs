//! All entries of a hash map with a few system calls (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6, commit
//! cb4d03ab499d, "bpf: Add generic support for lookup batch op"), which aya does not have.
//!
//! One by one, a cluster of 5,000 nodes would take 20,000 of them each time that the maps are compared.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::Pod;
use aya::maps::MapData;

/// Number of the command (`enum bpf_cmd`, include/uapi/linux/bpf.h).
const LOOKUP_BATCH: nix::libc::c_int = 24;

/// Entries that are asked for at once, more than any bucket of a hash map has.
const AT_ONCE: u32 = 4096;

/// `struct batch` in `union bpf_attr` (include/uapi/linux/bpf.h).
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// All entries of a map that has keys and values of these sizes, in no particular order.
pub(super) fn entries<K: Pod, V: Pod>(map: &MapData) -> io::Result<Vec<(K, V)>> {
    let mut reader = Reader::new(map);
    let mut all = Vec::new();
    while reader.read()? {
        all.extend(
            reader
                .keys
                .iter()
                .copied()
                .zip(reader.values.iter().copied()),
        );
    }
    all.extend(
        reader
            .keys
            .iter()
            .copied()
            .zip(reader.values.iter().copied()),
    );
    Ok(all)
}

struct Reader<'a, K, V> {
    map: &'a MapData,
    keys: Vec<K>,
    values: Vec<V>,
    /// Where the kernel goes on; none at the beginning.
    position: Option<u32>,
}

impl<'a, K: Pod, V: Pod> Reader<'a, K, V> {
    fn new(map: &'a MapData) -> Self {
        Self {
            map,
            keys: Vec::with_capacity(AT_ONCE as usize),
            values: Vec::with_capacity(AT_ONCE as usize),
            position: None,
        }
    }

    /// Reads the next entries; whether there may be more.
    fn read(&mut self) -> io::Result<bool> {
        self.keys.clear();
        self.values.clear();
        let mut next = 0_u32;
        let position = self.position.as_ref();
        let mut attributes = Attributes {
            in_batch: position.map_or(0, |at| std::ptr::from_ref(at).addr() as u64),
            out_batch: std::ptr::from_mut(&mut next).addr() as u64,
            keys: self.keys.as_mut_ptr().addr() as u64,
            values: self.values.as_mut_ptr().addr() as u64,
            count: AT_ONCE,
            map_fd: self.map.fd().as_fd().as_raw_fd().unsigned_abs(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads `in_batch` and writes `out_batch`, which are numbers that live during
        // the call, and writes at most `count` keys and values, for which both vectors have room. The
        // map's keys and values have the sizes of `K` and `V`: the table's constructor has compared them.
        let result = unsafe {
            nix::libc::syscall(
                nix::libc::SYS_bpf,
                LOOKUP_BATCH,
                &raw mut attributes,
                size_of::<Attributes>(),
            )
        };
        let error = (result < 0).then(io::Error::last_os_error);
        // That there are no more comes with the last ones.
        let is_end = error.as_ref().and_then(io::Error::raw_os_error) == Some(nix::libc::ENOENT);
        if let Some(error) = error.filter(|_| !is_end) {
            return Err(error);
        }
        let count = (attributes.count as usize).min(AT_ONCE as usize);
        // SAFETY: the kernel has written `count` of both, not more than the vectors' capacity, and any
        // bytes are a value of a `Pod`.
        unsafe {
            self.keys.set_len(count);
            self.values.set_len(count);
        }
        self.position = Some(next);
        Ok(!is_end)
    }
}
