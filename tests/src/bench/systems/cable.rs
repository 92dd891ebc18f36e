//! Two nodes on one veth pair, which is the shortest underlay that there is.

use anyhow::Result;

use crate::netns::Netns;
use crate::scope::Scope;
use crate::underlay::{UPLINK, node_v4};

/// MTU of the underlay, bytes.
pub(in crate::bench) const MTU: u32 = 1500;

/// MTU of every pod, bytes: what VXLAN over IPv4 leaves of [`MTU`].
pub(in crate::bench) const POD_MTU: u32 = MTU - 50;

/// Two namespaces, joined; dropping it removes them.
#[derive(Debug)]
pub(in crate::bench) struct Cable {
    pub(in crate::bench) nodes: [Netns; 2],
    pub(in crate::bench) scope: Scope,
}

impl Cable {
    /// Makes nodes 1 and 2, each with the uplink `eth0`.
    pub(in crate::bench) fn create(mtu: u32) -> Result<Self> {
        let scope = Scope::for_test()?;
        let nodes = [scope.netns("node-1")?, scope.netns("node-2")?];
        let [first, second] = &nodes;
        first.run(&format!(
            "ip link add {UPLINK} mtu {mtu} type veth peer name {UPLINK} mtu {mtu} netns {}",
            second.name()
        ))?;
        for (number, node) in (1..).zip(&nodes) {
            node.run_all(&[
                &format!("ip link set {UPLINK} up"),
                &format!("ip address add {}/24 dev {UPLINK}", node_v4(number)),
            ])?;
        }
        Ok(Self { nodes, scope })
    }
}
