//! A UDP socket that waits on when it is disturbed.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};

/// The standard library's, but for this: a process that is frozen and goes on, as virtual machines and control
/// groups do it, or a debugger, has its receiving calls end with EINTR if they have a time limit (`signal(7)`).
/// Nothing is lost by that.
#[derive(Debug)]
pub struct UdpSocket(std::net::UdpSocket);

impl UdpSocket {
    /// As [`std::net::UdpSocket::bind`].
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        std::net::UdpSocket::bind(address).map(Self)
    }

    /// As [`std::net::UdpSocket::recv`].
    ///
    /// # Errors
    ///
    /// If nothing comes in time, or an error was reported to the socket.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        undisturbed(|| self.0.recv(buffer))
    }

    /// As [`std::net::UdpSocket::recv_from`].
    ///
    /// # Errors
    ///
    /// If nothing comes in time, or an error was reported to the socket.
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        undisturbed(|| self.0.recv_from(buffer))
    }
}

/// Calls again after what was no answer.
pub(super) fn undisturbed<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}

impl Deref for UdpSocket {
    type Target = std::net::UdpSocket;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_is_no_answer() {
        let mut answers = vec![
            Ok(5),
            Err(ErrorKind::Interrupted.into()),
            Err(ErrorKind::Interrupted.into()),
        ];
        let answer = undisturbed(|| answers.pop().unwrap_or(Ok(0)));
        assert_eq!(answer.unwrap(), 5);
        let refused = undisturbed(|| Err::<(), _>(ErrorKind::ConnectionRefused.into()));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}
