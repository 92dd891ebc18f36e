//! What can happen to a packet: verdicts, and drops by reason. Each has a slot in `COUNTERS`.

/// Number of slots in `COUNTERS`.
pub const SLOTS: u32 = 96;

/// Slot of drop reason 0; the slot of a reason is this plus its number.
pub const FIRST_DROP_SLOT: u32 = 32;

/// Declares an enum of numbered, named, explained outcomes.
macro_rules! outcomes {
    (
        $(#[$enum_doc:meta])*
        $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $text:literal;)+ }
    ) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[doc = $doc])+ $variant = $number,)+ }

        impl $name {
            /// Every variant, by number.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The number, which is never given to another meaning.
            #[inline(always)]
            #[must_use]
            pub const fn number(self) -> u32 { self as u32 }

            /// The stable name: metric label, JSON value, table row.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// What it means, in one or two sentences.
            #[must_use]
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }
    };
}

outcomes! {
    /// What the datapath did with a packet that it did not drop.
    Verdict {
        /// Delivered to a pod of this node; it came from a pod of this node.
        LocalPod = 0, "local-pod";
        /// Decapsulated and delivered to a pod of this node.
        FromVtep = 1, "from-vtep";
        /// Encapsulated and sent to another node.
        ToVtep = 2, "to-vtep";
        /// Given to the host's own stack.
        ToHost = 3, "to-host";
        /// Given to the overlay device, which decapsulates what the fast path must not: GSO aggregates, outer fragments, packets for the host.
        ToOverlay = 4, "to-overlay";
        /// An ARP request answered on behalf of the gateway.
        ArpReply = 5, "arp-reply";
        /// A neighbour solicitation answered on behalf of the gateway.
        NdReply = 6, "nd-reply";
        /// Link-scope chatter that ends at the veth: duplicate address detection, multicast, broadcast, router solicitations.
        Ignored = 7, "ignored";
        /// Decapsulated before the kernel had made a packet of the frame (XDP), and redirected to a pod of this node.
        FromVtepXdp = 8, "from-vtep-xdp";
        /// Given to the host's own stack, which has translated the flow (a service, a published port) and has to translate the answers back.
        Translated = 14, "translated";
        /// Larger than fits towards its destination: the pod was told by ICMP what fits.
        TooBig = 12, "too-big";
        /// Sent to another node as it was, without encapsulation.
        ToPeer = 10, "to-peer";
        /// Received as it left a pod of another node, without encapsulation, and delivered to a pod of this node.
        FromPeer = 11, "from-peer";
    }
}

outcomes! {
    /// Why the datapath dropped a packet.
    DropReason {
        /// The packet ends before a header that it announces.
        Truncated = 1, "truncated";
        /// A header field contradicts itself: IP version, header length, total length, too many extension headers, or a first fragment without ports.
        Malformed = 2, "malformed";
        /// A pod sent a packet with a source address that is not its own.
        ForeignSource = 3, "foreign-source";
        /// A pod sent a frame with a source MAC that is not its own.
        ForeignMac = 4, "foreign-mac";
        /// A pod sent a router advertisement.
        RouterAdvertisement = 5, "router-advertisement";
        /// A pod sent UDP to the tunnel port of something that is not a pod.
        TunnelPort = 6, "tunnel-port";
        /// A VXLAN packet with a VNI that is not the cluster's.
        WrongVni = 7, "wrong-vni";
        /// A VXLAN packet whose flags are not exactly the I flag (RFC 7348, section 5), or with reserved bits set.
        WrongVxlanFlags = 8, "wrong-vxlan-flags";
        /// A VXLAN packet from an address that is not a node of the cluster.
        UnknownVtep = 9, "unknown-vtep";
        /// A VXLAN packet whose inner source address does not belong to the node that sent it.
        ForeignInnerSource = 10, "foreign-inner-source";
        /// A VXLAN packet whose inner destination MAC is not this node's VTEP.
        WrongInnerMac = 11, "wrong-inner-mac";
        /// A VXLAN packet whose inner frame is neither IPv4 nor IPv6.
        InnerNotIp = 12, "inner-not-ip";
        /// A VXLAN packet to an inner address outside this node's pod CIDRs.
        NotOurPod = 13, "not-our-pod";
        /// A packet arrived on the overlay device without tunnel metadata.
        NoTunnelMetadata = 14, "no-tunnel-metadata";
        /// The host sent a packet into the overlay for an address that belongs to no node, or to one that nothing is encapsulated for and no route leads to.
        NoRoute = 15, "no-route";
        /// A pod sent a frame that is neither IPv4, IPv6 nor ARP.
        UnsupportedProtocol = 16, "unsupported-protocol";
        /// A kernel helper refused to change the packet; this is a defect, please report it.
        HelperFailed = 17, "helper-failed";
        /// A VXLAN packet that the underlay marked as having met congestion, around an inner packet that cannot carry the mark (RFC 6040, section 4.2).
        CongestionMark = 18, "congestion-mark";
        /// A VXLAN packet over IPv6 without a UDP checksum: nothing protects its addresses then (RFC 8200, section 8.1), and Linux refuses it, too.
        NoUdpChecksum = 19, "no-udp-checksum";
        /// A pod's packet is larger than fits towards its destination, and must not be answered: it is an ICMP error or a fragment other than the first (RFC 1122, section 3.2.2).
        TooBigUnanswered = 28, "too-big-unanswered";
        /// A pod's packet is larger than fits towards its destination, and the pod was told so too often within a second (RFC 4443, section 2.4).
        TooBigLimited = 29, "too-big-limited";
    }
}

impl Verdict {
    /// Slot in `COUNTERS`.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.number()
    }
}

impl DropReason {
    /// Slot in `COUNTERS`.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        FIRST_DROP_SLOT + self.number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_fit_and_do_not_collide() {
        for verdict in Verdict::ALL {
            assert!(verdict.slot() < FIRST_DROP_SLOT);
        }
        for reason in DropReason::ALL {
            assert!(reason.number() > 0 && reason.slot() < SLOTS);
        }
    }

    #[test]
    fn names_are_distinct_and_explained() {
        for (i, a) in DropReason::ALL.iter().enumerate() {
            assert!(a.explanation().ends_with('.'), "{a:?}");
            assert!(
                DropReason::ALL
                    .iter()
                    .skip(i + 1)
                    .all(|b| a.name() != b.name())
            );
        }
    }
}
