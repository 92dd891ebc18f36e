//! Asks the kernel who a packet is for.

use aya_ebpf::bindings::{BPF_TCP_LISTEN, bpf_sock};
use aya_ebpf::helpers::{bpf_sk_release, bpf_skc_lookup_tcp};
use aya_ebpf::programs::TcContext;
use oxlan_common::packet::Packet;
use oxlan_common::packet::ip::Ip;

/// Whether a TCP connection in a network namespace, whatever its state, has the packet's addresses and ports.
#[inline(always)]
pub(crate) fn is_connected(ctx: &TcContext, packet: &impl Packet, ip: &Ip, netns: i32) -> bool {
    let (Some(ports), Ok(netns)) = (packet.bytes::<4>(ip.l4), u64::try_from(netns)) else {
        return false;
    };
    let mut tuple = Tuple::new(ip, ports);
    // SAFETY: the context is the program's; pointer and size are those of an array that lives during the call.
    let socket = unsafe {
        bpf_skc_lookup_tcp(
            ctx.skb.skb.cast(),
            tuple.words.as_mut_ptr().cast(),
            tuple.size,
            netns,
            0,
        )
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the pointer is not null, and to a socket that the kernel keeps until it is released.
    let state = unsafe { (*socket).state };
    release(socket);
    state != BPF_TCP_LISTEN
}

/// `struct bpf_sock_tuple` (include/uapi/linux/bpf.h): addresses and ports in network byte order.
struct Tuple {
    words: [u32; 9],
    /// The size, bytes, says which family it is.
    size: u32,
}

impl Tuple {
    #[inline(always)]
    fn new(ip: &Ip, ports: [u8; 4]) -> Self {
        let mut words = [0; 9];
        let ports = u32::from_ne_bytes(ports);
        if let (Some(src), Some(dst)) = (ip.src.as_v4(), ip.dst.as_v4()) {
            words[0] = u32::from_ne_bytes(src);
            words[1] = u32::from_ne_bytes(dst);
            words[2] = ports;
            return Self { words, size: 12 };
        }
        let (addresses, last) = words.split_at_mut(8);
        let (src, dst) = addresses.split_at_mut(4);
        bytemuck::cast_slice_mut(src).copy_from_slice(&ip.src.bytes);
        bytemuck::cast_slice_mut(dst).copy_from_slice(&ip.dst.bytes);
        last[0] = ports;
        Self { words, size: 36 }
    }
}

#[inline(always)]
fn release(socket: *mut bpf_sock) {
    // SAFETY: the pointer is one that a lookup returned and that has not been released.
    unsafe { bpf_sk_release(socket.cast()) };
}
