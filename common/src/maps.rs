//! Keys and values of the BPF maps.
//!
//! Every struct is `repr(C)` without implicit padding (bytemuck's `Pod` refuses it) and has its
//! size asserted, because programs and agents of different versions share pinned maps.

use bytemuck::{Pod, Zeroable};

use crate::addr::{Addr, Mac};

/// Version of the meaning of all structs in this file.
///
/// Increase it with every change that an older program or agent would misread. An agent that
/// finds pinned maps of another version fills new ones and switches the programs over.
pub const MAP_ABI: u32 = 3;

/// Default capacity of `PODS`: pods of one node, one entry per address.
pub const MAX_POD_ADDRESSES: u32 = 4096;
/// Default capacity of `ROUTES`: prefixes of the whole cluster.
pub const MAX_ROUTES: u32 = 16384;
/// Default capacity of `VTEPS`: nodes of the whole cluster.
pub const MAX_VTEPS: u32 = 8192;
/// Distinct prefix lengths per family that `ROUTES` can hold; each costs one probe per packet.
pub const MAX_PREFIX_LENGTHS: usize = 8;

/// Default capacity of `FLOWS`: flows between pods that this node's host translates at the same time.
///
/// The map takes its memory when it is made, so this is not more than busy nodes need; the least
/// recently used flow makes room for a new one.
pub const MAX_FLOWS: u32 = 16384;

/// Default for the different sets of equal next hops that there can be; nodes behind the same routers share one.
pub const MAX_HOP_SETS: u32 = 128;
/// Capacity of `HOPS` for so many sets, which takes its memory when it is made: all sets may change at once, and
/// no set goes before routes refer to another one.
#[must_use]
pub const fn hop_sets_capacity(sets: u32) -> u32 {
    sets.saturating_mul(2)
}
/// Next hops of one set.
pub const MAX_HOPS: usize = 8;
/// Buckets of flows that share a set's next hops, a power of two: a next hop's part is exact to one of them.
pub const HOP_BUCKETS: usize = 64;

/// Uplinks that can have XDP; each costs a comparison per frame.
pub const MAX_XDP_UPLINKS: usize = 4;

/// Buckets of `BULK`, a power of two: collisions only send a few packets the slower way.
pub const BULK_BUCKETS: u32 = 1024;

/// Bytes that the program `probe_room` takes out of a frame: the headers of VXLAN over IPv4.
pub const PROBE_ROOM: i32 = 50;

/// Value of `PODS`, keyed by the pod's [`Addr`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct PodValue {
    /// Interface index of the host side of the pod's veth; of the overlay device for `HOST` entries.
    pub ifindex: u32,
    /// Bits of [`pod_flags`].
    pub flags: u32,
    /// MAC of the pod's own interface.
    pub mac: Mac,
    /// MAC of the host side of the veth: source of what is delivered to the pod.
    pub host_mac: Mac,
    /// The node's number for the pod's network namespace (RTM_GETNSID); [`UNKNOWN_NETNS`] if there is none.
    pub netns: i32,
}

/// [`PodValue::netns`] of an entry whose namespace has no known number.
pub const UNKNOWN_NETNS: i32 = -1;

/// Bits of [`PodValue::flags`].
pub mod pod_flags {
    /// The node's own overlay address: packets to it belong to the host's stack.
    pub const HOST: u32 = 1;
    /// Written by the programs: the host's stack has sent something from another pod to this pod, or from
    /// this pod to another, so `FLOWS` may have flows that concern it. Without it nobody looks there.
    pub const TRANSLATED: u32 = 2;
    /// The pod's interface polls (NAPI) and takes frames of up to [`Config::mtu`](super::Config::mtu): XDP may redirect to it.
    pub const FRAMES: u32 = 4;
    /// What the pod receives is limited by a queueing discipline of the host side, so packets have to pass it.
    pub const LIMITED: u32 = 8;
}

impl PodValue {
    /// The value without what the programs write: what the agent wants and compares.
    #[must_use]
    pub const fn without_marks(mut self) -> Self {
        self.flags &= !pod_flags::TRANSLATED;
        self
    }

    /// This value with what the programs have written into `entry`.
    #[must_use]
    pub const fn with_marks_of(mut self, entry: &Self) -> Self {
        self.flags |= entry.flags & pod_flags::TRANSLATED;
        self
    }
}

