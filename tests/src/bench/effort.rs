//! How much is measured.

/// How long and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// About a quarter of an hour.
    Full,
    /// Within two minutes: one round, so without a spread, and eight flows and packet rates only where a goal
    /// compares them.
    Quick,
    /// Seconds: proves that every part works, and its figures mean nothing.
    Smoke,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Packets from a client to a server, over each system.
    Paths,
    /// Each BPF program alone.
    Programs,
    /// The agent and the plugin.
    Control,
}

impl Group {
    /// All of them, in the order of the report.
    pub const ALL: &[Self] = &[Self::Paths, Self::Programs, Self::Control];

    /// Its name on the command line and in JSON.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Paths => "paths",
            Self::Programs => "programs",
            Self::Control => "control",
        }
    }

    /// The group with this name.
    #[must_use]
    pub fn by_key(key: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|group| group.key() == key)
    }

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Paths => "Packets between pods",
            Self::Programs => "Programs alone",
            Self::Control => "Control plane",
        }
    }
}

impl Effort {
    /// Its name in JSON.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Quick => "quick",
            Self::Smoke => "smoke",
        }
    }

    const fn pick<T: Copy>(self, [full, quick, smoke]: [T; 3]) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
            Self::Smoke => smoke,
        }
    }

    /// How often each system gets its turn.
    pub(super) const fn rounds(self) -> usize {
        self.pick([3, 1, 1])
    }

    /// Length of one measurement of packets, seconds; 0 is as short as possible.
    pub(super) const fn seconds(self) -> u32 {
        self.pick([2, 1, 0])
    }

    /// Connections of one measurement. Below the number of local ports, as each lingers for a minute.
    pub(super) const fn connections(self) -> u32 {
        self.pick([15_000, 2_000, 20])
    }

    /// Runs of a program in one batch.
    pub(super) const fn runs(self) -> usize {
        self.pick([20_000, 3_000, 128])
    }

    /// Frames of one measurement of XDP.
    pub(super) const fn frames(self) -> u32 {
        self.pick([4_000_000, 200_000, 1_000])
    }

    /// Pods that are added and deleted one by one in each round: in all rounds enough for a 99th percentile
    /// that is not the largest value.
    pub(super) const fn pods(self) -> usize {
        self.pick([100, 20, 2])
    }

    /// Rounds of the plugin and of restarts of the agent.
    pub(super) const fn control_rounds(self) -> usize {
        self.pick([3, 1, 1])
    }

    /// Pods that are added at once.
    pub(super) const fn at_once(self) -> usize {
        self.pick([100, 100, 4])
    }

    /// Changes of one node.
    pub(super) const fn changes(self) -> usize {
        self.pick([20, 10, 2])
    }

    /// Time in which the idle agent is watched, seconds.
    pub(super) const fn idle_seconds(self) -> u64 {
        self.pick([60, 3, 1])
    }

    /// Nodes of the large cluster.
    pub(super) const fn nodes(self) -> u16 {
        self.pick([5_000, 5_000, 50])
    }
}
