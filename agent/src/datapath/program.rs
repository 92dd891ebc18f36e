//! The programs by name and hook.

use aya::programs::TcAttachType;

/// A program that is attached to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// TC ingress on the host side of each pod's veth.
    FromPod,
    /// TC egress on the host side of each pod's veth.
    ToPod,
    /// TC ingress on the uplink.
    FromUplink,
    /// TC ingress on the overlay device.
    FromOverlay,
    /// TC egress on the overlay device.
    ToOverlay,
    /// XDP on the uplink.
    XdpUplink,
}

/// The side of a device that a program is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the device receives.
    Ingress,
    /// What the device sends.
    Egress,
}

impl Program {
    /// Every program.
    pub const ALL: [Self; 6] = [
        Self::FromPod,
        Self::ToPod,
        Self::FromUplink,
        Self::FromOverlay,
        Self::ToOverlay,
        Self::XdpUplink,
    ];

    /// The name in the object, in `bpftool prog` and in pins.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::FromUplink => "from_uplink",
            Self::FromOverlay => "from_overlay",
            Self::ToOverlay => "to_overlay",
            Self::XdpUplink => "xdp_uplink",
        }
    }

    /// Where it is attached.
    #[must_use]
    pub const fn side(self) -> Side {
        match self {
            Self::FromPod | Self::FromUplink | Self::FromOverlay | Self::XdpUplink => Side::Ingress,
            Self::ToPod | Self::ToOverlay => Side::Egress,
        }
    }

    /// Whether it runs in the driver (XDP), before TC.
    #[must_use]
    pub const fn is_xdp(self) -> bool {
        matches!(self, Self::XdpUplink)
    }

    /// Whether it is loaded only where it is to be attached.
    #[must_use]
    pub const fn is_optional(self) -> bool {
        self.is_xdp()
    }

    /// The program of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|program| program.name() == name)
    }

    /// For a TC program.
    pub(super) const fn attach_type(self) -> TcAttachType {
        match self.side() {
            Side::Ingress => TcAttachType::Ingress,
            Side::Egress => TcAttachType::Egress,
        }
    }
}
