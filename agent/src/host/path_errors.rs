//! Hears of packets that were too large for a path: the ICMP errors by which path MTU discovery works
//! (RFC 1191, RFC 8201).
//!
//! The kernel learns from them by itself, once it has checked that they answer a packet of its own,
//! and tells nobody: there is no netlink message for it. A copy of each error arrives here, only as a hint to ask
//! the kernel again. What a forged one says is not believed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc::{IPPROTO_ICMPV6, SOL_RAW, c_int, socklen_t};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use tokio::net::UdpSocket as RawSocket;

/// `ICMP_FILTER` (include/uapi/linux/icmp.h): a set bit refuses the type with its number.
const ICMP_FILTER: c_int = 1;

/// `ICMPV6_FILTER` (include/uapi/linux/icmpv6.h): the same for 256 types.
const ICMPV6_FILTER: c_int = 1;

/// ICMP "destination unreachable" and its code "fragmentation needed and DF set" (RFC 792).
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;

/// ICMPv6 "packet too big" (RFC 4443, section 3.2).
const PACKET_TOO_BIG: u8 = 2;

/// The first bytes of an error are enough: an IPv4 header with options, ICMP, and the quoted packet's header.
const ENOUGH: usize = 256;

/// The ICMP errors that reach the network namespace in which this was made.
#[derive(Debug, Default)]
pub struct PathErrors {
    v4: Option<RawSocket>,
    v6: Option<RawSocket>,
}

impl PathErrors {
    /// Starts to listen. Needs a tokio runtime, and `CAP_NET_RAW`.
    ///
    /// # Errors
    /// When the system has no socket to give. A machine without IPv6 is none.
    pub fn open() -> io::Result<Self> {
        let v4 = raw(AddressFamily::Inet, SockProtocol::Icmp)?;
        set_option(&v4, SOL_RAW, ICMP_FILTER, &!(1u32 << UNREACHABLE))?;
        let v6 = match raw(AddressFamily::Inet6, SockProtocol::IcmpV6) {
            Ok(v6) => {
                let mut refused = [u32::MAX; 8];
                refused[0] &= !(1 << PACKET_TOO_BIG);
                set_option(&v6, IPPROTO_ICMPV6, ICMPV6_FILTER, &refused)?;
                Some(v6)
            }
            Err(Errno::EAFNOSUPPORT) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            v4: Some(pollable(v4)?),
            v6: v6.map(pollable).transpose()?,
        })
    }

    /// Waits for the next error, and returns where the packet that it quotes was going.
    pub async fn next(&self) -> IpAddr {
        let (mut v4, mut v6) = ([0; ENOUGH], [0; ENOUGH]);
        loop {
            let destination = tokio::select! {
                received = receive(self.v4.as_ref(), &mut v4) => quoted_v4(received),
                received = receive(self.v6.as_ref(), &mut v6) => quoted_v6(received),
            };
            if let Some(destination) = destination {
                return destination;
            }
        }
    }
}

/// What arrives; never anything where there is no socket.
async fn receive<'a>(socket: Option<&RawSocket>, buffer: &'a mut [u8]) -> &'a [u8] {
    let Some(socket) = socket else {
        return std::future::pending().await;
    };
    // An error of the socket is nothing that has arrived.
    let length = socket.recv(buffer).await.unwrap_or(0);
    buffer.get(..length).unwrap_or_default()
}

/// Destination of the packet that an ICMP message quotes, if it was too large. The IPv4 header comes first.
fn quoted_v4(message: &[u8]) -> Option<IpAddr> {
    let header = usize::from(message.first()? & 0x0f) * 4;
    let icmp = message.get(header..)?;
    let is_too_big = icmp.get(..2)? == [UNREACHABLE, FRAGMENTATION_NEEDED];
    let quote = icmp.get(8..)?;
    let address: &[u8; 4] = quote.get(16..)?.first_chunk()?;
    is_too_big.then(|| Ipv4Addr::from(*address).into())
}

/// The same of an ICMPv6 message, without the IPv6 header.
fn quoted_v6(message: &[u8]) -> Option<IpAddr> {
    let is_too_big = *message.first()? == PACKET_TOO_BIG;
    let quote = message.get(8..)?;
    let address: &[u8; 16] = quote.get(24..)?.first_chunk()?;
    is_too_big.then(|| Ipv6Addr::from(*address).into())
}

fn raw(family: AddressFamily, protocol: SockProtocol) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Raw, flags, protocol)
}

/// To the runtime one socket that receives datagrams is like another.
fn pollable(socket: OwnedFd) -> io::Result<RawSocket> {
    RawSocket::from_std(UdpSocket::from(socket))
}

fn set_option<T: bytemuck::Pod>(
    socket: &OwnedFd,
    level: c_int,
    option: c_int,
    value: &T,
) -> nix::Result<()> {
    let length = socklen_t::try_from(size_of::<T>()).map_err(|_| Errno::EINVAL)?;
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: the descriptor is open as long as `socket` is borrowed; the pointer and the length
    // are those of a value that is borrowed for the whole call, and the kernel only reads it.
    let result =
        unsafe { nix::libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, value, length) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn icmp(kind: u8, code: u8, quote: &[u8]) -> Vec<u8> {
        [&[kind, code, 0, 0, 0, 0, 5, 20][..], quote].concat()
    }

    #[test]
    fn the_quoted_destination_is_found() {
        let mut quote = [0; 28];
        quote[16..20].copy_from_slice(&[192, 168, 50, 2]);
        let message = |kind, code, header: &[u8]| [header, &icmp(kind, code, &quote)[..]].concat();
        let plain = [&[0x45][..], &[0; 19]].concat();
        let with_options = [&[0x46][..], &[0; 23]].concat();
        let peer = "192.168.50.2".parse::<IpAddr>().unwrap();
        assert_eq!(quoted_v4(&message(3, 4, &plain)), Some(peer));
        assert_eq!(quoted_v4(&message(3, 4, &with_options)), Some(peer));
        assert_eq!(quoted_v4(&message(3, 1, &plain)), None);
        assert_eq!(quoted_v4(&message(11, 4, &plain)), None);

        let peer: Ipv6Addr = "fd00:50::2".parse().unwrap();
        let mut quote = [0; 48];
        quote[24..40].copy_from_slice(&peer.octets());
        assert_eq!(quoted_v6(&icmp(2, 0, &quote)), Some(peer.into()));
        assert_eq!(quoted_v6(&icmp(1, 0, &quote)), None);
    }

    #[test]
    fn what_is_cut_short_says_nothing() {
        let v4 = [&[0x45][..], &[0; 19], &icmp(3, 4, &[0; 20])].concat();
        assert!(quoted_v4(&v4).is_some());
        assert!((0..v4.len()).all(|end| quoted_v4(&v4[..end]).is_none()));
        let v6 = icmp(2, 0, &[0; 40]);
        assert!(quoted_v6(&v6).is_some());
        assert!((0..v6.len()).all(|end| quoted_v6(&v6[..end]).is_none()));
    }
}
