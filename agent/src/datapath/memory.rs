//! What the maps of the built object cost the kernel, by the kernel's own formulas.

use aya_obj::Object;
use aya_obj::generated::bpf_map_type::{self, *};

use super::OBJECT;

/// Limit for the default configuration.
const LIMIT: usize = 16 << 20;

/// A large machine: more processors only make what is per CPU larger.
const CPUS: usize = 128;

/// `BPF_F_NO_PREALLOC` (include/uapi/linux/bpf.h).
const NO_PREALLOC: u32 = 1;

const PAGE: usize = 4096;

/// More than `struct bpf_htab`, `struct bpf_array` and the like take.
const MAP: usize = 1024;

/// A map as the object defines it.
struct Definition {
    name: String,
    kind: u32,
    key: usize,
    value: usize,
    entries: usize,
    flags: u32,
}

fn definitions() -> Vec<Definition> {
    let object = Object::parse(OBJECT).unwrap();
    let size = |bytes: u32| usize::try_from(bytes).unwrap();
    let mut all: Vec<Definition> = object
        .maps
        .iter()
        .map(|(name, map)| Definition {
            name: name.clone(),
            kind: map.map_type(),
            key: size(map.key_size()),
            value: size(map.value_size()),
            entries: size(map.max_entries()),
            flags: map.map_flags(),
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Memory of a map with no entries, and with as many as it can have.
fn cost(map: &Definition) -> [usize; 2] {
    let aligned = |bytes: usize| bytes.next_multiple_of(8);
    let is = |kind: bpf_map_type| map.kind == kind as u32;
    if is(BPF_MAP_TYPE_HASH) || is(BPF_MAP_TYPE_LRU_HASH) {
        return hash(map);
    }
    let bytes = if is(BPF_MAP_TYPE_ARRAY) {
        // kernel/bpf/arraymap.c, `array_map_mem_usage`.
        map.entries * aligned(map.value)
    } else if is(BPF_MAP_TYPE_PERCPU_ARRAY) {
        let pointers = map.entries * 8;
        pointers + map.entries * aligned(map.value) * CPUS
    } else if is(BPF_MAP_TYPE_RINGBUF) {
        // kernel/bpf/ringbuf.c, `ringbuf_map_mem_usage`: three pages besides the data, all mapped twice.
        3 * PAGE + map.entries + 16 * map.entries.div_ceil(PAGE)
    } else {
        panic!(
            "how much memory does {} take, a map of kind {}?",
            map.name, map.kind
        )
    };
    [MAP + bytes; 2]
}

/// kernel/bpf/hashtab.c, `htab_map_alloc` and `htab_map_mem_usage`; the sizes are those of 64-bit kernels without
/// debugging options.
fn hash(map: &Definition) -> [usize; 2] {
    /// `struct bucket`: the list's head and a lock.
    const BUCKET: usize = 16;
    /// `struct htab_elem`, before key and value.
    const ELEMENT: usize = 48;
    /// `HASHTAB_MAP_LOCK_COUNT` counters for each CPU.
    const LOCKS: usize = 8 * 4;
    let element = ELEMENT + map.key.next_multiple_of(8) + map.value.next_multiple_of(8);
    let fixed = MAP + map.entries.next_power_of_two() * BUCKET + LOCKS * CPUS;
    if map.kind == BPF_MAP_TYPE_LRU_HASH as u32 || map.flags & NO_PREALLOC == 0 {
        // One list of free elements for each CPU, and spare elements for replacements.
        return [fixed + (map.entries + CPUS) * element + 256 * CPUS; 2];
    }
    // kernel/bpf/memalloc.c: each element with a link, and at most 96 unused ones for each CPU, 4 of them at once.
    let element = slab(element + 8);
    [
        fixed + 4 * CPUS * element,
        fixed + (map.entries + 96 * CPUS) * element,
    ]
}

/// What the kernel's allocator makes of a size (mm/slab_common.c, `kmalloc_info`).
fn slab(bytes: usize) -> usize {
    [8, 16, 32, 64, 96, 128, 192]
        .into_iter()
        .find(|size| bytes <= *size)
        .unwrap_or_else(|| bytes.next_power_of_two())
}

#[test]
fn the_default_configuration_takes_little_memory() {
    let (mut empty, mut full) = (0, 0);
    println!(
        "{:<12} {:>12} {:>12}   bytes on {CPUS} CPUs",
        "MAP", "EMPTY", "FULL"
    );
    for map in definitions() {
        let [least, most] = cost(&map);
        println!("{:<12} {least:>12} {most:>12}", map.name);
        empty += least;
        full += most;
    }
    println!("{:<12} {empty:>12} {full:>12}", "all");
    assert!(
        empty <= full && full <= LIMIT,
        "{full} bytes with full maps"
    );
}
