//! A stream of numbered datagrams, to count what is lost, doubled or reordered meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::udp::enlarge_receive_buffer;
use super::{End, UdpSocket};
use crate::wait::{SOON, until_true};

/// Silence after which the rest counts as lost.
const QUIET: Duration = Duration::from_millis(500);

/// A running stream.
#[derive(Debug)]
pub struct UdpStream {
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    sender: JoinHandle<Sent>,
    receiver: JoinHandle<Vec<u64>>,
}

#[derive(Debug, Default)]
struct Sent {
    datagrams: u64,
    refused: u64,
}

/// What became of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Datagrams that the kernel refused to send.
    pub refused: u64,
    /// Numbers of those that did not arrive.
    pub lost: Vec<u64>,
    /// How many arrived more than once.
    pub doubled: u64,
    /// How many arrived after one with a higher number.
    pub reordered: u64,
}

impl Report {
    fn new(sent: &Sent, received: &[u64]) -> Self {
        let mut report = Self {
            sent: sent.datagrams,
            refused: sent.refused,
            ..Self::default()
        };
        let mut seen = std::collections::HashSet::new();
        let mut highest = 0;
        for number in received {
            if !seen.insert(*number) {
                report.doubled += 1;
            } else if *number < highest {
                report.reordered += 1;
            }
            highest = highest.max(*number);
        }
        report.lost = (0..sent.datagrams)
            .filter(|number| !seen.contains(number))
            .collect();
        report
    }

    /// Fails unless every datagram arrived once and in order, and there were at least `least`.
    ///
    /// # Errors
    ///
    /// Says what is wrong.
    pub fn expect_perfect(&self, least: u64) -> Result<()> {
        ensure!(self.sent >= least, "only {} datagrams were sent", self.sent);
        let perfect = Self {
            sent: self.sent,
            ..Self::default()
        };
        ensure!(*self == perfect, "the stream suffered: {self:?}");
        Ok(())
    }
}

impl UdpStream {
    /// Starts sending a datagram every `interval`, and returns when the first ones have arrived.
    ///
    /// # Errors
    ///
    /// If none arrives.
    pub fn start(client: End<'_>, server: End<'_>, interval: Duration) -> Result<Self> {
        let (near, far) = (client.udp()?, server.udp()?);
        enlarge_receive_buffer(&far)?;
        far.set_read_timeout(Some(QUIET))?;
        let to = (server.address, far.local_addr()?.port()).into();
        let stop = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(AtomicU64::new(0));
        let sender = std::thread::spawn({
            let stop = stop.clone();
            move || send(&near, to, interval, &stop)
        });
        let receiver = std::thread::spawn({
            let (stop, arrived) = (stop.clone(), arrived.clone());
            move || receive(&far, &stop, &arrived)
        });
        let stream = Self {
            stop,
            arrived,
            sender,
            receiver,
        };
        stream.wait_for_more(3)?;
        Ok(stream)
    }

    /// Waits until this many more datagrams have arrived.
    ///
    /// # Errors
    ///
    /// If they do not within some seconds.
    pub fn wait_for_more(&self, datagrams: u64) -> Result<()> {
        let wanted = self.arrived.load(Ordering::Relaxed) + datagrams;
        until_true(SOON, "datagrams of a stream", || {
            Ok(self.arrived.load(Ordering::Relaxed) >= wanted)
        })
    }

    /// Waits until this many datagrams have arrived since the start, however long that takes; fails when
    /// none come any more.
    ///
    /// # Errors
    ///
    /// If the stream has ended.
    pub fn wait_for_total(&self, datagrams: u64) -> Result<()> {
        while self.arrived.load(Ordering::Relaxed) < datagrams {
            self.wait_for_more(1)?;
        }
        Ok(())
    }

    /// Stops sending, waits for what is under way, and says what became of it all.
    ///
    /// # Errors
    ///
    /// If a thread panicked.
    pub fn finish(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().ok().context("the sender panicked")?;
        let received = self.receiver.join().ok().context("the receiver panicked")?;
        Ok(Report::new(&sent, &received))
    }
}

fn send(socket: &UdpSocket, to: SocketAddr, interval: Duration, stop: &AtomicBool) -> Sent {
    let mut sent = Sent::default();
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        match socket.send_to(&sent.datagrams.to_be_bytes(), to) {
            Ok(_) => sent.datagrams += 1,
            Err(_) => sent.refused += 1,
        }
        next += interval;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    sent
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, arrived: &AtomicU64) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut buffer = [0; 8];
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                numbers.push(u64::from_be_bytes(buffer));
                arrived.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) if stop.load(Ordering::Relaxed) => return numbers,
            // Silence while the sender still sends: a gap that the report will show.
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts() {
        let sent = Sent {
            datagrams: 6,
            refused: 1,
        };
        let report = Report::new(&sent, &[0, 2, 1, 2, 5]);
        let wanted = Report {
            sent: 6,
            refused: 1,
            lost: vec![3, 4],
            doubled: 1,
            reordered: 1,
        };
        assert_eq!(report, wanted);
        assert!(report.expect_perfect(1).is_err());
        assert!(
            Report::new(
                &Sent {
                    datagrams: 2,
                    refused: 0
                },
                &[0, 1]
            )
            .expect_perfect(2)
            .is_ok()
        );
    }
}
