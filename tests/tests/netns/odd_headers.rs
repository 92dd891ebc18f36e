//! Headers between the IP header and the payload that a fast path must step over.

use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto,
    socket,
};
use oxlan_common::packet::checksum;
use oxlan_tests::cluster::{Shape, with_cluster};
use oxlan_tests::packet::{self, UDP};
use oxlan_tests::pod::Pod;
use oxlan_tests::traffic::End;

/// IPv4 options (RFC 791, section 3.1): nothing, and an empty record of the route; padded to a word.
const OPTIONS: [&[u8]; 3] = [
    &[1, 1, 1, 1],
    &[148, 4, 0, 0],
    &[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0],
];

/// IPv6 extension headers (RFC 8200, section 4) but for the number of the next one: hop-by-hop
/// options, destination options; each is eight bytes of padding.
const EXTENSIONS: [&[u8]; 4] = [&[0], &[60], &[0, 60], &[60, 60]];

const PAYLOAD: &[u8] = b"behind odd headers";

#[test]
fn packets_with_options_and_extension_headers_arrive() {
    with_cluster(Shape::nodes(2), |cluster| {
        let sender = cluster.nodes[0].add_pod("sender")?;
        for receiver in [
            cluster.nodes[0].add_pod("near")?,
            cluster.nodes[1].add_pod("far")?,
        ] {
            for options in OPTIONS {
                let built = |port| with_options(&sender, &receiver, options, port);
                arrives(&sender, &receiver, receiver.ipv4()?.into(), built)
                    .with_context(|| format!("options {options:?}"))?;
            }
            for extensions in EXTENSIONS {
                let built = |port| with_extensions(&sender, &receiver, extensions, port);
                arrives(&sender, &receiver, receiver.ipv6()?.into(), built)
                    .with_context(|| format!("extension headers {extensions:?}"))?;
            }
        }
        Ok(())
    });
}

fn arrives(
    sender: &Pod,
    receiver: &Pod,
    to: IpAddr,
    built: impl Fn(u16) -> Result<Vec<u8>>,
) -> Result<()> {
    let server = End::new(&receiver.netns, to).udp()?;
    let bytes = built(server.local_addr()?.port())?;
    sender.netns.inside(|| send(&bytes, to))?;
    let mut buffer = [0; 100];
    let len = server.recv(&mut buffer).context("it is lost")?;
    ensure!(buffer[..len] == *PAYLOAD, "it differs");
    Ok(())
}

/// Sends an IP packet with the header that it has.
fn send(bytes: &[u8], to: IpAddr) -> Result<()> {
    let open = |family| {
        socket(
            family,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Raw,
        )
    };
    let sent = match to {
        IpAddr::V4(to) => {
            let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
            let socket = open(AddressFamily::Inet)?;
            sendto(socket.as_raw_fd(), bytes, &to, MsgFlags::empty())?
        }
        IpAddr::V6(to) => {
            let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
            let socket = open(AddressFamily::Inet6)?;
            sendto(socket.as_raw_fd(), bytes, &to, MsgFlags::empty())?
        }
    };
    ensure!(sent == bytes.len(), "only {sent} bytes were sent");
    Ok(())
}

fn with_options(from: &Pod, to: &Pod, options: &[u8], port: u16) -> Result<Vec<u8>> {
    let datagram = packet::udp(4444, port, PAYLOAD);
    let length = u16::try_from(20 + options.len() + datagram.len())?;
    let words = u8::try_from(5 + options.len() / 4)?;
    let mut bytes = vec![0x40 | words, 0];
    bytes.extend(length.to_be_bytes());
    // The kernel fills in identification and checksum.
    bytes.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
    bytes.extend(from.ipv4()?.octets());
    bytes.extend(to.ipv4()?.octets());
    bytes.extend(options);
    bytes.extend(datagram);
    Ok(bytes)
}

fn with_extensions(from: &Pod, to: &Pod, extensions: &[u8], port: u16) -> Result<Vec<u8>> {
    let (src, dst) = (from.ipv6()?.octets(), to.ipv6()?.octets());
    let mut datagram = packet::udp(4444, port, PAYLOAD);
    let pseudo = [&src[..], &dst, &datagram[4..6], &[0, UDP]].concat();
    let check = checksum::of(&datagram, checksum::of_words(&pseudo));
    datagram[6..8].copy_from_slice(&check);
    let length = u16::try_from(8 * extensions.len() + datagram.len())?;
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([extensions[0], 64]);
    bytes.extend(src);
    bytes.extend(dst);
    let numbers = extensions.iter().skip(1).chain([&UDP]);
    for number in numbers {
        // PadN with four bytes.
        bytes.extend([*number, 0, 1, 4, 0, 0, 0, 0]);
    }
    bytes.extend(datagram);
    Ok(bytes)
}
