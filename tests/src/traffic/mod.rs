//! Traffic between namespaces, with every byte checked.
//!
//! A socket belongs to the namespace in which it was opened, so all of this runs in one process.

pub mod flows;
mod socket;
pub mod tcp;
pub mod udp;
pub mod udp_stream;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

pub use self::socket::UdpSocket;
use crate::netns::Netns;
use crate::wait::on_this_machine;

/// How long a packet may take before it counts as lost.
const TIMEOUT: Duration = Duration::from_secs(3);

/// One end of a conversation.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where its sockets are opened.
    pub netns: &'a Netns,
    /// The address it is reached at.
    pub address: IpAddr,
    /// The address of its sockets, which differs where somebody translates.
    pub local: IpAddr,
}

impl<'a> End<'a> {
    /// The end at an address of a namespace.
    pub fn new(netns: &'a Netns, address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        Self {
            netns,
            address,
            local: address,
        }
    }

    /// An end that is reached at another address than its own.
    #[must_use]
    pub fn reached_at(self, address: impl Into<IpAddr>) -> Self {
        Self {
            address: address.into(),
            ..self
        }
    }

    /// A UDP socket on a port that the kernel chooses.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub fn udp(&self) -> Result<UdpSocket> {
        self.netns.inside(|| {
            let socket = UdpSocket::bind((self.local, 0))
                .with_context(|| format!("cannot bind {}", self.local))?;
            socket.set_read_timeout(Some(on_this_machine(TIMEOUT)))?;
            Ok(socket)
        })
    }

    fn listener(&self) -> Result<std::net::TcpListener> {
        self.netns.inside(|| {
            std::net::TcpListener::bind((self.local, 0))
                .with_context(|| format!("cannot listen on {}", self.local))
        })
    }

    /// Connects from the address of its sockets.
    fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        let stream = connect_from(self.netns, (self.local, 0).into(), to)?;
        let limit = Some(on_this_machine(TIMEOUT));
        stream.set_read_timeout(limit)?;
        stream.set_write_timeout(limit)?;
        Ok(stream)
    }
}

/// Connects from a certain address and port, which may be in use by what is closed already.
///
/// # Errors
///
/// If it cannot be bound, or nobody answers.
pub fn connect_from(netns: &Netns, from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let family = if from.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    netns.inside(|| {
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        // It limits connecting, too.
        setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(3))?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from))
            .with_context(|| format!("cannot bind {from}"))?;
        // A second call waits for what the first one began.
        socket::undisturbed(|| {
            connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).map_err(io::Error::from)
        })
        .with_context(|| format!("cannot connect from {from} to {to}"))?;
        Ok(TcpStream::from(socket))
    })
}

/// Byte `index` of every transfer: a sequence without a short period, so that shifted, doubled and
/// swapped parts are noticed.
fn pattern(index: usize) -> u8 {
    let mixed = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[0]
}
