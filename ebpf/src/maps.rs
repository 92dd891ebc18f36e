//! The maps, with BTF types so that `bpftool map dump` prints field names.
//!
//! Capacities here are defaults; the agent overrides them when it creates the maps.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use oxlan_common::addr::Addr;
use oxlan_common::counters::SLOTS;
use oxlan_common::limit::ANSWER_BUCKETS;
use oxlan_common::maps::{
    AuditRecord, BULK_BUCKETS, Config, Counter, FlowKey, FlowValue, HopsValue, MAX_FLOWS,
    MAX_HOP_SETS, MAX_POD_ADDRESSES, MAX_ROUTES, MAX_VTEPS, PodValue, RouteKey, RouteValue,
    VtepValue, hop_sets_capacity,
};

/// Memory for an entry is taken when the entry is made, not for the whole capacity at load.
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// Size of the audit ring: it only has to say "look", so one page is plenty.
const AUDIT_BYTES: usize = 4096;

#[btf_map]
pub(crate) static PODS: HashMap<Addr, PodValue, { MAX_POD_ADDRESSES as usize }, NO_PREALLOC> =
    HashMap::new();

#[btf_map]
pub(crate) static ROUTES: HashMap<RouteKey, RouteValue, { MAX_ROUTES as usize }, NO_PREALLOC> =
    HashMap::new();

#[btf_map]
pub(crate) static VTEPS: HashMap<Addr, VtepValue, { MAX_VTEPS as usize }, NO_PREALLOC> =
    HashMap::new();

/// Equal next hops of routes that have several.
#[btf_map]
pub(crate) static HOPS: HashMap<u32, HopsValue, { hop_sets_capacity(MAX_HOP_SETS) as usize }> =
    HashMap::new();

/// Flows between pods that the host translates; the least recently used goes first.
#[btf_map]
pub(crate) static FLOWS: LruHashMap<FlowKey, FlowValue, { MAX_FLOWS as usize }> = LruHashMap::new();

#[btf_map]
pub(crate) static CONFIG: Array<Config, 1> = Array::new();

#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<Counter, { SLOTS as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static BULK: PerCpuArray<u64, { BULK_BUCKETS as usize }> = PerCpuArray::new();

/// When the bucket of answers to some pods will be full again ([`oxlan_common::limit`]).
#[btf_map]
pub(crate) static ANSWERS: PerCpuArray<u64, { ANSWER_BUCKETS as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static AUDIT: RingBuf<AuditRecord, AUDIT_BYTES> = RingBuf::new();

/// Process id of the agent that loaded the programs; what it does itself is not audited.
#[unsafe(no_mangle)]
pub(crate) static AGENT_PID: Global<u32> = Global::new(0);

/// Whether the kernel redirects frames that lie in several buffers to a device; 0 means that it drops them.
#[unsafe(no_mangle)]
pub(crate) static REDIRECTS_FRAGS: Global<u32> = Global::new(0);