/// Key of `FLOWS`: a flow between two pods that passes the host's stack, seen from the pod that answers.
///
/// The host has put `src` in the place of the address that the other pod talks to (a service, a published
/// port), so it has to see the answers, too, to put that address back.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FlowKey {
    /// The pod that answers.
    pub src: Addr,
    /// The pod that began.
    pub dst: Addr,
    /// Source port of the answers, big-endian; 0 for protocols without ports.
    pub src_port: [u8; 2],
    /// Destination port of the answers, big-endian; 0 for protocols without ports.
    pub dst_port: [u8; 2],
    /// IP protocol.
    pub protocol: u8,
    /// Explicit padding.
    pub pad: [u8; 3],
}

/// Value of `FLOWS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowValue {
    /// Interface index of the device by which the host's stack sent the flow's packets.
    pub ifindex: u32,
}

/// Key of `ROUTES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct RouteKey {
    /// Network address; bits after the prefix are zero.
    pub prefix: Addr,
    /// Prefix length in the 128-bit form: an IPv4 `/24` is 120.
    pub prefix_len: u32,
}

/// Value of `ROUTES`: the VTEP behind a pod CIDR.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct RouteValue {
    /// Underlay address of the node that owns the prefix.
    pub underlay: Addr,
    /// Where the packet, encapsulated or not, goes next: `underlay` itself, or a gateway.
    pub next_hop: Addr,
    /// Interface index of the device towards the next hop.
    pub ifindex: u32,
    /// VXLAN network identifier, 0 to 2^24 - 1 (RFC 7348, section 5).
    pub vni: u32,
    /// MAC of the VTEP: destination of the inner Ethernet header.
    pub mac: Mac,
    /// Bits of [`route_flags`].
    pub flags: u16,
    /// Largest IP packet that fits towards the prefix, bytes: without the tunnel's headers, if there is a tunnel.
    pub mtu: u16,
    /// Explicit padding.
    pub pad: [u8; 2],
    /// Key in `HOPS` of all next hops, of which `next_hop` is the first; 0 if there is no other.
    pub hops: u32,
}

/// A next hop.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Hop {
    /// The gateway; [`Addr::UNSPECIFIED`] is [`RouteValue::underlay`] itself, so that nodes on a link share a set.
    pub address: Addr,
    /// Interface index of the device towards it; 0 if the entry is not used.
    pub ifindex: u32,
}

/// Value of `HOPS`: the equal next hops of a route, and which flows take which (RFC 2992).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct HopsValue {
    /// The next hops.
    pub hops: [Hop; MAX_HOPS],
    /// For each bucket of flows, the index of its next hop.
    pub buckets: [u8; HOP_BUCKETS],
}

/// Bits of [`RouteValue::flags`].
pub mod route_flags {
    /// The node's own pod CIDR: nothing is encapsulated, unknown addresses are unreachable.
    pub const LOCAL: u16 = 1;
    /// The kernel has no route there now: the packet is left to the host's stack.
    pub const UNREACHABLE: u16 = 2;
    /// Packets go to the next hop as they are, and are taken as they are from there.
    pub const DIRECT: u16 = 4;
}

/// Value of `VTEPS`, keyed by the node's underlay [`Addr`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct VtepValue {
    /// MAC of the VTEP.
    pub mac: Mac,
    /// None are defined yet.
    pub flags: u16,
    /// The node's underlay address of the other family; the key again if it has only one.
    pub other: Addr,
}

