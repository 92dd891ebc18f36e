//! Changes of the underlay: the way to other nodes, and the uplink itself.

use anyhow::{Result, ensure};
use oxlan_tests::cluster::{Shape, with_cluster};
use oxlan_tests::node::Node;
use oxlan_tests::underlay::{UPLINK, node_v4};
use oxlan_tests::wait::{SOON, until_true};

/// Where `node` sends packets for the node with this number next, as `oxlan routes` tells.
fn next_hop(node: &Node, number: u8) -> Result<String> {
    let routes = node.oxlan_json("routes")?;
    let underlay = node_v4(number).to_string();
    let rows = routes.as_array().map(Vec::as_slice).unwrap_or_default();
    let row = rows.iter().find(|row| row["underlay"] == underlay.as_str());
    Ok(row.map_or_else(String::new, |row| row["next_hop"].to_string()))
}

/// Nodes in other networks are reached through a gateway, and the way may change at any time.
#[test]
fn the_next_hop_follows_the_hosts_routes() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        let reached = || {
            b.addresses().try_for_each(|to| a.ping(to))?;
            a.addresses().try_for_each(|to| b.ping(to))
        };
        reached()?;
        let direct = format!("\"{}\"", second.underlay);
        ensure!(next_hop(first, 2)? == direct, "{}", next_hop(first, 2)?);

        let detour = format!("{}/32 via 192.168.50.254", second.underlay);
        first.netns.run(&format!("ip route add {detour}"))?;
        until_true(SOON, "next hop", || {
            Ok(next_hop(first, 2)? == "\"192.168.50.254\"")
        })?;
        reached()?;

        first.netns.run(&format!("ip route del {detour}"))?;
        until_true(SOON, "way back to the direct one", || {
            Ok(next_hop(first, 2)? == direct)
        })?;
        reached()
    });
}

/// Without a route to a node its pods are unreachable, which is said, and nothing else suffers.
#[test]
fn a_node_without_a_route_is_reported() {
    with_cluster(Shape::nodes(3), |cluster| {
        let [first, second, third] = [&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[2]];
        let (a, b, c) = (
            first.add_pod("a")?,
            second.add_pod("b")?,
            third.add_pod("c")?,
        );
        let reachable = |name: &str| {
            let nodes = first.oxlan_json("nodes")?;
            let rows = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
            let row = rows.iter().find(|row| row["name"] == name);
            Ok(row.is_some_and(|row| row["reachable"] == true))
        };
        let route = format!("unreachable {}/32", second.underlay);
        first.netns.run(&format!("ip route add {route}"))?;
        until_true(SOON, "report", || {
            Ok(!reachable("node-2")? && reachable("node-3")?)
        })?;
        ensure!(
            a.ping(b.ipv4()?.into()).is_err(),
            "node-2 was reached without a route"
        );
        a.ping(c.ipv4()?.into())?;

        first.netns.run(&format!("ip route del {route}"))?;
        until_true(SOON, "return", || reachable("node-2"))?;
        a.ping(b.ipv4()?.into())
    });
}

/// A cable that was pulled and put back.
#[test]
fn the_uplink_goes_down_and_comes_back() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        let (a, local) = (node.add_pod("a")?, node.add_pod("local")?);
        let b = cluster.nodes[1].add_pod("b")?;
        a.ping(b.ipv4()?.into())?;
        node.netns.run(&format!("ip link set {UPLINK} down"))?;
        until_true(SOON, "loss of the other node", || {
            Ok(a.ping(b.ipv4()?.into()).is_err())
        })?;
        local.addresses().try_for_each(|to| a.ping(to))?;
        node.netns.run(&format!("ip link set {UPLINK} up"))?;
        until_true(SOON, "return of the other node", || {
            Ok(a.ping(b.ipv4()?.into()).is_ok())
        })?;
        b.addresses().try_for_each(|to| a.ping(to))?;
        a.addresses().try_for_each(|to| b.ping(to))
    });
}

/// The uplink gets another name, and later is another device: programs go where the address is.
#[test]
fn the_uplink_is_renamed_and_replaced() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        let (a, b) = (node.add_pod("a")?, cluster.nodes[1].add_pod("b")?);
        let reached = || {
            until_true(SOON, "return of the other node", || {
                let mut pings = b.addresses().map(|to| a.ping(to));
                Ok(pings.all(|ping| ping.is_ok()))
            })
        };
        let runs_on = |device: &str| {
            until_true(SOON, "program on the new uplink", || {
                let index = node.netns.ifindex(device)?;
                let pin = format!("links/from_uplink-{device}-{index}");
                let pins = std::fs::read_dir(node.dirs.bpf.join("links"))?.count();
                // Two programs for the pod, two on the overlay device, one or two on the uplink.
                let wanted = 5 + usize::from(node.xdp);
                Ok(node.dirs.bpf.join(pin).exists()
                    && pins == wanted
                    && node.oxlan_json("status")?["uplink"]["name"] == device)
            })
        };
        reached()?;
        node.netns.run_all(&[
            &format!("ip link set {UPLINK} down"),
            &format!("ip link set {UPLINK} name wire0"),
            "ip link set wire0 up",
        ])?;
        runs_on("wire0")?;
        reached()?;
        node.netns.run("ip link del wire0")?;
        until_true(SOON, "report of the lost uplink", || {
            let problems = node.oxlan_json("status")?["problems"].to_string();
            Ok(problems.contains("no device has the underlay address"))
        })?;
        cluster.underlay.connect(&node.netns, 1)?;
        runs_on(UPLINK)?;
        reached()
    });
}
