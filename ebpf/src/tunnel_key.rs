//! The tunnel metadata that the kernel keeps beside a packet of the overlay device.

use aya_ebpf::bindings::{BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key};
use aya_ebpf::helpers::{bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key};
use oxlan_common::addr::Addr;
use oxlan_common::decide::TunnelKey;
use oxlan_common::maps::{Config, RouteValue};
use oxlan_common::packet::Front;

use crate::skb::{Refused, Skb};

/// TTL or hop limit of the outer packet, as in the fast path.
const OUTER_TTL: u8 = 64;

/// Who sent a received packet, by the outer headers that the device took off.
#[inline(always)]
pub(crate) fn of(skb: &Skb) -> Option<TunnelKey> {
    // SAFETY: all zero is a value of this structure of numbers.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    // The helper refuses the other family's packets.
    let remote = if get(skb, &mut key, 0).is_ok() {
        // SAFETY: without the flag the helper fills in the IPv4 address, in host byte order.
        let v4 = unsafe { key.__bindgen_anon_1.remote_ipv4 };
        Addr::from_v4(v4.to_be_bytes())
    } else if get(skb, &mut key, BPF_F_TUNINFO_IPV6).is_ok() {
        // SAFETY: with the flag it fills in the IPv6 address, in network byte order.
        bytemuck::cast(unsafe { key.__bindgen_anon_1.remote_ipv6 })
    } else {
        return None;
    };
    Some(TunnelKey {
        remote,
        vni: key.tunnel_id,
    })
}

/// Tells the device where to send the packet.
#[inline(always)]
pub(crate) fn set(
    skb: &mut Skb,
    route: &RouteValue,
    config: &Config,
    front: &Front,
) -> Result<(), Refused> {
    // SAFETY: all zero is a value of this structure of numbers.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = route.vni;
    key.tunnel_ttl = OUTER_TTL;
    // The device puts in the ECN bits itself.
    key.tunnel_tos = config.outer_traffic_class(front.traffic_class());
    let local = config.underlay_like(&route.underlay);
    let flags = if route.underlay.is_v4() {
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be_bytes(route.underlay.low_bytes());
        key.__bindgen_anon_3.local_ipv4 = u32::from_be_bytes(local.low_bytes());
        BPF_F_ZERO_CSUM_TX
    } else {
        key.__bindgen_anon_1.remote_ipv6 = bytemuck::cast(route.underlay);
        key.__bindgen_anon_3.local_ipv6 = bytemuck::cast(*local);
        BPF_F_TUNINFO_IPV6
    };
    // SAFETY: the context is the program's; pointer and size are those of a structure that lives during the call.
    let result = unsafe {
        bpf_skb_set_tunnel_key(
            skb.ctx().skb.skb,
            &raw mut key,
            size_of::<bpf_tunnel_key>() as u32,
            u64::from(flags),
        )
    };
    if result == 0 { Ok(()) } else { Err(Refused) }
}

#[inline(always)]
fn get(skb: &Skb, key: &mut bpf_tunnel_key, flags: u32) -> Result<(), Refused> {
    // SAFETY: the context is the program's; pointer and size are those of a structure that is
    // borrowed mutably during the call.
    let result = unsafe {
        bpf_skb_get_tunnel_key(
            skb.ctx().skb.skb,
            core::ptr::from_mut(key),
            size_of::<bpf_tunnel_key>() as u32,
            u64::from(flags),
        )
    };
    if result == 0 { Ok(()) } else { Err(Refused) }
}
