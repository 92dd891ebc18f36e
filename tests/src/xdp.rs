//! Clusters whose nodes run XDP on their uplinks, which are veths here.

use anyhow::Result;

use crate::netns::Netns;

/// Environment variable that makes every cluster of the tests one with XDP, if it is `on`.
const DEMANDED: &str = "OXLAN_TEST_XDP";

/// Whether every cluster has XDP.
#[must_use]
pub fn is_demanded() -> bool {
    std::env::var(DEMANDED).is_ok_and(|value| value == "on")
}

/// Makes a veth what XDP expects of a wire, seen from the end that has XDP.
///
/// A packet that has not been sent yet has no checksum, and becomes a frame without a note of that:
/// so the other end computes it. And VLAN tags are in the frame, not beside it.
///
/// # Errors
///
/// If the kernel refuses.
pub fn prepare_wire(node: &Netns, uplink: &str, switch: &Netns, port: &str) -> Result<()> {
    switch.run(&format!("ethtool -K {port} tx off txvlan off"))?;
    node.run(&format!("ethtool -K {uplink} rxvlan off tx off"))?;
    Ok(())
}
