//! Tunnel packets from the other node, for the tests of `from_uplink`.

use aya::util::KernelVersion;
use oxlan::datapath::Program;
use oxlan_common::wire::DEFAULT_PORT;
use oxlan_tests::packet::{Ip, UDP, VXLAN_I, udp, vxlan};
use oxlan_tests::skip::skip;

use crate::case::{Case, Outcome};
use crate::world::{GATEWAY, MAC_A, OTHER_MAC, UPLINK, UPLINK_MAC, VTEP};

pub(crate) const HOOK: (Program, u32) = (Program::FromUplink, UPLINK);

/// A tunnel packet, right in everything that is not changed.
pub(crate) struct Tunnel {
    pub(crate) outer: Ip,
    pub(crate) port: u16,
    pub(crate) flags: u32,
    pub(crate) vni: u32,
    pub(crate) inner: Vec<u8>,
}

impl Tunnel {
    pub(crate) fn around(inner: Vec<u8>) -> Self {
        Self {
            outer: Ip::new("10.9.0.2", "10.9.0.1", UDP),
            port: DEFAULT_PORT,
            flags: VXLAN_I,
            vni: 1,
            inner,
        }
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let payload = udp(40000, self.port, &vxlan(self.flags, self.vni, &self.inner));
        self.outer.frame(UPLINK_MAC, OTHER_MAC, &payload)
    }
}

pub(crate) fn inner(ip: &Ip) -> Vec<u8> {
    ip.frame(VTEP[1], VTEP[2], &udp(1, 53, b"hello"))
}

/// Packets from the other node to pod A, one per family.
pub(crate) fn inner_ips() -> [Ip; 2] {
    [
        Ip::new("10.244.2.9", "10.244.1.2", UDP),
        Ip::new("fd00:2::9", "fd00:1::2", UDP),
    ]
}

pub(crate) fn delivered(ip: &Ip) -> Vec<u8> {
    let ip = Ip {
        ttl: ip.ttl - 1,
        ..ip.clone()
    };
    ip.frame(MAC_A, GATEWAY, &udp(1, 53, b"hello"))
}

pub(crate) fn row(name: &'static str, tunnel: &Tunnel, outcome: Outcome) -> Case {
    Case::new(name, HOOK, tunnel.frame(), outcome)
}

/// Those of [`inner_ips`] that the programs decapsulate on this kernel; others go by the overlay device.
///
/// IPv6 in IPv4 needs `BPF_F_ADJ_ROOM_DECAP_L3_IPV6`: Linux 6.3, commit d219df60a70e.
pub(crate) fn decapsulated_ips() -> Vec<Ip> {
    let has_flag = KernelVersion::current().is_ok_and(|now| now >= KernelVersion::new(6, 3, 0));
    if !has_flag {
        skip("decapsulating IPv6 from IPv4 needs Linux 6.3");
    }
    let ips = inner_ips().into_iter();
    ips.filter(|ip| has_flag || ip.src.is_v4()).collect()
}
