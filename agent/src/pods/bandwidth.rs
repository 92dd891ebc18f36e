//! How much a pod may send and receive: the capability `bandwidth` of CNI, in its own units. Pure.

use oxlan_common::packet::ETHERNET_LEN;
use serde::{Deserialize, Serialize};

use crate::host::shaper::TokenBucket;

/// Ethernet header and a VLAN tag of the pod's own: what a frame has besides its MTU.
const HEADERS: u32 = ETHERNET_LEN + 4;

/// Limits of one pod; none means as much as it can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Of what it receives (`ingress`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_pod: Option<Rate>,
    /// Of what it sends (`egress`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_pod: Option<Rate>,
}

/// A limit of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Bits per second, 8 at least.
    pub rate: u64,
    /// Bits that may pass at once, for whoever was quiet before.
    pub burst: u64,
}

impl Bandwidth {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Rate {
    /// As the kernel has it, for an interface with this MTU. A burst in which the largest frame has no
    /// room would let it never pass, so it is taken for one that has.
    #[must_use]
    pub fn bucket(&self, mtu: u16) -> TokenBucket {
        let burst = u32::try_from(self.burst / 8).unwrap_or(u32::MAX);
        TokenBucket {
            rate: self.rate / 8,
            burst: burst.max(u32::from(mtu) + HEADERS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_become_bytes_and_a_burst_has_room_for_a_frame() {
        let bucket = |rate, burst| Rate { rate, burst }.bucket(1450);
        assert_eq!(
            bucket(80, 16_000),
            TokenBucket {
                rate: 10,
                burst: 2000
            }
        );
        assert_eq!(bucket(80, 8).burst, 1468);
        assert_eq!(bucket(u64::MAX, u64::MAX).burst, u32::MAX);
    }
}
