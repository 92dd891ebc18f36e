//! What is measured, and all values.

/// Something that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    PathLength,
    RoundTrip,
    Stream,
    Streams,
    StreamCpu,
    PacketRate,
    PacketCpu,
    ConnectRate,
    ProgramTime,
    CallTime,
    LiveFrames,
    Add,
    Delete,
    AddAtOnce,
    DeleteAtOnce,
    Start,
    Load,
    Change,
    Converge,
    Event,
    Memory,
    IdleCpu,
    IdleWakeups,
}

/// Name and unit of a measure.
pub(super) struct About {
    /// In JSON and in names of plots.
    pub(super) key: &'static str,
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    /// Digits behind the point.
    pub(super) digits: usize,
    pub(super) less_is_better: bool,
}

impl Measure {
    pub(super) const ALL: &[Self] = &[
        Self::PathLength,
        Self::RoundTrip,
        Self::Stream,
        Self::Streams,
        Self::StreamCpu,
        Self::PacketRate,
        Self::PacketCpu,
        Self::ConnectRate,
        Self::ProgramTime,
        Self::CallTime,
        Self::LiveFrames,
        Self::Add,
        Self::Delete,
        Self::AddAtOnce,
        Self::DeleteAtOnce,
        Self::Start,
        Self::Load,
        Self::Change,
        Self::Converge,
        Self::Event,
        Self::Memory,
        Self::IdleCpu,
        Self::IdleWakeups,
    ];

    pub(super) const fn about(self) -> About {
        match self {
            Self::PathLength => About::less(
                "path_length",
                "TCP request/response 64 B, one way p50, all on one CPU",
                "us",
                2,
            ),
            Self::RoundTrip => About::less(
                "request_response",
                "TCP request/response 64 B, one way p50, all CPUs",
                "us",
                2,
            ),
            Self::Stream => About::more("tcp_stream", "TCP stream, one flow", "Gbit/s", 1),
            Self::Streams => About::more("tcp_streams", "TCP stream, eight flows", "Gbit/s", 1),
            Self::StreamCpu => About::less(
                "cpu_per_gb",
                "CPU time per GB of one TCP flow, both ends",
                "s",
                3,
            ),
            Self::PacketRate => About::more("udp_64b", "UDP 64 B packets that arrive", "kpps", 0),
            Self::PacketCpu => About::less(
                "cpu_per_mpkt",
                "CPU time per million UDP packets that arrive, both ends",
                "s",
                2,
            ),
            Self::ConnectRate => About::more(
                "connect_rate",
                "TCP connect, request, response, one after the other",
                "1/s",
                0,
            ),
            Self::ProgramTime => {
                About::less("program_time", "time of a program per packet", "ns", 0)
            }
            Self::CallTime => About::less("call_time", "time of one helper of the kernel", "ns", 0),
            Self::LiveFrames => About::more(
                "xdp_live_frames",
                "XDP with live frames, one core",
                "kpps",
                0,
            ),
            Self::Add => About::less("cni_add", "CNI ADD", "ms", 1),
            Self::Delete => About::less("cni_del", "CNI DEL", "ms", 1),
            Self::AddAtOnce => About::less(
                "cni_add_at_once",
                "CNI ADD of many pods at once, until the last",
                "ms",
                0,
            ),
            Self::DeleteAtOnce => About::less(
                "cni_del_at_once",
                "CNI DEL of many pods at once, until the last",
                "ms",
                0,
            ),
            Self::Start => About::less(
                "start",
                "start of the agent's process until a pod's packet is on the wire",
                "ms",
                0,
            ),
            Self::Load => About::less(
                "load",
                "growth of the cluster file from 2 nodes until all are in the map",
                "ms",
                0,
            ),
            Self::Change => About::less(
                "change",
                "change of one node in the cluster file until it is in the map",
                "ms",
                1,
            ),
            Self::Converge => About::less(
                "kube_converge",
                "last page of the list of Nodes until all are in the map",
                "ms",
                0,
            ),
            Self::Event => About::less(
                "kube_event",
                "event about one Node until it is in the map",
                "ms",
                1,
            ),
            Self::Memory => About::less("memory", "resident memory of the agent", "MiB", 1),
            Self::IdleCpu => About::less("idle_cpu", "CPU time of the idle agent", "ms/min", 2),
            Self::IdleWakeups => About::less(
                "idle_wakeups",
                "times that the idle agent wakes up",
                "1/min",
                0,
            ),
        }
    }

