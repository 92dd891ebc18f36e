//! The network that joins the nodes, and what is beyond it.
//!
//! A bridge in a namespace of its own is the switch; the same namespace routes to another one, the
//! "internet", which knows the underlay but no pod, as the real one does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::netns::Netns;
use crate::scope::Scope;
use crate::xdp;

/// The node's device on the underlay.
pub const UPLINK: &str = "eth0";

/// IPv4 address of the internet's one host.
pub const INTERNET_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// IPv6 address of the internet's one host.
pub const INTERNET_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 2);

/// The switch and the internet.
#[derive(Debug)]
pub struct Underlay {
    /// The namespace of the switch; every packet between nodes passes its device `br0`.
    pub switch: Netns,
    /// The namespace of the internet.
    pub internet: Netns,
    /// Whether the wires to nodes are made fit for XDP.
    pub xdp: bool,
    mtu: u32,
}

/// Underlay address of the node with this number, from 1 on.
#[must_use]
pub fn node_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 50, number)
}

/// IPv6 address of the node's uplink.
#[must_use]
pub fn node_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, number.into())
}

/// Both addresses of the internet's host.
#[must_use]
pub fn internet() -> [IpAddr; 2] {
    [INTERNET_V4.into(), INTERNET_V6.into()]
}

impl Underlay {
    /// Makes the switch and the internet.
    ///
    /// # Errors
    ///
    /// If the kernel refuses something.
    pub fn create(scope: &Scope, mtu: u32) -> Result<Self> {
        let switch = scope.netns("switch")?;
        let internet = scope.netns("internet")?;
        switch.run_all(&[
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
            &format!("ip link add br0 mtu {mtu} up type bridge mcast_snooping 0"),
            "ip address add 192.168.50.254/24 dev br0",
            "ip address add fd00:50::fe/64 dev br0 nodad",
            &format!(
                "ip link add out type veth peer name eth0 netns {}",
                internet.name()
            ),
            "ip link set out up",
            "ip address add 198.51.100.1/24 dev out",
            "ip address add 2001:db8:ffff::1/64 dev out nodad",
        ])?;
        internet.run_all(&[
            "ip link set eth0 up",
            &format!("ip address add {INTERNET_V4}/24 dev eth0"),
            &format!("ip address add {INTERNET_V6}/64 dev eth0 nodad"),
            "ip route add 192.168.50.0/24 via 198.51.100.1",
            "ip -6 route add fd00:50::/64 via 2001:db8:ffff::1",
        ])?;
        Ok(Self {
            switch,
            internet,
            xdp: false,
            mtu,
        })
    }

    /// Connects a node: its uplink with addresses of both families and default routes.
    ///
    /// # Errors
    ///
    /// If the kernel refuses something.
    pub fn connect(&self, node: &Netns, number: u8) -> Result<()> {
        let Self { switch, mtu, .. } = self;
        switch.run_all(&[
            &format!(
                "ip link add node{number} mtu {mtu} type veth peer name {UPLINK} mtu {mtu} netns {}",
                node.name()
            ),
            &format!("ip link set node{number} master br0 up"),
        ])?;
        if self.xdp {
            xdp::prepare_wire(node, UPLINK, switch, &format!("node{number}"))?;
        }
        node.run_all(&[
            &format!("ip link set {UPLINK} up"),
            &format!("ip address add {}/24 dev {UPLINK}", node_v4(number)),
            &format!("ip address add {}/64 dev {UPLINK} nodad", node_v6(number)),
            "ip route add default via 192.168.50.254",
            "ip -6 route add default via fd00:50::fe",
        ])
    }
}
