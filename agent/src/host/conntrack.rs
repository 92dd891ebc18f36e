//! Connections that the kernel remembers, as far as they keep to a port that leads elsewhere now.
//!
//! A UDP client that goes on sending keeps its entry alive: it would reach nobody, or the pod that had the
//! port before (include/uapi/linux/netfilter/nfnetlink_conntrack.h).

use std::io;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// `NFNL_SUBSYS_CTNETLINK << 8`, with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;

/// `NLM_F_REQUEST`, with `NLM_F_DUMP` or `NLM_F_ACK`.
const DUMP: u16 = 0x0301;
const ACKNOWLEDGED: u16 = 0x0005;

/// Types of netlink's own messages.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Bytes of `nlmsghdr` and `nfgenmsg`.
const HEADERS: usize = 16 + 4;

/// Attributes of an entry, of a tuple, of its addresses and of its protocol.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;

/// Bits of an attribute's type that are no part of the type.
const ATTRIBUTE_FLAGS: u16 = 0xc000;

const UDP: u8 = 17;

/// Enough for any datagram of a dump (include/linux/netlink.h, `NLMSG_GOODSIZE` and more).
const RECEIVE_BUFFER: usize = 1 << 16;

/// Forgets every UDP flow to one of these ports, whoever it leads to. Returns how many there were.
///
/// # Errors
/// When the kernel cannot be asked or refuses.
pub fn forget_udp(families: &[IpAddr], ports: &[u16]) -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut forgotten = 0;
    for family in families.iter().map(|f| if f.is_ipv4() { 2 } else { 10 }) {
        for entry in entries(&socket, family)? {
            if udp_port(&entry).is_some_and(|port| ports.contains(&port)) {
                forgotten += usize::from(delete(&socket, family, &entry)?);
            }
        }
    }
    Ok(forgotten)
}

/// The attributes of every entry of a family.
fn entries(socket: &Socket, family: u8) -> io::Result<Vec<Vec<u8>>> {
    socket.send(&message(GET, DUMP, family, &[]), 0)?;
    let mut found = Vec::new();
    loop {
        let mut datagram = Vec::with_capacity(RECEIVE_BUFFER);
        socket.recv(&mut datagram, 0)?;
        for (kind, body) in super::watch::messages(&datagram) {
            match kind {
                DONE => return Ok(found),
                ERROR => check(body)?,
                _ => found.push(body.get(HEADERS..).unwrap_or_default().to_vec()),
            }
        }
    }
}

/// Deletes an entry by the addresses and ports of its first packet. Says whether it was still there.
fn delete(socket: &Socket, family: u8, entry: &[u8]) -> io::Result<bool> {
    let mut name = Vec::new();
    for (kind, whole, _) in attributes(entry) {
        if [CTA_TUPLE_ORIG, CTA_ZONE].contains(&kind) {
            name.extend_from_slice(whole);
            name.resize(name.len().next_multiple_of(4), 0);
        }
    }
    socket.send(&message(DELETE, ACKNOWLEDGED, family, &name), 0)?;
    let mut answer = Vec::with_capacity(RECEIVE_BUFFER);
    socket.recv(&mut answer, 0)?;
    let outcome = super::watch::messages(&answer)
        .filter(|(kind, _)| *kind == ERROR)
        .try_for_each(|(_, body)| check(body));
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADERS + attributes.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port number are the kernel's to fill in.
    message.extend([0; 8]);
    message.extend([family, 0, 0, 0]);
    message.extend(attributes);
    message
}

/// The code in netlink's error message, which follows the header; 0 is success.
fn check(body: &[u8]) -> io::Result<()> {
    let code = body.get(16..).and_then(|rest| rest.first_chunk());
    match code.map_or(0, |code| i32::from_ne_bytes(*code)) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

/// The port that a UDP flow was sent to at first.
fn udp_port(entry: &[u8]) -> Option<u16> {
    let tuple = find(entry, CTA_TUPLE_ORIG)?;
    let protocol = find(tuple, CTA_TUPLE_PROTO)?;
    if find(protocol, CTA_PROTO_NUM)? != [UDP] {
        return None;
    }
    let port = find(protocol, CTA_PROTO_DST_PORT)?;
    port.first_chunk().map(|port| u16::from_be_bytes(*port))
}

fn find(attributes_of: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(attributes_of)
        .find(|(kind, ..)| *kind == wanted)
        .map(|(_, _, value)| value)
}

/// Type, all bytes, and value of each attribute.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?) & !ATTRIBUTE_FLAGS;
        let whole = rest.get(..length)?;
        let value = whole.get(4..)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, whole, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn entry(protocol: u8, port: u16) -> Vec<u8> {
        let ports = [
            attribute(CTA_PROTO_NUM, &[protocol]),
            attribute(3, &port.to_be_bytes()),
        ];
        let tuple = attribute(CTA_TUPLE_PROTO | 0x8000, &ports.concat());
        [
            attribute(9, &[0; 4]),
            attribute(CTA_TUPLE_ORIG | 0x8000, &tuple),
        ]
        .concat()
    }

    #[test]
    fn the_port_of_an_entry() {
        assert_eq!(udp_port(&entry(UDP, 53)), Some(53));
        assert_eq!(udp_port(&entry(6, 53)), None);
        assert_eq!(udp_port(&entry(UDP, 53)[..20]), None);
        assert_eq!(udp_port(&[1, 0, 0]), None);
    }
}
