//! Traffic between namespaces, with every byte checked.
//!
//! A socket belongs to the namespace in which it was opened, so all of this runs in one process.

pub mod flows;
pub mod tcp;
pub mod udp;
pub mod udp_stream;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;

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
    pub fn udp(&self) -> Result<std::net::UdpSocket> {
        self.netns.inside(|| {
            let socket = std::net::UdpSocket::bind((self.local, 0))
                .with_context(|| format!("cannot bind {}", self.local))?;
            socket.set_read_timeout(Some(TIMEOUT))?;
            Ok(socket)
        })
    }

    fn listener(&self) -> Result<std::net::TcpListener> {
        self.netns.inside(|| {
            std::net::TcpListener::bind((self.local, 0))
                .with_context(|| format!("cannot listen on {}", self.local))
        })
    }

    /// Connects from here; the kernel chooses the source address.
    fn connect(&self, to: SocketAddr) -> Result<std::net::TcpStream> {
        self.netns.inside(|| {
            let stream = std::net::TcpStream::connect_timeout(&to, TIMEOUT)
                .with_context(|| format!("cannot connect to {to}"))?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(stream)
        })
    }
}

/// Byte `index` of every transfer: a sequence without a short period, so that shifted, doubled and
/// swapped parts are noticed.
fn pattern(index: usize) -> u8 {
    let mixed = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[0]
}
