//! One address type for both families, and MAC addresses.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// Bytes in front of an IPv4 address in its v4-mapped form `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2).
const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Prefix length of the v4-mapped range: an IPv4 prefix `/n` is `/(96 + n)` here.
pub const V4_PREFIX_BITS: u8 = 96;

/// An IPv4 or IPv6 address, in network byte order; IPv4 as v4-mapped IPv6.
///
/// All maps use this form, so there is one code path for both families. The alignment is that of
/// the structs in maps; without it, the BPF target reads addresses byte by byte.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Addr {
    /// The 16 bytes as they stand in an IPv6 header.
    pub bytes: [u8; 16],
}

impl Addr {
    /// `::`, which stands for "no address" in map values.
    pub const UNSPECIFIED: Self = Self { bytes: [0; 16] };

    /// The address `::ffff:a.b.c.d`.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        let mut bytes = [0; 16];
        let (prefix, rest) = bytes.split_at_mut(V4_MAPPED.len());
        prefix.copy_from_slice(&V4_MAPPED);
        rest.copy_from_slice(&v4);
        Self { bytes }
    }

    /// An IPv6 address as it stands in the header.
    #[inline(always)]
    #[must_use]
    pub const fn from_v6(bytes: [u8; 16]) -> Self {
        Self { bytes }
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        let [high, low] = self.words();
        high == 0 && low >> 32 == 0xffff
    }

    /// The four bytes of an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn as_v4(&self) -> Option<[u8; 4]> {
        if self.is_v4() {
            Some(self.low_bytes())
        } else {
            None
        }
    }

    /// The last four bytes, which are the IPv4 address if this is one.
    #[inline(always)]
    #[must_use]
    pub const fn low_bytes(&self) -> [u8; 4] {
        let mut low = [0; 4];
        low.copy_from_slice(self.bytes.split_at(12).1);
        low
    }

    /// Whether every bit is zero.
    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(&self) -> bool {
        let [high, low] = self.words();
        high | low == 0
    }

    /// The address with all bits after the first `len` (0 to 128) cleared.
    #[inline(always)]
    #[must_use]
    pub const fn masked(&self, len: u8) -> Self {
        let [high, low] = self.words();
        let (high_mask, low_mask) = if len <= 64 {
            (mask(len), 0)
        } else {
            (u64::MAX, mask(len - 64))
        };
        Self::from_words([high & high_mask, low & low_mask])
    }

    /// The two halves as numbers.
    #[inline(always)]
    const fn words(&self) -> [u64; 2] {
        // Copies of constant size become single loads, which single bytes do not on the BPF target.
        let (mut high, mut low) = ([0; 8], [0; 8]);
        let (first, last) = self.bytes.split_at(8);
        high.copy_from_slice(first);
        low.copy_from_slice(last);
        [u64::from_be_bytes(high), u64::from_be_bytes(low)]
    }

    #[inline(always)]
    const fn from_words(words: [u64; 2]) -> Self {
        let mut bytes = [0; 16];
        let (high, low) = bytes.split_at_mut(8);
        high.copy_from_slice(&words[0].to_be_bytes());
        low.copy_from_slice(&words[1].to_be_bytes());
        Self { bytes }
    }
}

/// The first `len` (0 to 64) of 64 bits set; longer is treated as 64.
#[inline(always)]
const fn mask(len: u8) -> u64 {
    match len {
        0 => 0,
        1..=63 => u64::MAX << (64 - len),
        _ => u64::MAX,
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self::from_v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Self {
        Self::from_v6(ip.octets())
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        match addr.as_v4() {
            Some(v4) => Self::V4(v4.into()),
            None => Self::V6(addr.bytes.into()),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An Ethernet address (IEEE 802), in transmission order; aligned as it is wherever it is stored.
#[repr(C, align(2))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Mac {
    /// The six bytes as they stand in a frame.
    pub bytes: [u8; 6],
}

impl Mac {
    /// All zero, which stands for "no address".
    pub const ZERO: Self = Self { bytes: [0; 6] };

    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self { bytes: [0xff; 6] };

    /// The address with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self { bytes }
    }

    /// Whether the group bit is set (broadcast included).
    #[inline(always)]
    #[must_use]
    pub const fn is_multicast(&self) -> bool {
        self.bytes[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.bytes;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a unicast MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidMac;

impl fmt::Display for InvalidMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC address: six two-digit hexadecimal numbers with colons are wanted, as 02:0a:00:00:00:01")
    }
}

impl core::error::Error for InvalidMac {}

impl core::str::FromStr for Mac {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or(InvalidMac)?;
            if !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(InvalidMac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| InvalidMac)?;
        }
        if parts.next().is_some() {
            Err(InvalidMac)
        } else {
            Ok(Self { bytes })
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn v4_is_mapped() {
        let addr = Addr::from(Ipv4Addr::new(10, 244, 1, 7));
        assert!(addr.is_v4());
        assert_eq!(addr.to_string(), "10.244.1.7");
        assert_eq!(addr.masked(96 + 24).to_string(), "10.244.1.0");
        assert!(!Addr::from(Ipv6Addr::LOCALHOST).is_v4());
    }

    #[test]
    fn mac_text() {
        let mac: Mac = "02:0a:00:00:00:01".parse().unwrap();
        assert_eq!(mac.to_string(), "02:0a:00:00:00:01");
        for bad in [
            "",
            "02:0a:00:00:00",
            "02:0a:00:00:00:01:02",
            "2:a:0:0:0:1",
            "+2:0a:00:00:00:01",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(InvalidMac), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn masking_keeps_the_first_bits_only(bytes: [u8; 16], len in 0u8..=128) {
            let masked = u128::from_be_bytes(Addr::from_v6(bytes).masked(len).bytes);
            let all = u128::from_be_bytes(bytes);
            let wanted = if len == 0 { 0 } else { all >> (128 - len) << (128 - len) };
            prop_assert_eq!(masked, wanted);
        }
    }
}
