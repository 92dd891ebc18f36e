//! What this machine or its network may lack without anything being wrong with Oxlan, so that who says so may
//! skip what needs it. Every other error stays one.

use std::fmt;

use anyhow::Error;

/// The context of an error that only says that something cannot be had here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The machine has another processor.
    Architecture,
    /// The emulator cannot be installed.
    Emulator,
    /// A server cannot be reached, or does not have what it should.
    Download,
}

impl Lack {
    /// What an error is about, if it is about a lack.
    pub(crate) fn of(error: &Error) -> Option<Self> {
        error.downcast_ref().copied()
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Architecture => "not on this processor",
            Self::Emulator => "the emulator cannot be installed",
            Self::Download => "it cannot be downloaded",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn only_a_lack_is_one() {
        let download = Err::<(), _>(anyhow!("`apt-get update` failed")).context(Lack::Download);
        let wrapped = download.context("the kernel of bookworm cannot be had");
        let error = wrapped.unwrap_err();
        assert_eq!(Lack::of(&error), Some(Lack::Download));
        assert_eq!(
            format!("{error:#}"),
            "the kernel of bookworm cannot be had: it cannot be downloaded: `apt-get update` failed"
        );
        assert_eq!(Lack::of(&anyhow!("no space left on device")), None);
        let wrapped = anyhow!("broken archive").context("the kernel of bookworm cannot be had");
        assert_eq!(Lack::of(&wrapped), None);
    }
}
