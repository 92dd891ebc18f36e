//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use super::array;

/// Sum of 16-bit words in network byte order; an odd last byte counts as a high byte.
#[inline(always)]
#[must_use]
pub fn of_words(bytes: &[u8]) -> u32 {
    let mut sum = 0;
    let mut at = 0;
    while at + 1 < bytes.len() {
        sum += u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        at += 2;
    }
    if at < bytes.len() {
        sum += u32::from(bytes[at]) << 8;
    }
    sum
}

/// Carries folded back until 16 bits are left.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "two folds leave 16 bits")]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The checksum of `bytes` on top of the sum of something else, for example a pseudo header.
#[inline(always)]
#[must_use]
pub fn of(bytes: &[u8], other: u32) -> [u8; 2] {
    (!fold(of_words(bytes) + other)).to_be_bytes()
}

/// Sum of 16-bit words in native byte order, as it stands in memory; `bytes` has an even length.
///
/// One's complement sums do not care for the byte order (RFC 1071, section 2 B), and this takes two words at once.
#[inline(always)]
#[must_use]
pub fn native_of(bytes: &[u8]) -> u64 {
    let mut sum = 0;
    let mut at = 0;
    while at + 4 <= bytes.len() {
        sum += u64::from(u32::from_ne_bytes(array(bytes, at)));
        at += 4;
    }
    if at + 2 <= bytes.len() {
        sum += u64::from(u16::from_ne_bytes(array(bytes, at)));
    }
    sum
}

/// A number of at most 16 bits as a word of a header, in native byte order.
#[inline(always)]
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the numbers are lengths and protocols in headers"
)]
pub const fn native(number: u32) -> u64 {
    (number as u16).to_be() as u64
}

/// Carries of fewer than 2^16 sums of two words folded back until 16 bits are left.
#[inline(always)]
#[must_use]
pub const fn fold_long(sum: u64) -> u16 {
    fold((sum & 0xffff) as u32 + ((sum >> 16) & 0xffff) as u32 + (sum >> 32) as u32)
}

/// The checksum after one word below it has changed from `old` to `new` (RFC 1624, equation 3).
#[inline(always)]
#[must_use]
pub const fn update(check: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let check = !u16::from_be_bytes(check);
    let old = !u16::from_be_bytes(old);
    let new = u16::from_be_bytes(new);
    (!fold(check as u32 + old as u32 + new as u32)).to_be_bytes()
}

/// What the change of a word adds to the kernel's sum over a packet (`skb->csum`), which is in
/// native byte order and not folded.
#[inline(always)]
#[must_use]
pub const fn difference(old: [u8; 2], new: [u8; 2]) -> u32 {
    (!u16::from_ne_bytes(old)) as u32 + u16::from_ne_bytes(new) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn example_of_the_standard() {
        // RFC 1071, section 3.
        let sum = of_words(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(fold(sum), 0xddf2);
    }

    proptest! {
        #[test]
        fn update_is_as_good_as_computing_again(mut words: [u8; 20], at in 0usize..10, new: [u8; 2]) {
            let check = of(&words, 0);
            let old = [words[2 * at], words[2 * at + 1]];
            let updated = update(check, old, new);
            words[2 * at..2 * at + 2].copy_from_slice(&new);
            let sum = of_words(&words) + u32::from(u16::from_be_bytes(updated));
            // Both zeros of one's complement are right.
            prop_assert!(fold(sum) == 0xffff || fold(sum) == 0);
        }
    }
}
