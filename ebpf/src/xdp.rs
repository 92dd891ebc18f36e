//! A frame that a driver has received and of which the kernel has not made a packet yet: beside `skb`
//! the only place where packet bytes are read, written and moved.
//!
//! A frame may lie in several buffers (jumbo frames). All headers that matter are in the first one on
//! the drivers that there are; where they are not, the helpers read across, and writing is refused.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers;
use aya_ebpf::programs::XdpContext;
use oxlan_common::counters::{DropReason, Verdict};
use oxlan_common::decide::{Decapsulation, Tables as _};
use oxlan_common::maps::PodValue;
use oxlan_common::packet::{Front, Packet};

use crate::maps::REDIRECTS_FRAGS;
use crate::skb::{Refused, check, read_first_piece};
use crate::tables::{Maps, count, count_drop};

/// Words of a frame that forwarding changes: Ethernet header, and IP header with IPv4's checksum.
const FORWARDED: usize = (14 + 12) / 2;

/// The frame that a program runs for.
pub(crate) struct Frame {
    ctx: XdpContext,
}

/// The kernel goes on with the frame: it makes a packet, which `from_uplink` sees.
#[inline(always)]
pub(crate) fn pass() -> u32 {
    // Not counted, because `from_uplink` counts it.
    XDP_PASS
}

#[inline(always)]
pub(crate) fn drop(frame: &Frame, reason: DropReason) -> u32 {
    count_drop(reason, frame.len());
    XDP_DROP
}

/// Takes the tunnel headers off and puts the frame into the receive ring of a pod of this node.
///
/// It reaches the pod without any note about its checksum: the pod's own stack verifies it, whatever
/// the device may have verified of the outer packet.
#[inline(always)]
#[expect(clippy::cast_sign_loss, reason = "XDP's verdicts are not negative")]
pub(crate) fn redirect(
    frame: &mut Frame,
    front: &mut Front,
    pod: &PodValue,
    ecn: Option<u8>,
    outer: Decapsulation,
) -> u32 {
    let len = frame.len();
    front.readdress(pod.mac, pod.host_mac);
    // There is no sum over the packet yet that these changes would have to go into.
    let _ = front.decrement_hop_limit();
    if let Some(ecn) = ecn {
        let _ = front.set_ecn(ecn);
    }
    let written = frame
        .shrink(outer.len)
        .and_then(|()| frame.write_front(front.frame_words::<FORWARDED>()));
    if written.is_err() {
        return drop(frame, DropReason::HelperFailed);
    }
    count(Verdict::FromVtepXdp, len);
    // SAFETY: the helper takes two numbers and has no preconditions.
    unsafe { helpers::bpf_redirect(pod.ifindex, 0) as u32 }
}

impl Frame {
    #[inline(always)]
    pub(crate) fn new(ctx: XdpContext) -> Self {
        Self { ctx }
    }

    /// Takes `len` bytes off the front.
    #[inline(always)]
    fn shrink(&mut self, len: u32) -> Result<(), Refused> {
        // SAFETY: the context is the one that the kernel called the program with.
        check(unsafe { helpers::bpf_xdp_adjust_head(self.ctx.ctx, len as i32) })
    }

    /// Writes `words` at the front.
    #[inline(always)]
    fn write_front(&mut self, words: &[u16]) -> Result<(), Refused> {
        let start = self.ctx.data();
        if start + size_of_val(words) > self.ctx.data_end() {
            return Err(Refused);
        }
        let to = start as *mut u16;
        for (at, word) in words.iter().enumerate() {
            // SAFETY: all words end before the end of the frame's first buffer, which the verifier
            // proves again; drivers start frames at even addresses, and an even number of bytes was
            // taken off.
            unsafe { to.add(at).write(*word) };
        }
        Ok(())
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn read(&self, offset: u32, into: &mut [u8]) -> bool {
        // SAFETY: the context is the one that the kernel called the program with, and the pointer
        // and the length are those of a slice that is borrowed mutably for the whole call.
        let result = unsafe {
            helpers::bpf_xdp_load_bytes(
                self.ctx.as_ptr().cast(),
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
        // SAFETY: these are addresses of the frame's first buffer; drivers start frames at even ones.
        let is_there = unsafe { read_first_piece(start, self.ctx.data_end(), into) };
        // Else the frame is too short, or its headers are not all in that buffer.
        is_there || self.read(offset, bytemuck::cast_slice_mut(into))
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context is the one that the kernel called the program with.
        unsafe { helpers::bpf_xdp_get_buff_len(self.ctx.ctx) as u32 }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    /// The kernel makes aggregates later.
    #[inline(always)]
    fn gso_size(&self) -> u32 {
        0
    }

    /// A tag is where the EtherType would be, so a tagged frame is not for us at first sight. The
    /// agent attaches the program nowhere where the device takes tags out.
    #[inline(always)]
    fn is_tagged(&self) -> bool {
        false
    }

    #[inline(always)]
    fn is_to_us(&self) -> bool {
        let mut dst = [0_u16; 3];
        let (true, Some(config)) = (self.read_words(0, &mut dst), Maps.config()) else {
            return false;
        };
        let (ifindex, dst): (u32, [u8; 6]) = (self.ifindex(), bytemuck::cast(dst));
        let mut uplinks = config.xdp_uplinks.iter();
        uplinks.any(|uplink| uplink.ifindex == ifindex && uplink.mac.bytes == dst)
    }

    /// The pod's interface drops what is longer than its MTU, and older kernels what lies in several buffers.
    #[inline(always)]
    fn exceeds(&self, len: u32) -> bool {
        let own = self.len();
        let first = self.ctx.data_end() - self.ctx.data();
        own > len || own as usize > first && REDIRECTS_FRAGS.load() == 0
    }
}
