//! The tunnel metadata that the kernel keeps beside a packet of the overlay device.

use aya_ebpf::bindings::{BPF_F_ZERO_CSUM_TX, bpf_tunnel_key};
use aya_ebpf::helpers::{bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key};
use oxlan_common::addr::Addr;
use oxlan_common::decide::TunnelKey;
use oxlan_common::maps::RouteValue;

use crate::skb::{Refused, Skb};

/// TTL of the outer packet, as in the fast path.
const OUTER_TTL: u8 = 64;

/// Who sent a received packet, by the outer headers that the device took off.
#[inline(always)]
pub(crate) fn of(skb: &Skb) -> Option<TunnelKey> {
    // SAFETY: all zero is a value of this structure of numbers.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    // SAFETY: the context is the program's; pointer and size are those of a structure that lives during the call.
    let result = unsafe {
        bpf_skb_get_tunnel_key(
            skb.ctx().skb.skb,
            &raw mut key,
            size_of::<bpf_tunnel_key>() as u32,
            0,
        )
    };
    if result != 0 {
        return None;
    }
    // SAFETY: without the flag BPF_F_TUNINFO_IPV6 the helper fills in the IPv4 address, in host byte order.
    let remote = unsafe { key.__bindgen_anon_1.remote_ipv4 };
    Some(TunnelKey {
        remote: Addr::from_v4(remote.to_be_bytes()),
        vni: key.tunnel_id,
    })
}

/// Tells the device where to send the packet.
#[inline(always)]
pub(crate) fn set(skb: &mut Skb, route: &RouteValue) -> Result<(), Refused> {
    let remote = route.underlay.as_v4().ok_or(Refused)?;
    // SAFETY: all zero is a value of this structure of numbers.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = route.vni;
    key.tunnel_ttl = OUTER_TTL;
    key.__bindgen_anon_1.remote_ipv4 = u32::from_be_bytes(remote);
    // SAFETY: the context is the program's; pointer and size are those of a structure that lives during the call.
    let result = unsafe {
        bpf_skb_set_tunnel_key(
            skb.ctx().skb.skb,
            &raw mut key,
            size_of::<bpf_tunnel_key>() as u32,
            u64::from(BPF_F_ZERO_CSUM_TX),
        )
    };
    if result == 0 { Ok(()) } else { Err(Refused) }
}
