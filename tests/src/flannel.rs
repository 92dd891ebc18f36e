//! A node without Oxlan, set up as Flannel sets one up: kernel bridge `cni0` and VXLAN devices
//! `flannel.1`, which carries IPv4 pods over IPv4, and `flannel-v6.1`, which carries IPv6 pods over IPv6.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use crate::cluster::Shape;
use crate::netns::Netns;
use crate::node::Node;
use crate::scope::Scope;
use crate::underlay::{UPLINK, node_v4, node_v6};

/// What VXLAN adds to a packet over IPv4 and over IPv6, bytes.
const OVERHEAD_V4: u32 = 50;
const OVERHEAD_V6: u32 = 70;

/// A node as Flannel's daemon and its CNI plugins (bridge, host-local) leave it.
#[derive(Debug)]
pub struct PlainNode {
    /// Its name in the cluster.
    pub name: String,
    /// Its number, which its addresses hold.
    pub number: u8,
    /// Its namespace.
    pub netns: Netns,
    /// MACs of `flannel.1` and `flannel-v6.1`.
    pub vtep_macs: [String; 2],
    mtu: u32,
    shape: Shape,
    prefix: String,
}

impl PlainNode {
    /// Makes bridge, VXLAN devices and masquerade rules; peers are added one by one.
    ///
    /// # Errors
    ///
    /// If the kernel refuses something.
    pub fn create(scope: &Scope, number: u8, netns: Netns, shape: Shape) -> Result<Self> {
        let vtep_macs = ["a0", "a6"].map(|family| format!("02:f1:{family}:00:00:{number:02x}"));
        // One bridge for both: the smaller MTU.
        let overhead = if shape.v6 { OVERHEAD_V6 } else { OVERHEAD_V4 };
        let mtu = shape.mtu - overhead;
        netns.run_all(&[
            &format!("ip link add cni0 mtu {mtu} type bridge"),
            "ip link set cni0 up",
        ])?;
        let node = Self {
            name: format!("node-{number}"),
            number,
            netns,
            vtep_macs,
            mtu,
            shape,
            prefix: scope.prefix().to_owned(),
        };
        if shape.v4 {
            node.set_up_v4()?;
            masquerade(&node.netns, number)?;
        }
        if shape.v6 {
            node.set_up_v6()?;
        }
        Ok(node)
    }

    fn set_up_v4(&self) -> Result<()> {
        let (number, local) = (self.number, node_v4(self.number));
        let (mac, mtu) = (&self.vtep_macs[0], self.shape.mtu - OVERHEAD_V4);
        self.netns.run_all(&[
            "sysctl -qw net.ipv4.ip_forward=1",
            &format!(
                "ip link add flannel.1 address {mac} mtu {mtu} type vxlan id 1 \
                 local {local} dev {UPLINK} dstport 8472 nolearning"
            ),
            "ip link set flannel.1 up",
            &format!("ip address add 10.244.{number}.0/32 dev flannel.1"),
            &format!("ip address add 10.244.{number}.1/24 dev cni0"),
        ])
    }

    /// Without `udp6zerocsumrx`, as Flannel makes it: packets without a checksum are dropped.
    fn set_up_v6(&self) -> Result<()> {
        let (number, local) = (self.number, node_v6(self.number));
        let (mac, mtu) = (&self.vtep_macs[1], self.shape.mtu - OVERHEAD_V6);
        self.netns.run_all(&[
            // Without a link-local address of the bridge that is past duplicate address detection, the
            // kernel solicits nobody, and a first packet waits for that too long.
            "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.cni0.accept_dad=0",
            "sysctl -qw net.ipv6.conf.all.forwarding=1",
            &format!(
                "ip link add flannel-v6.1 address {mac} mtu {mtu} type vxlan id 1 \
                 local {local} dev {UPLINK} dstport 8472 nolearning"
            ),
            "ip link set flannel-v6.1 up",
            &format!(
                "ip address add {}/128 dev flannel-v6.1 nodad",
                host_v6(number)
            ),
            &format!("ip address add {}/64 dev cni0 nodad", pod_v6(number, 1)),
        ])
    }

