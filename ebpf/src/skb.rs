//! A packet in the kernel: the one place where packet bytes are read, written and moved.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
    BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET,
    bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::helpers;
use aya_ebpf::programs::TcContext;
use oxlan_common::decide::Decapsulation;
use oxlan_common::packet::flow_hash::flow_hash;
use oxlan_common::packet::ip::Ip;
use oxlan_common::packet::{ETHERNET_LEN, Front, Packet, checksum};
use oxlan_common::wire::{OVERHEAD_V4, OVERHEAD_V6};

use crate::socket;

/// Mark in `skb->tc_index`, which the host's stack leaves alone, of a packet that was lent to it.
///
/// Only `dsmark` and `tcindex`, which Linux 6.3 and later no longer have, use that field.
const LENT: u32 = 0x6f78;

/// `skb->pkt_type` of a frame to the device's own MAC (include/uapi/linux/if_packet.h).
const PACKET_HOST: u32 = 0;

/// Inner Ethernet header of the encapsulation: `BPF_F_ADJ_ROOM_ENCAP_L2(14)`, which the bindings lack
/// because it is a macro with an argument (include/uapi/linux/bpf.h).
const ENCAP_L2_ETHERNET: u64 = (ETHERNET_LEN as u64) << 56;

/// What the kernel has to know about the headers that we put in front, to cut an aggregate rightly.
const ENCAP_FLAGS: u64 = ENCAP_L2_ETHERNET
    | BPF_F_ADJ_ROOM_ENCAP_L2_ETH as u64
    | BPF_F_ADJ_ROOM_ENCAP_L4_UDP as u64
    | BPF_F_ADJ_ROOM_FIXED_GSO as u64;

/// `BPF_F_ADJ_ROOM_DECAP_L4_UDP`, which is younger than the bindings: an aggregate is no longer one in a UDP tunnel.
const DECAP_L4_UDP: u64 = 1 << 10;

/// What becomes of an aggregate's mark that it is one in a tunnel (`SKB_GSO_UDP_TUNNEL`).
#[derive(Clone, Copy)]
pub(crate) enum Mark {
    /// It is no aggregate.
    None,
    /// It stays.
    Keep,
    /// It goes.
    Remove,
}

impl Mark {
    /// Flags for the helper. The size of an aggregate's segments does not count any headers.
    #[inline(always)]
    const fn flags(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Keep => BPF_F_ADJ_ROOM_FIXED_GSO as u64,
            Self::Remove => BPF_F_ADJ_ROOM_FIXED_GSO as u64 | DECAP_L4_UDP,
        }
    }
}

/// A helper of the kernel refused.
pub(crate) struct Refused;

/// The packet that a program runs for.
pub(crate) struct Skb {
    ctx: TcContext,
}

impl Skb {
    #[inline(always)]
    pub(crate) fn new(ctx: TcContext) -> Self {
        Self { ctx }
    }

    /// The kernel's view of the packet, for helpers that have no place here.
    #[inline(always)]
    pub(crate) fn ctx(&self) -> &TcContext {
        &self.ctx
    }

    /// Writes `bytes` at `offset`. The sum over the packet is left to [`Self::adjust_sum`].
    #[inline(always)]
    pub(crate) fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Refused> {
        // SAFETY: the context is the one that the kernel called the program with, and the pointer
        // and the length are those of a slice that is borrowed for the whole call.
        let result = unsafe {
            helpers::bpf_skb_store_bytes(
                self.ctx.skb.skb.cast(),
                offset,
                bytes.as_ptr().cast(),
                bytes.len() as u32,
                0,
            )
        };
        check(result)
    }

    /// Makes room for all tunnel headers behind the Ethernet header.
    ///
    /// The kernel refuses before it changes anything (net/core/filter.c, `bpf_skb_adjust_room`).
    #[inline(always)]
    pub(crate) fn grow_for_tunnel(&mut self, over_ipv6: bool) -> Result<(), Refused> {
        let (len, l3) = if over_ipv6 {
            (OVERHEAD_V6, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6)
        } else {
            (OVERHEAD_V4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4)
        };
        let flags = ENCAP_FLAGS | u64::from(l3);
        self.ctx
            .skb
            .adjust_room(len.into(), BPF_ADJ_ROOM_MAC, flags)
            .map_err(|_| Refused)
    }

