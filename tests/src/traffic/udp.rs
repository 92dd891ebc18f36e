//! UDP datagrams: there and back, larger than the path's MTU, and cut by the kernel (`UDP_SEGMENT`).

use std::net::{IpAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use super::{End, pattern};

/// Sends datagrams of a size there and back, one by one, and returns the source address that the
/// server saw.
///
/// # Errors
///
/// If one does not arrive, or differs.
pub fn exchange(client: End<'_>, server: End<'_>, size: usize, count: usize) -> Result<IpAddr> {
    let near = client.udp()?;
    let far = server.udp()?;
    let data: Vec<u8> = (0..size).map(pattern).collect();
    let mut buffer = vec![0; size + 1];
    let mut source = None;
    for number in 0..count {
        let lost =
            |direction| format!("datagram {number} of {size} bytes to the {direction} is lost");
        near.send_to(&data, far.local_addr()?)?;
        let (length, peer) = far.recv_from(&mut buffer).with_context(|| lost("server"))?;
        ensure!(
            buffer[..length] == data,
            "datagram {number} differs at the server"
        );
        far.send_to(&data, peer)?;
        let (length, _) = near
            .recv_from(&mut buffer)
            .with_context(|| lost("client"))?;
        ensure!(
            buffer[..length] == data,
            "datagram {number} differs at the client"
        );
        source = Some(peer.ip());
    }
    source.context("no datagram was to be sent")
}

/// Sends one large buffer that the kernel cuts into datagrams as late as possible (UDP GSO), which is
/// how QUIC implementations send, and expects each datagram whole and in order.
///
/// # Errors
///
/// If one does not arrive, differs, or arrives in another order.
pub fn segmented(client: End<'_>, server: End<'_>, size: u16, count: usize) -> Result<()> {
    let near = client.udp()?;
    let far = server.udp()?;
    enlarge_receive_buffer(&far)?;
    setsockopt(&near, sockopt::UdpGsoSegment, &i32::from(size))
        .context("the kernel has no UDP_SEGMENT")?;
    let size = usize::from(size);
    let data: Vec<u8> = (0..size * count).map(pattern).collect();
    near.send_to(&data, far.local_addr()?)?;
    let mut buffer = vec![0; size + 1];
    for (number, wanted) in data.chunks(size).enumerate() {
        let (length, _) = far
            .recv_from(&mut buffer)
            .with_context(|| format!("segment {number} of {count} is lost"))?;
        ensure!(
            buffer[..length] == *wanted,
            "segment {number} of {count} differs"
        );
    }
    Ok(())
}

/// A receive buffer that outlasts a busy machine's scheduling.
pub(super) fn enlarge_receive_buffer(socket: &UdpSocket) -> Result<()> {
    const BYTES: usize = 8 << 20;
    setsockopt(socket, sockopt::RcvBufForce, &BYTES).context("cannot enlarge a receive buffer")
}
