//! Limits of bandwidth: a token bucket (`tbf`) as the root queueing discipline of one side of a pod's pair.
//!
//! The library knows no `tbf`, so its options are put together here as the kernel reads them
//! (`net/sched/sch_tbf.c`, `tbf_change` and `tbf_dump`; `include/uapi/linux/pkt_sched.h`).
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's messages grow with every kernel"
)]

use std::collections::HashMap;
use std::fmt;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_core::{DefaultNla, Nla as _};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use super::rtnl::{Batch, Rtnl, RtnlError};

/// `TCA_KIND` of the discipline.
const KIND: &str = "tbf";

/// Upper half of the discipline's handle, `ox` in ASCII: the one by which ours is known.
const HANDLE: u16 = 0x6f78;

/// `TCA_TBF_PARMS`, `TCA_TBF_RATE64`, `TCA_TBF_BURST`.
const PARMS: u16 = 1;
const RATE64: u16 = 4;
const BURST: u16 = 6;

/// `TC_LINKLAYER_ETHERNET`: the kernel computes times itself instead of by a table from here.
const ETHERNET: u8 = 1;

/// Sizes of `struct tc_ratespec` and `struct tc_tbf_qopt`, and where they have what is looked for.
const RATESPEC: usize = 12;
const LINK_LAYER_AT: usize = 1;
const RATE_AT: usize = 8;
const LIMIT_AT: usize = 2 * RATESPEC;

/// How long a packet may wait when the bucket is empty, milliseconds: that of the reference plugin (`bandwidth`).
const LATENCY: u64 = 25;

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes per second, not 0.
    pub rate: u64,
    /// Bytes that may pass at once: as many as the largest frame at least, or that would never pass.
    pub burst: u32,
}

impl fmt::Display for TokenBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes/s, {} at once", self.rate, self.burst)
    }
}

/// A token bucket as the kernel tells of it, which does not tell the burst but what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present {
    rate: u64,
    queue: u32,
}

impl Present {
    /// What the kernel tells of this bucket.
    #[must_use]
    pub fn of(bucket: &TokenBucket) -> Self {
        Self {
            rate: bucket.rate,
            queue: bucket.queue(),
        }
    }
}

impl TokenBucket {
    /// Bytes that may wait: what passes within the latency, and a burst.
    fn queue(&self) -> u32 {
        let waiting = u128::from(self.rate) * u128::from(LATENCY) / 1000;
        u32::try_from(waiting + u128::from(self.burst)).unwrap_or(u32::MAX)
    }

    /// Whether this is what is there.
    #[must_use]
    pub fn is(&self, present: Option<Present>) -> bool {
        present == Some(Present::of(self))
    }

    fn options(&self) -> Vec<TcOption> {
        let small = u32::try_from(self.rate).unwrap_or(u32::MAX);
        let mut parms = vec![0; 3 * RATESPEC];
        let mut put = |at: usize, bytes: &[u8]| {
            let place = parms.iter_mut().skip(at);
            place.zip(bytes).for_each(|(to, from)| *to = *from);
        };
        put(LINK_LAYER_AT, &[ETHERNET]);
        put(RATE_AT, &small.to_ne_bytes());
        put(LIMIT_AT, &self.queue().to_ne_bytes());
        let mut options = vec![DefaultNla::new(PARMS, parms)];
        if self.rate > u32::MAX.into() {
            options.push(DefaultNla::new(RATE64, self.rate.to_ne_bytes().to_vec()));
        }
        options.push(DefaultNla::new(BURST, self.burst.to_ne_bytes().to_vec()));
        options.into_iter().map(TcOption::Other).collect()
    }
}

/// Limits what a device sends, whatever it has been limited to before.
pub(super) fn limit(batch: &mut Batch, name: &str, ifindex: u32, bucket: &TokenBucket) {
    let mut message = root(ifindex);
    message.header.handle = TcHandle {
        major: HANDLE,
        minor: 0,
    };
    message.attributes = vec![
        TcAttribute::Kind(KIND.to_owned()),
        TcAttribute::Options(bucket.options()),
    ];
    batch.replace(
        format!("limit what {name} sends to {bucket}: has the kernel sch_tbf?"),
        Message::NewQueueDiscipline(message),
    );
}

/// Limits what a device of the calling thread's namespace sends.
///
/// # Errors
/// When the kernel refuses.
pub fn set(
    rtnl: &mut Rtnl,
    name: &str,
    ifindex: u32,
    bucket: &TokenBucket,
) -> Result<(), RtnlError> {
    let mut batch = Batch::new();
    limit(&mut batch, name, ifindex, bucket);
    rtnl.run(batch).map(drop)
}