    pub(super) fn shown(self, value: f64) -> String {
        format!("{value:.*}", self.about().digits)
    }
}

impl About {
    const fn less(
        key: &'static str,
        title: &'static str,
        unit: &'static str,
        digits: usize,
    ) -> Self {
        Self {
            key,
            title,
            unit,
            digits,
            less_is_better: true,
        }
    }

    const fn more(
        key: &'static str,
        title: &'static str,
        unit: &'static str,
        digits: usize,
    ) -> Self {
        Self {
            key,
            title,
            unit,
            digits,
            less_is_better: false,
        }
    }
}

/// All values, by what was measured of what, in the order in which they came first.
#[derive(Debug, Default)]
pub(super) struct Figures {
    entries: Vec<Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) measure: Measure,
    /// A system, or a branch of a program at a size.
    pub(super) subject: String,
    pub(super) values: Vec<f64>,
}

impl Figures {
    pub(super) fn add(&mut self, measure: Measure, subject: &str, value: f64) {
        let known = self
            .entries
            .iter_mut()
            .find(|entry| entry.measure == measure && entry.subject == subject);
        match known {
            Some(entry) => entry.values.push(value),
            None => self.entries.push(Entry {
                measure,
                subject: subject.to_owned(),
                values: vec![value],
            }),
        }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn spread(&self, measure: Measure, subject: &str) -> Option<Spread> {
        let mut entries = self.entries.iter();
        let entry = entries.find(|e| e.measure == measure && e.subject == subject)?;
        Spread::of(&entry.values)
    }

    pub(super) fn median(&self, measure: Measure, subject: &str) -> Option<f64> {
        self.spread(measure, subject).map(|spread| spread.median)
    }

    /// The median of one subject as a multiple of another's.
    pub(super) fn ratio(&self, measure: Measure, subject: &str, to: &str) -> Option<f64> {
        Some(self.median(measure, subject)? / self.median(measure, to)?)
    }
}

/// Several values of the same thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// The 99th percentile.
    pub(super) p99: f64,
}

impl Spread {
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            *sorted.get(middle)?
        } else {
            f64::midpoint(*sorted.get(middle.checked_sub(1)?)?, *sorted.get(middle)?)
        };
        let last_percent = sorted.len().div_ceil(100);
        Some(Self {
            median,
            min: *sorted.first()?,
            max: *sorted.last()?,
            p99: *sorted.get(sorted.len() - last_percent)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(Spread::of(&[]), None);
        let even = Spread::of(&[1.0, 2.0]).unwrap();
        assert!((even.median - 1.5).abs() < f64::EPSILON);
        let many: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let many = Spread::of(&many).unwrap();
        assert_eq!((many.min, many.p99, many.max), (1.0, 199.0, 200.0));
        assert_eq!(Spread::of(&[7.0]).unwrap().p99, 7.0);
    }

    #[test]
    fn ratios_are_of_medians() {
        let mut figures = Figures::default();
        for (subject, value) in [
            ("a", 2.0),
            ("b", 3.0),
            ("a", 4.0),
            ("b", 9.0),
            ("a", 6.0),
            ("b", 6.0),
        ] {
            figures.add(Measure::Stream, subject, value);
        }
        assert_eq!(figures.ratio(Measure::Stream, "b", "a"), Some(1.5));
        assert_eq!(figures.ratio(Measure::Streams, "b", "a"), None);
        assert_eq!(figures.entries().len(), 2);
    }
}
