//! Many UDP flows at once, as the network spreads them over several ways.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::udp::enlarge_receive_buffer;
use super::{End, UdpSocket};

/// Length of a datagram.
const LENGTH: usize = 33;

/// Sockets of one end, each of which talks to the one of the other end.
#[derive(Debug)]
pub struct Flows {
    senders: Vec<UdpSocket>,
    receiver: UdpSocket,
    sent: u32,
}

impl Flows {
    /// Opens this many flows.
    ///
    /// # Errors
    ///
    /// If a socket cannot be opened.
    pub fn open(client: End<'_>, server: End<'_>, count: usize) -> Result<Self> {
        let receiver = server.udp()?;
        enlarge_receive_buffer(&receiver)?;
        let to = (server.address, receiver.local_addr()?.port());
        let senders = (0..count)
            .map(|_| client.udp())
            .collect::<Result<Vec<_>>>()?;
        for sender in &senders {
            sender.connect(to)?;
        }
        Ok(Self {
            senders,
            receiver,
            sent: 0,
        })
    }

    /// Sends datagrams by each flow, and expects them all, those of a flow in order.
    ///
    /// # Errors
    ///
    /// If one is lost, doubled or overtaken.
    pub fn send(&mut self, datagrams: u32) -> Result<()> {
        for _ in 0..datagrams {
            let mut datagram = [0; LENGTH];
            datagram[..4].copy_from_slice(&self.sent.to_be_bytes());
            for sender in &self.senders {
                sender.send(&datagram)?;
            }
            self.sent += 1;
        }
        let first = self.sent - datagrams;
        let mut next = BTreeMap::new();
        for sender in &self.senders {
            next.insert(sender.local_addr()?.port(), first);
        }
        let mut buffer = [0; LENGTH + 1];
        for _ in 0..self.senders.len() * usize::try_from(datagrams)? {
            let (_, from) = self.receiver.recv_from(&mut buffer).with_context(|| {
                let missing: Vec<_> = next.iter().filter(|(_, n)| **n < self.sent).collect();
                format!("lost, flows by port and what was expected next: {missing:?}")
            })?;
            let number = u32::from_be_bytes(buffer[..4].try_into()?);
            let due = next
                .get_mut(&from.port())
                .context("a stranger's datagram")?;
            ensure!(
                number == *due,
                "datagram {number} of the flow from {from} came when {due} was due"
            );
            *due += 1;
        }
        Ok(())
    }

    /// The port that all are sent to.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be asked.
    pub fn to(&self) -> Result<u16> {
        Ok(self.receiver.local_addr()?.port())
    }

    /// The source ports.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be asked.
    pub fn ports(&self) -> Result<Vec<u16>> {
        let port = |sender: &UdpSocket| Ok(sender.local_addr()?.port());
        self.senders.iter().map(port).collect()
    }
}
