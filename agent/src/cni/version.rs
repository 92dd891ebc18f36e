//! Versions of the specification.

use std::fmt;
use std::str::FromStr;

/// A version of the specification that Oxlan speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK, prevResult for DEL.
    V0_4_0,
    /// 1.0.0: no `version` in a result's ips.
    V1_0_0,
    /// 1.1.0: GC, STATUS, `mtu` in a result's interfaces.
    V1_1_0,
}

/// A version that Oxlan does not speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVersion;

impl Version {
    /// All of them, oldest first.
    pub const ALL: &[Self] = &[Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As it stands in `cniVersion`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// All names, for `supportedVersions`.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl FromStr for Version {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        let found = Self::ALL.iter().find(|v| v.name() == text);
        found.copied().ok_or(UnknownVersion)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
