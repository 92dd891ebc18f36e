//! Congestion marks through the tunnel (RFC 6040).

/// Not ECN capable.
pub const NOT_ECT: u8 = 0b00;
/// ECN capable, codepoint 1.
pub const ECT_1: u8 = 0b01;
/// ECN capable, codepoint 0.
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// What decapsulation does to the inner packet's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decapsulated {
    /// The mark stays.
    Keep,
    /// The mark becomes this.
    Mark(u8),
    /// The network wants the sender to slow down and the packet cannot say so: it has to be dropped.
    Drop,
}

/// The table of RFC 6040, section 4.2, figure 4.
#[inline(always)]
#[must_use]
pub const fn decapsulate(outer: u8, inner: u8) -> Decapsulated {
    match (outer & 3, inner & 3) {
        (CE, NOT_ECT) => Decapsulated::Drop,
        (CE, ECT_0 | ECT_1) => Decapsulated::Mark(CE),
        (ECT_1, ECT_0) => Decapsulated::Mark(ECT_1),
        _ => Decapsulated::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_the_standard() {
        // Rows: inner Not-ECT, ECT(0), ECT(1), CE. Columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let order = [NOT_ECT, ECT_0, ECT_1, CE];
        let table = [
            [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None],
            [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)],
            [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)],
            [Some(CE), Some(CE), Some(CE), Some(CE)],
        ];
        for (inner, row) in order.into_iter().zip(table) {
            for (outer, wanted) in order.into_iter().zip(row) {
                let got = match decapsulate(outer, inner) {
                    Decapsulated::Keep => Some(inner),
                    Decapsulated::Mark(mark) => Some(mark),
                    Decapsulated::Drop => None,
                };
                assert_eq!(got, wanted, "outer {outer:02b}, inner {inner:02b}");
            }
        }
    }
}