    /// Adds what Flannel adds for a peer: route, permanent neighbour, FDB entry, for each family.
    ///
    /// # Errors
    ///
    /// If the kernel refuses something.
    pub fn add_peer(&self, number: u8, vtep_macs: &[String; 2]) -> Result<()> {
        let [v4, v6] = vtep_macs;
        if self.shape.v4 {
            let gateway = Ipv4Addr::new(10, 244, number, 0);
            let route = format!("ip route replace {gateway}/24 via {gateway}");
            self.connect(
                "flannel.1",
                v4,
                &gateway.to_string(),
                &node_v4(number).to_string(),
                &route,
            )?;
        }
        if self.shape.v6 {
            let gateway = host_v6(number);
            let route = format!("ip -6 route replace {gateway}/64 via {gateway}");
            self.connect(
                "flannel-v6.1",
                v6,
                &gateway.to_string(),
                &node_v6(number).to_string(),
                &route,
            )?;
        }
        Ok(())
    }

    fn connect(&self, device: &str, mac: &str, gateway: &str, to: &str, route: &str) -> Result<()> {
        self.netns.run_all(&[
            &format!("ip neighbour replace {gateway} lladdr {mac} dev {device} nud permanent"),
            &format!("bridge fdb replace {mac} dev {device} dst {to} self permanent"),
            &format!("{route} dev {device} onlink"),
        ])
    }

    /// Adds what Flannel adds for a peer on the same link with `DirectRouting` or `host-gw`: a route.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn route_to(&self, number: u8) -> Result<()> {
        let gateway = node_v4(number);
        self.netns
            .run(&format!(
                "ip route replace 10.244.{number}.0/24 via {gateway} dev {UPLINK}"
            ))
            .map(drop)
    }

    /// Adds a node with an agent as a peer, with the MAC that its agent tells.
    ///
    /// # Errors
    ///
    /// If the agent does not answer or the kernel refuses something.
    pub fn add_oxlan_peer(&self, node: &Node) -> Result<()> {
        let status = node.oxlan_json("status")?;
        let mac = status["vtep_mac"]
            .as_str()
            .context("the agent tells no VTEP MAC")?;
        self.add_peer(node.number, &[mac.to_owned(), mac.to_owned()])
    }

    /// Adds a pod on the bridge with the last byte of its addresses, as bridge and host-local would;
    /// returns its IPv4 address.
    ///
    /// # Errors
    ///
    /// If the kernel refuses something.
    pub fn add_pod(&self, last_byte: u8) -> Result<(Netns, Ipv4Addr)> {
        let Self { mtu, number, .. } = self;
        let address = Ipv4Addr::new(10, 244, *number, last_byte);
        let pod = Netns::create(&format!("{}-{}-plain{last_byte}", self.prefix, self.name))?;
        self.netns.run_all(&[
            &format!(
                "ip link add pod{last_byte} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
                pod.name()
            ),
            &format!("ip link set pod{last_byte} master cni0 up"),
        ])?;
        pod.run("ip link set eth0 up")?;
        if self.shape.v4 {
            pod.run_all(&[
                &format!("ip address add {address}/24 dev eth0"),
                &format!("ip route add default via 10.244.{number}.1"),
            ])?;
        }
        if self.shape.v6 {
            pod.run_all(&[
                &format!(
                    "ip address add {}/64 dev eth0 nodad",
                    pod_v6(*number, last_byte)
                ),
                &format!("ip -6 route add default via {}", pod_v6(*number, 1)),
            ])?;
        }
        Ok((pod, address))
    }
}

/// The address of `flannel-v6.1`, the first one of the node's pod CIDR, which host traffic comes from.
#[must_use]
pub fn host_v6(number: u8) -> Ipv6Addr {
    pod_v6(number, 0)
}

/// The IPv6 address of a plain node's pod.
#[must_use]
pub fn pod_v6(number: u8, last_byte: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x244, 0, number.into(), 0, 0, 0, last_byte.into())
}

/// Flannel's masquerade rules for IPv4, in Flannel's order.
fn masquerade(netns: &Netns, number: u8) -> Result<()> {
    let (cluster, own) = ("10.244.0.0/16", format!("10.244.{number}.0/24"));
    netns.run_all(&[
        "nft add table ip flannel",
        "nft add chain ip flannel postrouting { type nat hook postrouting priority 100 ; }",
    ])?;
    for rule in [
        "meta mark & 0x4000 == 0x4000 return",
        &format!("ip saddr {own} ip daddr {cluster} return"),
        &format!("ip saddr {cluster} ip daddr {own} return"),
        &format!("ip saddr != {cluster} ip daddr {own} return"),
        &format!("ip saddr {cluster} ip daddr != 224.0.0.0/4 masquerade fully-random"),
        &format!("ip saddr != {cluster} ip daddr {cluster} masquerade fully-random"),
    ] {
        netns.run(&format!("nft add rule ip flannel postrouting {rule}"))?;
    }
    Ok(())
}
