//! ARP requests and the answer to them (RFC 826), for IPv4 over Ethernet.

use super::{ETHERNET_LEN, Front, Packet};
use crate::addr::{Addr, Mac};

/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Operation of a request.
pub const REQUEST: u16 = 1;
/// Operation of a reply.
pub const REPLY: u16 = 2;

/// Length of the frame.
pub const FRAME_LEN: usize = 42;

/// An ARP message of the kind that pods send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// [`REQUEST`] or [`REPLY`].
    pub operation: u16,
    /// MAC that the sender claims.
    pub sender_mac: Mac,
    /// Address that the sender claims; all zero in a probe (RFC 5227).
    pub sender: Addr,
    /// Address that is asked for.
    pub target: Addr,
}

impl Arp {
    /// Room for a message to be read into.
    #[inline(always)]
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            operation: 0,
            sender_mac: Mac::ZERO,
            sender: Addr::UNSPECIFIED,
            target: Addr::UNSPECIFIED,
        }
    }

    /// Reads the message; `false` when it is truncated or of another kind.
    ///
    /// It is read in place because of an `Option` the programs would copy, before they look at its tag,
    /// what is not there, which the verifier refuses before Linux 6.4.
    #[inline(always)]
    pub fn read(&mut self, packet: &impl Packet) -> bool {
        let mut b = [0; 28];
        if !packet.read(ETHERNET_LEN, &mut b) {
            return false;
        }
        self.operation = u16::from_be_bytes([b[6], b[7]]);
        self.sender_mac = Mac::new([b[8], b[9], b[10], b[11], b[12], b[13]]);
        self.sender = Addr::from_v4([b[14], b[15], b[16], b[17]]);
        self.target = Addr::from_v4([b[24], b[25], b[26], b[27]]);
        let fixed = [b[0], b[1], b[2], b[3], b[4], b[5]];
        fixed == FIXED && matches!(self.operation, REQUEST | REPLY)
    }

    /// The frame that says that the target of this request has the MAC `mac`.
    #[inline(always)]
    #[must_use]
    pub fn reply(&self, front: &Front, mac: Mac) -> [u8; FRAME_LEN] {
        let mut frame = [0; FRAME_LEN];
        frame[..6].copy_from_slice(&front.src.bytes);
        frame[6..12].copy_from_slice(&mac.bytes);
        frame[12..14].copy_from_slice(&front.ethertype);
        frame[14..20].copy_from_slice(&FIXED);
        frame[20..22].copy_from_slice(&[0, 2]);
        frame[22..28].copy_from_slice(&mac.bytes);
        frame[28..32].copy_from_slice(&self.target.low_bytes());
        frame[32..38].copy_from_slice(&self.sender_mac.bytes);
        frame[38..42].copy_from_slice(&self.sender.low_bytes());
        frame
    }
}
