//! Nodes with several uplinks, behind routers, with their underlay addresses on the loopback.

use anyhow::{Result, ensure};
use oxlan_tests::fabric::{Fabric, UPLINKS, router_v4, with_fabric};
use oxlan_tests::node::Node;
use oxlan_tests::wait::{SOON, until_true};

/// The devices on which a program runs, as the pins of its links tell.
fn runs_on(node: &Node, program: &str) -> Result<Vec<String>> {
    let mut devices = Vec::new();
    for entry in std::fs::read_dir(node.dirs.bpf.join("links"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(rest) = name.strip_prefix(&format!("{program}-")) {
            devices.extend(rest.split('-').next().map(ToOwned::to_owned));
        }
    }
    devices.sort();
    Ok(devices)
}

#[test]
fn packets_come_in_by_any_uplink_of_a_node_with_its_address_on_the_loopback() {
    with_fabric(2, "", |fabric| {
        fabric.start()?;
        let [first, second] = [&fabric.nodes[0], &fabric.nodes[1]];
        ensure!(runs_on(first, "from_uplink")? == UPLINKS);
        let status = first.oxlan_json("status")?;
        ensure!(status["pod_mtu"] == 1450, "{status}");
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        let reached = || {
            b.addresses().try_for_each(|to| a.ping(to))?;
            a.addresses().try_for_each(|to| b.ping(to))
        };
        reached()?;
        // By each of the two alone, there and back.
        for at in [0, 1] {
            use_router(fabric, at)?;
            let before = first.received()?;
            reached()?;
            ensure!(first.received()? > before, "by router {at}");
        }
        Ok(())
    });
}

/// Makes all nodes and this test wait until they send by one router only.
fn use_router(fabric: &Fabric, at: usize) -> Result<()> {
    for node in &fabric.nodes {
        let router = router_v4(at, node.number);
        node.netns.run(&format!(
            "ip route replace 192.168.50.0/24 src {} via {router}",
            node.underlay
        ))?;
        until_true(SOON, "next hop", || {
            let routes = node.oxlan_json("routes")?;
            let rows = routes.as_array().map(Vec::as_slice).unwrap_or_default();
            let mut others = rows.iter().filter(|row| row["local"] == false);
            Ok(others.all(|row| row["next_hop"] == router.to_string()))
        })?;
    }
    Ok(())
}
