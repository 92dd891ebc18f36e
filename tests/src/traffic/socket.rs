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
    use std::os::unix::thread::JoinHandleExt as _;
    use std::time::Duration;

    use nix::sys::pthread::pthread_kill;
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    use super::*;
    use crate::wait::{SOON, until_true};

    extern "C" fn nothing(_: i32) {}

    #[test]
    fn a_signal_is_no_answer() {
        let action = SigAction::new(
            SigHandler::Handler(nothing),
            SaFlags::SA_RESTART,
            SigSet::empty(),
        );
        // SAFETY: the handler does nothing, and no other test uses this signal.
        unsafe { sigaction(Signal::SIGUSR2, &action) }.unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let to = socket.local_addr().unwrap();
        let receiver = std::thread::spawn(move || socket.recv(&mut [0; 10]));
        // Whenever it receives, it is disturbed.
        for _ in 0..20 {
            pthread_kill(receiver.as_pthread_t(), Signal::SIGUSR2).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"hello", to).unwrap();
        until_true(SOON, "the receiver", || Ok(receiver.is_finished())).unwrap();
        assert_eq!(receiver.join().unwrap().unwrap(), 5);
    }
}