    /// Removes all tunnel headers behind the outer Ethernet header, which becomes the inner packet's.
    ///
    /// The kernel refuses before it changes anything, as above; another inner family than the outer
    /// one before Linux 6.3 (commit d219df60a70e, "bpf: Add ipip6 and ip6ip decap support for
    /// bpf_skb_adjust_room()"), and to remove an aggregate's mark before 7.3.
    #[inline(always)]
    pub(crate) fn shrink_from_tunnel(
        &mut self,
        outer: Decapsulation,
        to_ipv6: bool,
        mark: Mark,
    ) -> Result<(), Refused> {
        // The kernel has noted the outer packet's protocol.
        let protocol = match (outer.is_v6, to_ipv6) {
            (false, true) => BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
            (true, false) => BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
            (true, true) | (false, false) => 0,
        };
        let flags = u64::from(protocol) | u64::from(BPF_F_ADJ_ROOM_NO_CSUM_RESET) | mark.flags();
        self.ctx
            .skb
            .adjust_room(-(outer.len as i32), BPF_ADJ_ROOM_MAC, flags)
            .map_err(|_| Refused)?;
        self.drop_outer_checksum();
        Ok(())
    }

    /// Makes room behind the Ethernet header for the headers of an ICMP error about what is there.
    ///
    /// A device may have had to fill in the checksum of that packet (`CHECKSUM_PARTIAL`), and would now write
    /// into what is quoted. No helper takes that mark off, but the kernel does when the place where the sum
    /// starts is cut off at the front (include/linux/skbuff.h, `__skb_postpull_rcsum`). So `HEAD` bytes, IP
    /// header and a part of the next, are taken off and put back.
    #[inline(always)]
    pub(crate) fn grow_for_error<const HEAD: usize>(
        &mut self,
        headers: u16,
    ) -> Result<(), Refused> {
        let mut head = [0; HEAD];
        if !self.read(ETHERNET_LEN, &mut head) {
            return Err(Refused);
        }
        self.move_behind_ethernet(-(HEAD as i32))?;
        self.move_behind_ethernet(HEAD as i32 + i32::from(headers))?;
        self.write(ETHERNET_LEN + u32::from(headers), &head)
    }

    #[inline(always)]
    fn move_behind_ethernet(&mut self, by: i32) -> Result<(), Refused> {
        self.ctx
            .skb
            .adjust_room(by, BPF_ADJ_ROOM_MAC, 0)
            .map_err(|_| Refused)
    }

    /// Sum (see [`oxlan_common::packet::checksum`]) of `len` bytes behind the Ethernet header of a packet
    /// that [`Self::resize`] has put into one piece. The length is a constant.
    #[inline(always)]
    pub(crate) fn sum_behind_ethernet(&self, len: u16) -> Result<u16, Refused> {
        /// Most that the helper takes at once on older kernels (net/core/filter.c, `struct bpf_scratchpad`).
        const MOST: u16 = 512;
        let (mut sum, mut done) = (0, 0);
        while done < len {
            let part = if len - done < MOST { len - done } else { MOST };
            let start = self.ctx.data() + ETHERNET_LEN as usize + usize::from(done);
            if start + usize::from(part) > self.ctx.data_end() {
                return Err(Refused);
            }
            // SAFETY: all bytes are before the end of the packet's first piece, which the verifier proves again.
            let result = unsafe {
                helpers::bpf_csum_diff(
                    core::ptr::null_mut(),
                    0,
                    start as *mut u32,
                    u32::from(part),
                    sum,
                )
            };
            sum = u32::try_from(result).map_err(|_| Refused)?;
            done += part;
        }
        // The kernel sums in its own byte order.
        Ok(u16::from_be_bytes(checksum::fold(sum).to_ne_bytes()))
    }

    /// A device that has verified checksums has counted the outer one, which is gone; without this, all its work would be.
    #[inline(always)]
    fn drop_outer_checksum(&mut self) {
        // SAFETY: the context is the one that the kernel called the program with.
        // Failure means that the device has verified nothing, so nothing has to be taken back.
        unsafe { helpers::bpf_csum_level(self.ctx.skb.skb, u64::from(BPF_CSUM_LEVEL_DEC)) };
    }

    /// Tells a sum over the whole packet, if the device has made one, what a write has changed.
    #[inline(always)]
    pub(crate) fn adjust_sum(&mut self, difference: u32) {
        if difference != 0 {
            // SAFETY: the context is the one that the kernel called the program with.
            // Failure means that there is no such sum.
            unsafe { helpers::bpf_csum_update(self.ctx.skb.skb, difference) };
        }
    }

