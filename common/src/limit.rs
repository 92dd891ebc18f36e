//! A limit for answers, so that nobody can make a node busy with them: a token bucket in one number
//! (the generic cell rate algorithm of ITU-T I.371).

/// Answers per second to one pod, from each CPU, in the long run (RFC 4443, section 2.4 (f)).
pub const ANSWERS_PER_SECOND: u64 = 100;

/// Answers at once: one for each destination of a pod whose way has become narrower.
pub const ANSWERS_AT_ONCE: u64 = 50;

/// Buckets of the map `ANSWERS`, a power of two. Pods that share one share its limit.
pub const ANSWER_BUCKETS: u32 = 256;

/// Nanoseconds between two answers in the long run.
const INTERVAL: u64 = 1_000_000_000 / ANSWERS_PER_SECOND;

/// Whether one more answer is allowed `now`, in nanoseconds of a clock that does not go back.
///
/// `full` is when the bucket will be full again; it begins as 0.
#[inline(always)]
pub fn allow(full: &mut u64, now: u64) -> bool {
    let from = if *full > now { *full } else { now };
    if from - now > (ANSWERS_AT_ONCE - 1) * INTERVAL {
        return false;
    }
    *full = from + INTERVAL;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut full = 0;
        let start = 5_000_000_000;
        let burst = (0..1000).filter(|_| allow(&mut full, start)).count();
        assert_eq!(burst as u64, ANSWERS_AT_ONCE);
        let allowed = |full: &mut u64, from: u64, to: u64| {
            (from..to)
                .step_by(1_000_000)
                .filter(|now| allow(full, *now))
                .count() as u64
        };
        let second = 1_000_000_000;
        let next = allowed(&mut full, start + 1, start + second);
        assert!(next.abs_diff(ANSWERS_PER_SECOND) <= 1, "{next}");
        let later = start + 100 * second;
        let rested = (0..1000).filter(|_| allow(&mut full, later)).count();
        assert_eq!(rested as u64, ANSWERS_AT_ONCE);
    }
}
