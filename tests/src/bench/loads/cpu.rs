//! CPU time of the whole machine, from /proc/stat.

use anyhow::{Context, Result};

/// `USER_HZ`: ticks per second in /proc (proc(5)), the same on every architecture that Oxlan runs on.
const TICKS: f64 = 100.0;

/// Runs `work`; returns what it returned and the seconds for which the machine's CPUs were busy meanwhile.
pub(super) fn busy<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let before = busy_seconds()?;
    let done = work()?;
    Ok((done, busy_seconds()? - before))
}

fn busy_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    busy_in(&text).context("/proc/stat has no line `cpu`")
}

/// Everything but idle, waiting for disks, and what other virtual machines took.
fn busy_in(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<f64> = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields.as_slice() else {
        return None;
    };
    Some((user + nice + system + irq + softirq) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_does_not_count() {
        let text = "cpu  100 10 20 5000 77 3 7 99 0 0\ncpu0 1 2 3\n";
        assert_eq!(busy_in(text), Some(1.4));
        assert_eq!(busy_in("intr 1"), None);
    }
}