    /// Makes the packet `len` bytes long.
    #[inline(always)]
    pub(crate) fn resize(&mut self, len: u32) -> Result<(), Refused> {
        // SAFETY: the context is the one that the kernel called the program with.
        check(unsafe { helpers::bpf_skb_change_tail(self.ctx.skb.skb, len, 0) })
    }

    /// Makes the packet one that is for us, whatever MAC it was sent to.
    ///
    /// The kernel has compared that MAC with the device's and throws away, uncounted, what differs.
    /// The decision has looked at everything that matters, and somebody may just have changed the device's.
    #[inline(always)]
    pub(crate) fn take(&mut self) {
        if !self.is_to_us() {
            // SAFETY: the context is the one that the kernel called the program with.
            // The only failure is a type that does not exist.
            unsafe { helpers::bpf_skb_change_type(self.ctx.skb.skb, PACKET_HOST) };
        }
    }

    /// Says whether the host's stack gets the packet although the fast path knows its destination.
    ///
    /// It may have been lent before, if a pod sends on what it was sent.
    #[inline(always)]
    pub(crate) fn set_lent(&mut self, lent: bool) {
        if lent != self.is_lent() {
            // SAFETY: as in `field`; the verifier allows this field to be written.
            unsafe { (*self.ctx.skb.skb).tc_index = if lent { LENT } else { 0 } };
        }
    }

    /// Hash of the packet's flow: the one that its socket has given it, or ours.
    ///
    /// A TCP socket chooses another one when it gets no answers, so that the flow takes another way.
    /// Over IPv6 it is the kernel's in any case: parts of a flow go by the overlay device there, which takes
    /// the source port from it, and must not overtake the others.
    #[inline(always)]
    pub(crate) fn flow_hash(&self, front: &Front, over_ipv6: bool) -> u32 {
        let known = self.field().hash;
        if known != 0 {
            known
        } else if over_ipv6 {
            // SAFETY: the context is the one that the kernel called the program with.
            unsafe { helpers::bpf_get_hash_recalc(self.ctx.skb.skb) }
        } else {
            flow_hash(self, front)
        }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn read(&self, offset: u32, into: &mut [u8]) -> bool {
        // SAFETY: the context is the one that the kernel called the program with, and the pointer
        // and the length are those of a slice that is borrowed mutably for the whole call.
        let result = unsafe {
            helpers::bpf_skb_load_bytes(
                self.ctx.as_ptr().cast_const(),
                offset,
                into.as_mut_ptr().cast(),
                into.len() as u32,
            )
        };
        result == 0
    }

    #[inline(always)]
    fn read_words(&self, offset: u32, into: &mut [u16]) -> bool {
        let start = self.ctx.data() + offset as usize;
        // SAFETY: these are addresses of the packet's first piece; the kernel starts frames at even ones.
        let is_there = unsafe { read_first_piece(start, self.ctx.data_end(), into) };
        // Else the packet is too short, or its headers are not all in that piece.
        is_there || self.read(offset, bytemuck::cast_slice_mut(into))
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.ctx.len()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.field().ifindex
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        self.field().gso_size
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        self.field().vlan_present != 0
    }

    #[inline(always)]
    fn is_lent(&self) -> bool {
        self.field().tc_index == LENT
    }

    #[inline(always)]
    fn is_to_us(&self) -> bool {
        self.field().pkt_type == PACKET_HOST
    }

    #[inline(always)]
    fn has_tcp_socket(&self, ip: &Ip, netns: i32) -> bool {
        socket::is_connected(&self.ctx, self, ip, netns)
    }
}

impl Skb {
    #[inline(always)]
    fn field(&self) -> &aya_ebpf::bindings::__sk_buff {
        // SAFETY: the kernel called the program with this pointer to a context that lives until the
        // program returns; each access to a field is checked and translated by the verifier.
        unsafe { &*self.ctx.skb.skb }
    }
}

/// Reads words at `start`; `false` if they do not end before `end`.
///
/// # Safety
///
/// From `start`, an even address, up to `end` there is memory of a packet, as the kernel has told the program.
/// The verifier proves it again.
#[inline(always)]
pub(crate) unsafe fn read_first_piece(start: usize, end: usize, into: &mut [u16]) -> bool {
    if start + size_of_val(into) > end {
        return false;
    }
    let from = start as *const u16;
    for (at, word) in into.iter_mut().enumerate() {
        // SAFETY: all words end before `end`, so the caller vouches for them.
        *word = unsafe { from.add(at).read() };
    }
    true
}

#[inline(always)]
pub(crate) fn check(result: i64) -> Result<(), Refused> {
    if result == 0 { Ok(()) } else { Err(Refused) }
}
