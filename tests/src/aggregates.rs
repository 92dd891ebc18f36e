//! How large a device's aggregates may be, set by netlink because older versions of `ip` do not know all of it.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use crate::netns::Netns;

/// A family whose aggregates may go beyond 64 KiB (BIG TCP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4: the length in the header is 0 then.
    Ipv4,
    /// IPv6: with a hop-by-hop header, or with the length 0.
    Ipv6,
}

impl Family {
    /// Since which commit the kernel has it.
    #[must_use]
    pub const fn commit(self) -> &'static str {
        match self {
            Self::Ipv4 => {
                "commit 9eefedd58ae1 (\"net: add gso_ipv4_max_size and gro_ipv4_max_size per device\")"
            }
            Self::Ipv6 => {
                "commit 80e425b61342 (\"ipv6: Add hop-by-hop header to jumbograms in ip6_output\")"
            }
        }
    }

    /// `IFLA_GSO_MAX_SIZE` and `IFLA_GRO_MAX_SIZE`, or the same for IPv4 (include/uapi/linux/if_link.h).
    const fn attributes(self) -> [u16; 2] {
        match self {
            Self::Ipv4 => [63, 64],
            Self::Ipv6 => [41, 58],
        }
    }
}

/// Sets how many bytes an aggregate of a family may have that the device sends, and one that it receives.
///
/// # Errors
///
/// If there is no such device, or the kernel refuses.
pub fn set_aggregate_size(netns: &Netns, device: &str, family: Family, size: u32) -> Result<()> {
    let index = netns.ifindex(device)?;
    let request = request(index, family.attributes().map(|kind| (kind, size)));
    let answer = netns.inside(|| ask(&request))?;
    // `struct nlmsgerr` behind the header.
    let error = answer.get(16..20).context("a short answer")?;
    let error = i32::from_ne_bytes(error.try_into()?);
    ensure!(
        error == 0,
        "cannot set the size of {family:?} aggregates of {device} to {size}: {}",
        Errno::from_raw(-error)
    );
    Ok(())
}

/// `RTM_NEWLINK` for a device that there is (include/uapi/linux/rtnetlink.h).
fn request(index: u32, attributes: [(u16, u32); 2]) -> Vec<u8> {
    const RTM_NEWLINK: u16 = 16;
    /// `NLM_F_REQUEST | NLM_F_ACK`.
    const FLAGS: u16 = 1 | 4;
    let mut bytes = Vec::new();
    bytes.extend(48_u32.to_ne_bytes());
    bytes.extend(RTM_NEWLINK.to_ne_bytes());
    bytes.extend(FLAGS.to_ne_bytes());
    bytes.extend([0; 8]);
    // `struct ifinfomsg`: family, type, index, flags, changed flags.
    bytes.extend([0; 4]);
    bytes.extend(index.to_ne_bytes());
    bytes.extend([0; 8]);
    for (kind, value) in attributes {
        bytes.extend(8_u16.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
    }
    bytes
}

fn ask(request: &[u8]) -> Result<Vec<u8>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    send(socket.as_raw_fd(), request, MsgFlags::empty())?;
    let mut answer = vec![0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    Ok(answer)
}
