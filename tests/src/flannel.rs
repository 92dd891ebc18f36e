//! A node without Oxlan, set up as Flannel sets one up: kernel bridge `cni0` and VXLAN device `flannel.1`.
//!
//! Flannel carries IPv6 pods over an IPv6 underlay, so between the two there is IPv4 here.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::node::Node;
use crate::scope::Scope;
use crate::underlay::{UPLINK, node_v4};

/// What VXLAN over IPv4 adds to a packet, bytes.
const OVERHEAD: u32 = 50;

/// A node as Flannel's daemon and its CNI plugins (bridge, host-local) leave it.
#[derive(Debug)]
pub struct PlainNode {
    /// Its name in the cluster.
    pub name: String,
    /// Its number, which its addresses hold.
    pub number: u8,
    /// Its namespace.
    pub netns: Netns,
    /// MAC of `flannel.1`.
    pub vtep_mac: String,
    mtu: u32,
    prefix: String,
}

impl PlainNode {
    /// Makes bridge, VXLAN device and masquerade rules; peers are added one by one.
    ///
    /// # Errors
    ///
    /// If the kernel refuses something.
    pub fn create(scope: &Scope, number: u8, netns: Netns, underlay_mtu: u32) -> Result<Self> {
        let mtu = underlay_mtu - OVERHEAD;
        let local = node_v4(number);
        let vtep_mac = format!("02:f1:a0:00:00:{number:02x}");
        netns.run_all(&[
            "sysctl -qw net.ipv4.ip_forward=1",
            &format!(
                "ip link add flannel.1 address {vtep_mac} mtu {mtu} type vxlan id 1 \
                 local {local} dev {UPLINK} dstport 8472 nolearning"
            ),
            "ip link set flannel.1 up",
            &format!("ip address add 10.244.{number}.0/32 dev flannel.1"),
            &format!("ip link add cni0 mtu {mtu} type bridge"),
            "ip link set cni0 up",
            &format!("ip address add 10.244.{number}.1/24 dev cni0"),
        ])?;
        masquerade(&netns, number)?;
        let name = format!("node-{number}");
        Ok(Self {
            name,
            number,
            netns,
            vtep_mac,
            mtu,
            prefix: scope.prefix().to_owned(),
        })
    }

    /// Adds what Flannel adds for a peer: route, permanent neighbour, FDB entry.
    ///
    /// # Errors
    ///
    /// If the kernel refuses something.
    pub fn add_peer(&self, number: u8, vtep_mac: &str) -> Result<()> {
        let underlay = node_v4(number);
        let gateway = Ipv4Addr::new(10, 244, number, 0);
        self.netns.run_all(&[
            &format!(
                "ip neighbour replace {gateway} lladdr {vtep_mac} dev flannel.1 nud permanent"
            ),
            &format!("bridge fdb replace {vtep_mac} dev flannel.1 dst {underlay} self permanent"),
            &format!("ip route replace {gateway}/24 via {gateway} dev flannel.1 onlink"),
        ])
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
        self.add_peer(node.number, mac)
    }

    /// Adds a pod on the bridge with the last byte of its address, as bridge and host-local would.
    ///
    /// # Errors
    ///
    /// If the kernel refuses something.
    pub fn add_pod(&self, last_byte: u8) -> Result<(Netns, Ipv4Addr)> {
        let address = Ipv4Addr::new(10, 244, self.number, last_byte);
        let pod = Netns::create(&format!("{}-{}-plain{last_byte}", self.prefix, self.name))?;
        let Self { mtu, number, .. } = self;
        self.netns.run_all(&[
            &format!(
                "ip link add pod{last_byte} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
                pod.name()
            ),
            &format!("ip link set pod{last_byte} master cni0 up"),
        ])?;
        pod.run_all(&[
            "ip link set eth0 up",
            &format!("ip address add {address}/24 dev eth0"),
            &format!("ip route add default via 10.244.{number}.1"),
        ])?;
        Ok((pod, address))
    }
}

/// Flannel's masquerade rules.
fn masquerade(netns: &Netns, number: u8) -> Result<()> {
    let cluster = "10.244.0.0/16";
    netns.run_all(&[
        "nft add table ip flannel",
        "nft add chain ip flannel postrouting { type nat hook postrouting priority 100 ; }",
        "nft add rule ip flannel postrouting meta mark & 0x4000 == 0x4000 return",
        &format!(
            "nft add rule ip flannel postrouting ip saddr 10.244.{number}.0/24 ip daddr {cluster} return"
        ),
        &format!("nft add rule ip flannel postrouting ip saddr {cluster} ip daddr 224.0.0.0/4 return"),
        &format!(
            "nft add rule ip flannel postrouting ip saddr {cluster} ip daddr != {cluster} \
             masquerade fully-random"
        ),
    ])
}