/// What these devices are limited to by us; none where they are not.
///
/// All disciplines are listed, for the kernel tells of a single one by telling everybody who listens.
///
/// # Errors
/// When the kernel refuses.
pub fn present(rtnl: &mut Rtnl, devices: &[u32]) -> Result<Vec<Option<Present>>, RtnlError> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let all = Message::GetQueueDiscipline(TcMessage::default());
    let all = rtnl.dump("list queueing disciplines", all)?.into_iter();
    let limits: HashMap<u32, Present> = all.filter_map(read).collect();
    Ok(devices.iter().map(|d| limits.get(d).copied()).collect())
}

/// What this kernel has against token buckets; none if it has them, or if nobody can try.
///
/// It is tried on the loopback of a network namespace that ends with the thread for which it is made.
#[must_use]
pub fn refusal() -> Option<String> {
    const LOOPBACK: u32 = 1;
    const BUCKET: TokenBucket = TokenBucket {
        rate: 1 << 20,
        burst: 1 << 16,
    };
    let attempt = || {
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        let error = set(&mut Rtnl::open().ok()?, "lo", LOOPBACK, &BUCKET).err()?;
        is_unknown(&error)
            .then(|| "the kernel does not know the queueing discipline tbf".to_owned())
    };
    let thread = std::thread::Builder::new().name("netns".into());
    thread.spawn(attempt).ok()?.join().ok()?
}

/// Whether the kernel has refused a discipline because it has none of that name (`net/sched/sch_api.c`, `qdisc_create`).
fn is_unknown(error: &RtnlError) -> bool {
    error.errno() == Some(Errno::ENOENT as i32)
}

fn root(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.try_into().unwrap_or(i32::MAX));
    message.header.parent = TcHandle::ROOT;
    message
}

/// A device, and what it is limited to by us.
fn read(answer: Message) -> Option<(u32, Present)> {
    let Message::NewQueueDiscipline(discipline) = answer else {
        return None;
    };
    let header = &discipline.header;
    if header.handle.major != HANDLE || header.parent != TcHandle::ROOT {
        return None;
    }
    let options = discipline.attributes.iter().find_map(|a| match a {
        TcAttribute::Options(options) => options.first(),
        _ => None,
    });
    let TcOption::Other(options) = options? else {
        return None;
    };
    let mut bytes = vec![0; options.value_len()];
    options.emit_value(&mut bytes);
    let parms = attribute(&bytes, PARMS)?;
    let rate = match attribute(&bytes, RATE64) {
        Some(rate) => u64::from_ne_bytes(rate.get(..8)?.try_into().ok()?),
        None => u64::from(word(parms, RATE_AT)?),
    };
    let queue = word(parms, LIMIT_AT)?;
    let ifindex = u32::try_from(discipline.header.index).ok()?;
    Some((ifindex, Present { rate, queue }))
}

/// The value of an attribute among nested ones.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    const HEADER: usize = 4;
    loop {
        let number = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let (length, kind) = (usize::from(number(0)?), number(2)?);
        if kind == wanted {
            return bytes.get(HEADER..length);
        }
        bytes = bytes.get(length.max(HEADER).next_multiple_of(HEADER)..)?;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::fixture::on_a_node;

    const ODD: [TokenBucket; 5] = [
        TokenBucket {
            rate: 1,
            burst: 1500,
        },
        TokenBucket {
            rate: 125_000,
            burst: 2_147_483_647 / 8,
        },
        TokenBucket {
            rate: u32::MAX as u64,
            burst: u32::MAX,
        },
        TokenBucket {
            rate: u32::MAX as u64 + 1,
            burst: 65_536,
        },
        TokenBucket {
            rate: u64::MAX / 8,
            burst: u32::MAX,
        },
    ];

    /// The kernel takes every bucket, tells of it, and lets it be changed.
    #[test]
    fn what_is_set_is_there() {
        on_a_node(&[], async || {
            let mut rtnl = Rtnl::open().unwrap();
            let loopback = 1;
            assert_eq!(present(&mut rtnl, &[loopback]).unwrap(), [None]);
            for bucket in ODD {
                set(&mut rtnl, "lo", loopback, &bucket).unwrap();
                let there = present(&mut rtnl, &[loopback, 4711]).unwrap();
                assert!(bucket.is(there[0]), "{bucket} is {:?}", there[0]);
                assert_eq!(there[1], None, "no such device");
                let other = TokenBucket {
                    rate: bucket.rate ^ 2,
                    ..bucket
                };
                assert!(!other.is(there[0]));
                let other = TokenBucket {
                    burst: bucket.burst ^ 2,
                    ..bucket
                };
                assert!(!other.is(there[0]) || bucket.queue() == u32::MAX);
            }
        });
    }

    #[test]
    fn only_an_unknown_discipline_is_a_missing_one() {
        let refused = |errno: Errno| RtnlError::Refused {
            what: String::new(),
            source: errno.into(),
        };
        assert!(is_unknown(&refused(Errno::ENOENT)));
        assert!(!is_unknown(&refused(Errno::EPERM)));
        assert!(!is_unknown(&RtnlError::Answer(String::new())));
        // The tests' machines have it.
        assert_eq!(refusal(), None);
    }
}
