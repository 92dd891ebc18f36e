//! UDP datagrams: there and back, larger than the path's MTU, and cut by the kernel (`UDP_SEGMENT`).

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use super::{End, UdpSocket, pattern};

/// Size of the datagrams of [`mixed`], bytes.
const MIXED_SIZE: u16 = 500;

/// Sends datagrams of a size there and back, one by one, and returns the source address that the
/// server saw.
///
/// # Errors
///
/// If one does not arrive, or differs.
pub fn exchange(client: End<'_>, server: End<'_>, size: usize, count: usize) -> Result<IpAddr> {
    let near = client.udp()?;
    let far = server.udp()?;
    let to = (server.address, far.local_addr()?.port());
    let data: Vec<u8> = (0..size).map(pattern).collect();
    let mut buffer = vec![0; size + 1];
    let mut source = None;
    for number in 0..count {
        let lost =
            |direction| format!("datagram {number} of {size} bytes to the {direction} is lost");
        near.send_to(&data, to)?;
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
    let to = (server.address, far.local_addr()?.port());
    enlarge_receive_buffer(&far)?;
    setsockopt(&near, sockopt::UdpGsoSegment, &i32::from(size))
        .context("the kernel has no UDP_SEGMENT")?;
    let size = usize::from(size);
    let data: Vec<u8> = (0..size * count).map(pattern).collect();
    near.send_to(&data, to)?;
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

/// The same for a receiver that takes datagrams as the kernel has put them together again (UDP GRO).
/// Returns how many the largest buffer had.
///
/// # Errors
///
/// If a byte does not arrive, differs, or arrives in another order.
pub fn coalesced(client: End<'_>, server: End<'_>, size: u16, count: usize) -> Result<usize> {
    let near = client.udp()?;
    let far = server.udp()?;
    enlarge_receive_buffer(&far)?;
    setsockopt(&far, sockopt::UdpGroSegment, &true).context("the kernel has no UDP_GRO")?;
    setsockopt(&near, sockopt::UdpGsoSegment, &i32::from(size))
        .context("the kernel has no UDP_SEGMENT")?;
    let size = usize::from(size);
    let data: Vec<u8> = (0..size * count).map(pattern).collect();
    near.send_to(&data, (server.address, far.local_addr()?.port()))?;
    let mut buffer = vec![0; 1 << 16];
    let (mut done, mut most) = (0, 0);
    while done < data.len() {
        let (length, _) = far
            .recv_from(&mut buffer)
            .with_context(|| format!("only {done} of {} bytes came", data.len()))?;
        ensure!(
            length % size == 0 && data[done..].starts_with(&buffer[..length]),
            "the {length} bytes after the first {done} differ"
        );
        done += length;
        most = most.max(length / size);
    }
    Ok(most)
}

/// Sends rounds of one aggregate and some single datagrams through one socket and expects them all in
/// the order in which they were sent.
///
/// # Errors
///
/// If one is lost or overtaken.
pub fn mixed(client: End<'_>, server: End<'_>, rounds: u32) -> Result<()> {
    const SEGMENTS: u32 = 8;
    const SINGLES: u32 = 3;
    let near = client.udp()?;
    let far = server.udp()?;
    let to = (server.address, far.local_addr()?.port());
    enlarge_receive_buffer(&far)?;
    let per_round = SEGMENTS + SINGLES;
    for round in 0..rounds {
        let first = round * per_round;
        setsockopt(&near, sockopt::UdpGsoSegment, &i32::from(MIXED_SIZE))?;
        near.send_to(&numbered(first..first + SEGMENTS), to)?;
        setsockopt(&near, sockopt::UdpGsoSegment, &0)?;
        for number in first + SEGMENTS..first + per_round {
            near.send_to(&numbered(number..number + 1), to)?;
        }
        // Slow enough for the queues of a busy machine.
        std::thread::sleep(std::time::Duration::from_micros(500));
    }
    let mut buffer = [0; 2048];
    for wanted in 0..rounds * per_round {
        far.recv(&mut buffer)
            .with_context(|| format!("datagram {wanted} is lost"))?;
        let number = u32::from_be_bytes(buffer[..4].try_into()?);
        ensure!(
            number == wanted,
            "datagram {number} came when {wanted} was due"
        );
    }
    Ok(())
}

/// Datagrams of [`MIXED_SIZE`] bytes that start with these numbers.
fn numbered(numbers: std::ops::Range<u32>) -> Vec<u8> {
    numbers
        .flat_map(|number| {
            let mut datagram = vec![0; usize::from(MIXED_SIZE)];
            datagram[..4].copy_from_slice(&number.to_be_bytes());
            datagram
        })
        .collect()
}

/// A receive buffer that outlasts a busy machine's scheduling.
pub(super) fn enlarge_receive_buffer(socket: &UdpSocket) -> Result<()> {
    const BYTES: usize = 8 << 20;
    setsockopt(socket, sockopt::RcvBufForce, &BYTES).context("cannot enlarge a receive buffer")
}
