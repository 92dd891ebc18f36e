//! What `cargo xtask bench` and the programs that it compares Oxlan with agree on.

use bytemuck::{Pod, Zeroable};

use crate::addr::Addr;

/// VNI of the tunnel that is compared with.
pub const VNI: u32 = 1;

/// Pods that it can have.
pub const ENDPOINTS: u32 = 16;

/// Bytes of a VXLAN frame over IPv4 up to the end of the inner IPv4 header.
pub const HEADERS: usize = 50 + 14 + 20;

/// The address that the program which only looks up looks up.
pub const LOOKED_UP: Addr = Addr::from_v4([10, 128, 0, 1]);

/// Sets of next hops in the map that the program which chooses one looks into, numbered from 1 on.
pub const HOP_SETS: u32 = 128;

/// A pod, keyed by its IPv4 address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Endpoint {
    /// Interface index of the host side of its veth, if it is on this node.
    pub ifindex: u32,
    /// Underlay address of its node, 0 if it is this one.
    pub remote: [u8; 4],
    /// Destination and source of the Ethernet header of what is delivered to it.
    pub macs: [u8; 12],
}

const _: () = assert!(size_of::<Endpoint>() == 20);

#[cfg(feature = "user")]
// SAFETY: bytemuck's derive of `Pod` proves what aya asks for: any bit pattern is valid, no padding, `repr(C)`.
unsafe impl aya::Pod for Endpoint {}
