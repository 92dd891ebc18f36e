//! Rows of a packet's way: a hop, what is looked up there, the layers of a packet.

use super::packet::{Packet, Payload};
use super::screen::{Cell, Screen, Style};

/// Where the packet is, at which device, what is there.
const HOP: [usize; 2] = [13, 28];

/// Blanks, then a map or a layer of the packet, what is looked up there, and what is found.
const DETAIL: [usize; 3] = [13, 10, 18];

/// The packet at a device.
pub(super) fn hop(screen: &Screen, place: &str, (device, index): (&str, u32), what: &str) {
    let device = format!("{device}, ifindex {index}");
    screen.row(
        &HOP,
        &[Cell::new(place, Style::Strong), device.into(), what.into()],
    );
}

/// A map or layer, a key or size, and what is there.
pub(super) fn detail(screen: &Screen, map: &str, key: &str, found: &str) {
    let map = Cell::new(map, Style::Dim);
    screen.row(&DETAIL, &["".into(), map, key.into(), found.into()]);
}

/// What the program does in the end.
pub(super) fn action(screen: &Screen, text: &str) {
    screen.row(
        &DETAIL,
        &["".into(), Cell::new("then", Style::Dim), text.into()],
    );
}

pub(super) fn arrow(screen: &Screen) {
    screen.row(&[], &[Cell::new("   ↓", Style::Dim)]);
}

/// What a hop shows of a packet.
pub(super) fn ethernet(packet: &Packet) -> String {
    format!("{} → {}, TTL {}", packet.from, packet.to, packet.ttl)
}

/// The layers of a packet between the nodes, from the outside in.
pub(super) fn layers(screen: &Screen, outer: &Packet) {
    let size = format!("{} bytes", outer.length);
    let cells = [
        Cell::new("underlay", Style::Strong),
        size.into(),
        "from the outside in".into(),
    ];
    screen.row(&HOP, &cells);
    headers(screen, outer);
    if let Payload::Vxlan(vxlan) = &outer.payload {
        let udp = format!(
            "port {} → {}, checksum {}",
            vxlan.source_port, vxlan.port, vxlan.checksum
        );
        detail(screen, "UDP", "8 bytes", &udp);
        let identifier = format!("VNI {}, flags {:#04x}", vxlan.vni, vxlan.flags);
        detail(screen, "VXLAN", "8 bytes", &identifier);
        headers(screen, &vxlan.inner);
        if let Payload::EchoRequest { length } = vxlan.inner.payload {
            detail(screen, "ICMP", &format!("{length} bytes"), "echo request");
        }
    }
}

fn headers(screen: &Screen, packet: &Packet) {
    let macs = format!("{} → {}", packet.from, packet.to);
    detail(screen, "Ethernet", "14 bytes", &macs);
    let addresses = format!(
        "{} → {}, TTL {}",
        packet.source, packet.destination, packet.ttl
    );
    detail(
        screen,
        "IPv4",
        &format!("{} bytes", packet.header),
        &addresses,
    );
}
