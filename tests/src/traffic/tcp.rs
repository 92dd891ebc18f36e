//! TCP transfers.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};

use anyhow::{Context, Result, ensure};

use super::{End, TIMEOUT, pattern};
use crate::wait::on_this_machine;

/// Sends bytes from one end to the other and back, checks each, and returns the source address that
/// the server saw.
///
/// # Errors
///
/// If the connection is not made, stalls for seconds, or a byte differs.
pub fn transfer(client: End<'_>, server: End<'_>, bytes: usize) -> Result<IpAddr> {
    let listener = server.listener()?;
    let mut near = client.connect((server.address, listener.local_addr()?.port()).into())?;
    let (mut far, peer) = listener.accept().context("no connection arrived")?;
    let limit = Some(on_this_machine(TIMEOUT));
    far.set_read_timeout(limit)?;
    far.set_write_timeout(limit)?;
    one_way(&mut near, &mut far, bytes).context("from client to server")?;
    one_way(&mut far, &mut near, bytes).context("from server to client")?;
    Ok(peer.ip())
}

fn one_way(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) -> Result<()> {
    // Before anybody waits for it: on an emulated processor it takes longer than a packet may.
    let data: Vec<u8> = (0..bytes).map(pattern).collect();
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || send(from, &data));
        receive(to, bytes)?;
        sender
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn send(stream: &mut TcpStream, data: &[u8]) -> Result<()> {
    stream.write_all(data).context("sending stalled")?;
    stream.shutdown(Shutdown::Write)?;
    Ok(())
}

fn receive(stream: &mut TcpStream, bytes: usize) -> Result<()> {
    let mut data = Vec::with_capacity(bytes);
    let read = stream.read_to_end(&mut data);
    read.with_context(|| format!("receiving stalled after {} of {bytes} bytes", data.len()))?;
    ensure!(
        data.len() == bytes,
        "{} of {bytes} bytes arrived",
        data.len()
    );
    let wrong = data
        .iter()
        .enumerate()
        .find(|(index, byte)| **byte != pattern(*index));
    ensure!(wrong.is_none(), "byte {wrong:?} differs");
    Ok(())
}