/// The one value of `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Config {
    /// [`MAP_ABI`] of the agent that wrote this; 0 means not configured, and the programs pass everything.
    pub abi: u32,
    /// VNI of the cluster.
    pub vni: u32,
    /// VXLAN port, host byte order.
    pub port: u16,
    /// MTU of the pods, bytes.
    pub mtu: u16,
    /// Interface index of the uplink.
    pub uplink: u32,
    /// Interface index of the overlay device.
    pub overlay: u32,
    /// Own IPv4 underlay address; [`Addr::UNSPECIFIED`] if there is none.
    pub underlay_v4: Addr,
    /// Own IPv6 underlay address; [`Addr::UNSPECIFIED`] if there is none.
    pub underlay_v6: Addr,
    /// Own overlay addresses, from which pods get ICMP errors; [`Addr::UNSPECIFIED`] without pods of the family.
    pub overlay_v4: Addr,
    /// The same for IPv6.
    pub overlay_v6: Addr,
    /// Own VTEP MAC.
    pub vtep_mac: Mac,
    /// DSCP of outer packets, 0 to 63 (RFC 2474), or [`COPY_DSCP`].
    pub dscp: u8,
    /// Bits of [`config_flags`].
    pub flags: u8,
    /// Distinct prefix lengths of the IPv4 entries of `ROUTES` in 128-bit form, longest first, 0 ends the list.
    pub prefix_lens_v4: [u8; MAX_PREFIX_LENGTHS],
    /// The same for the IPv6 entries.
    pub prefix_lens_v6: [u8; MAX_PREFIX_LENGTHS],
    /// The uplinks with XDP; unused ones have index 0.
    pub xdp_uplinks: [XdpUplink; MAX_XDP_UPLINKS],
}

/// An uplink with XDP, which sees a frame before the kernel has compared its destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct XdpUplink {
    /// Interface index.
    pub ifindex: u32,
    /// Its MAC: frames to others are not for this node.
    pub mac: Mac,
    /// Explicit padding.
    pub pad: [u8; 2],
}

/// Bits of [`Config::flags`].
pub mod config_flags {
    /// Entries of `ROUTES` may be [`DIRECT`](super::route_flags::DIRECT), so pods' packets may come in as they are.
    pub const DIRECT: u8 = 1;
}

/// [`Config::dscp`] that means "the inner packet's".
pub const COPY_DSCP: u8 = 0xff;

impl Config {
    /// TOS or traffic class of an outer packet around an inner one: ECN is copied (RFC 6040, section
    /// 4.1), DSCP as configured (RFC 2983, sections 4 and 5).
    #[inline(always)]
    #[must_use]
    pub const fn outer_traffic_class(&self, inner: u8) -> u8 {
        if self.dscp == COPY_DSCP {
            inner
        } else {
            self.dscp << 2 | inner & 3
        }
    }

    /// Own underlay address of the family of `like`; [`Addr::UNSPECIFIED`] if there is none.
    #[inline(always)]
    #[must_use]
    pub const fn underlay_like(&self, like: &Addr) -> &Addr {
        if like.is_v4() {
            &self.underlay_v4
        } else {
            &self.underlay_v6
        }
    }
}

/// One slot of `COUNTERS`, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Counter {
    /// Packets; a GSO aggregate counts as one.
    pub packets: u64,
    /// Bytes from the Ethernet header on.
    pub bytes: u64,
}

/// A record of `AUDIT`: another process changed BPF objects, so the agent compares its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct AuditRecord {
    /// Process id of the caller.
    pub pid: u32,
    /// `enum bpf_cmd` (include/uapi/linux/bpf.h).
    pub command: u32,
}

const _: () = {
    assert!(size_of::<Addr>() == 16);
    assert!(size_of::<PodValue>() == 24);
    assert!(size_of::<FlowKey>() == 40);
    assert!(size_of::<FlowValue>() == 4);
    assert!(size_of::<RouteKey>() == 20);
    assert!(size_of::<RouteValue>() == 56);
    assert!(size_of::<Hop>() == 20);
    assert!(size_of::<HopsValue>() == 224);
    assert!(size_of::<VtepValue>() == 24);
    assert!(size_of::<Config>() == 156);
    assert!(size_of::<XdpUplink>() == 12);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<AuditRecord>() == 8);
};

#[cfg(feature = "user")]
mod user {
    //! aya wants its own marker for types it copies to and from the kernel.
    use super::{
        Addr, AuditRecord, Config, Counter, FlowKey, FlowValue, HopsValue, PodValue, RouteKey,
        RouteValue, VtepValue,
    };

    macro_rules! kernel_pod {
        ($($name:ty),+) => {
            $(
                // SAFETY: bytemuck's derive of `Pod` proves what aya asks for: any bit pattern is
                // valid, no padding, `repr(C)`.
                unsafe impl aya::Pod for $name {}
            )+
        };
    }

    kernel_pod!(
        Addr,
        AuditRecord,
        Config,
        Counter,
        FlowKey,
        FlowValue,
        HopsValue,
        PodValue,
        RouteKey,
        RouteValue,
        VtepValue
    );
}
