//! Subnets: got, kept, lost.

use anyhow::{Context, Result, ensure};
use oxlan_tests::capture::{Capture, each_family_over_its_own};
use oxlan_tests::cluster::{Families, Shape};
use oxlan_tests::node::Node;
use oxlan_tests::underlay::{UPLINK, node_v6};
use oxlan_tests::wait::{SOON, until, until_true};

use crate::site::{
    DUAL, SINGLE, Site, key, own, problems, value, wait_for_nodes, wait_for_peace,
    wait_for_problem, wait_for_talk, with_site,
};

/// Name of the key of a node's subnet.
fn name(node: &Node) -> Result<String> {
    Ok(name_of(&own(node)?))
}

fn name_of(prefixes: &[String]) -> String {
    let parts: Vec<String> = prefixes.iter().map(|p| p.replace('/', "-")).collect();
    parts.join("&")
}

#[test]
fn nodes_get_subnets_and_keep_them() {
    with_site(Shape::nodes(2), 1, false, |site| {
        site.configure(DUAL)?;
        let (first, second) = (site.start(0)?, site.start(1)?);
        wait_for_nodes(first, 2)?;
        wait_for_nodes(second, 2)?;
        let before = own(first)?;
        ensure!(before.len() == 2 && before != own(second)?, "{before:?}");
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        wait_for_talk(&a, &b)?;
        ensure!(problems(first)?.is_empty(), "{:?}", problems(first)?);

        first.kill_agent()?;
        site.start(0)?;
        ensure!(own(first)? == before, "{:?} is not {before:?}", own(first)?);
        wait_for_talk(&a, &b)?;
        // What stands in etcd is what Flannel would have written.
        let written = written(site, first)?;
        let status = first.oxlan_json("status")?;
        ensure!(written["PublicIP"] == "192.168.50.1", "{written}");
        ensure!(written["PublicIPv6"].is_null(), "{written}");
        ensure!(written["BackendType"] == "vxlan", "{written}");
        let data = &written["BackendData"];
        ensure!(data["VNI"] == 1, "{written}");
        ensure!(data["VtepMAC"] == status["vtep_mac"], "{written}");
        Ok(())
    });
}

/// What a node has written of itself.
fn written(site: &Site, node: &Node) -> Result<serde_json::Value> {
    let key = key(&name(node)?);
    let text = site.etcd.ctl(&["get", "--print-value-only", &key])?;
    serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
}

/// Nobody says where the node is on the underlay: the source addresses of its default routes count.
#[test]
fn a_node_is_found_by_its_default_routes() {
    with_site(Shape::nodes(1), 1, false, |site| {
        site.configure(DUAL)?;
        let node = &site.cluster.nodes[0];
        // Not the first address of the device, so that only the route leads to it.
        node.netns.run_all(&[
            &format!("ip address add 192.168.50.77/24 dev {UPLINK}"),
            "ip route replace default via 192.168.50.254 src 192.168.50.77",
        ])?;
        site.spawn_anywhere(0, &[])?;
        node.wait_ready()?;
        let written = written(site, node)?;
        ensure!(written["PublicIP"] == "192.168.50.77", "{written}");
        let v6 = node_v6(1).to_string();
        ensure!(written["PublicIPv6"] == v6.as_str(), "{written}");
        wait_for_peace(node)?;
        node.add_pod("a").map(drop)
    });
}

#[test]
fn nodes_have_an_underlay_of_both_families() {
    let shape = Shape::nodes(2).over(Families::Both);
    with_site(shape, 1, false, |site| {
        site.configure(DUAL)?;
        let (first, second) = (site.start(0)?, site.start(1)?);
        wait_for_nodes(first, 2)?;
        wait_for_nodes(second, 2)?;
        let written = written(site, first)?;
        let mac = &first.oxlan_json("status")?["vtep_mac"];
        ensure!(written["PublicIP"] == "192.168.50.1", "{written}");
        ensure!(written["PublicIPv6"] == "fd00:50::1", "{written}");
        for data in ["BackendData", "BackendV6Data"] {
            ensure!(written[data]["VNI"] == 1, "{data}: {written}");
            ensure!(written[data]["VtepMAC"] == *mac, "{data}: {written}");
        }
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        let (scope, switch) = (site.cluster.scope(), &site.cluster.underlay.switch);
        let capture = Capture::start(scope, switch, "br0", "-t", "udp port 8472")?;
        wait_for_talk(&a, &b)?;
        each_family_over_its_own(&capture.finish()?)
    });
}

/// A node that loses its state directory is known by its address.
#[test]
fn a_node_without_memory_gets_its_subnet_again() {
    with_site(Shape::nodes(1), 1, false, |site| {
        site.configure(DUAL)?;
        let node = site.start(0)?;
        let before = own(node)?;
        let subnet_env = node.dirs.run.with_extension("env");
        ensure!(subnet_env.exists());
        node.stop_agent()?;
        let said = node.cleanup()?;
        // What others go by stays, and is named with the command that takes it away.
        let key = key(&name_of(&before));
        ensure!(said.contains(&format!("del '{key}'")), "{said}");
        ensure!(!subnet_env.exists(), "{said}");
        site.start(0)?;
        ensure!(own(node)? == before, "{:?} is not {before:?}", own(node)?);
        let count = site.etcd.keys(&["--prefix", &crate::site::key("")])?.len();
        ensure!(count == 1, "{count} subnets for one node");
        Ok(())
    });
}

#[test]
fn a_revoked_lease_is_had_again() {
    with_site(Shape::nodes(2), 1, false, |site| {
        site.configure(DUAL)?;
        let (first, second) = (site.start(0)?, site.start(1)?);
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        wait_for_talk(&a, &b)?;
        let key = key(&name(first)?);
        let before = own(first)?;
        let lease = |site: &Site| -> Result<u64> {
            site.etcd.key(&key)?["lease"].as_u64().context("no lease")
        };
        let old = lease(site)?;
        site.etcd.ctl(&["lease", "revoke", &format!("{old:x}")])?;
        until_true(SOON, "new lease", || Ok(lease(site)? != old))?;
        ensure!(own(first)? == before, "{:?}", own(first)?);
        wait_for_nodes(second, 2)?;
        wait_for_talk(&a, &b)?;
        wait_for_peace(first)
    });
}

/// A lease is renewed in time: with five seconds the subnet would be gone otherwise.
#[test]
fn a_lease_is_renewed() {
    with_site(Shape::nodes(1), 1, false, |site| {
        site.configure(SINGLE)?;
        site.spawn(0, &[("OXLAN_ETCD_LEASE", "5")])?;
        let node = &site.cluster.nodes[0];
        node.wait_ready()?;
        let key = key(&name(node)?);
        let before = site.etcd.key(&key)?;
        let lease = format!("{:x}", before["lease"].as_u64().context("no lease")?);
        let left = || -> Result<i64> {
            let text = site
                .etcd
                .ctl(&["lease", "timetolive", &lease, "--write-out", "json"])?;
            let answer: serde_json::Value = serde_json::from_str(&text)?;
            answer["ttl"].as_i64().context("no ttl")
        };
        // Twice down and up again: that is longer than the lease.
        for _ in 0..2 {
            until(SOON, "the lease to run down", || {
                let left = left()?;
                ensure!(left <= 3, "{left} seconds left");
                ensure!(left > 0, "it has expired");
                Ok(())
            })?;
            until_true(SOON, "renewal", || Ok(left()? >= 4))?;
        }
        let after = site.etcd.key(&key)?;
        ensure!(
            after["create_revision"] == before["create_revision"],
            "{after}"
        );
        Ok(())
    });
}

/// Another node has written itself into this node's key: the node says so and takes another subnet.
#[test]
fn a_subnet_that_was_taken_is_reported_and_replaced() {
    with_site(Shape::nodes(1), 1, false, |site| {
        site.configure(SINGLE)?;
        let node = site.start(0)?;
        let old = node.add_pod("old")?;
        let (before, taken) = (own(node)?, name(node)?);
        site.put(&taken, &value(9, "02:0a:00:00:00:09"))?;
        wait_for_problem(node, "192.168.50.9 has it now")?;
        until_true(SOON, "another subnet", || Ok(own(node)? != before))?;
        // The pods that are cut off are named, and new ones are not.
        wait_for_problem(node, &old.ipv4()?.to_string())?;
        let new = node.add_pod("new")?;
        let inside = |p: &String| -> Result<bool> {
            let prefix: String = p.rsplit_once('.').context("no IPv4")?.0.into();
            Ok(new.ipv4()?.to_string().starts_with(&prefix))
        };
        ensure!(own(node)?.iter().any(|p| inside(p).unwrap_or(false)));
        wait_for_nodes(node, 2)?;
        // Also after a restart, without memory of how it came to that.
        let after = own(node)?;
        node.stop_agent()?;
        site.start(0)?;
        ensure!(own(node)? == after, "{:?}", own(node)?);
        Ok(())
    });
}

/// A key without a lease is a reservation: the node of its address gets it, and it never expires.
#[test]
fn a_reservation_is_respected() {
    with_site(Shape::nodes(2), 1, false, |site| {
        site.configure(SINGLE)?;
        site.put("10.244.77.0-24", r#"{"PublicIP":"192.168.50.1"}"#)?;
        let (first, second) = (site.start(0)?, site.start(1)?);
        ensure!(own(first)? == ["10.244.77.0/24"], "{:?}", own(first)?);
        ensure!(own(second)? != own(first)?);
        let key = site.etcd.key(&key("10.244.77.0-24"))?;
        ensure!(key["lease"].is_null(), "{key}");
        wait_for_nodes(second, 2)?;
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        wait_for_talk(&a, &b)
    });
}

#[test]
fn the_network_changes_under_agents() {
    with_site(Shape::nodes(2), 1, false, |site| {
        site.configure(SINGLE)?;
        let (first, second) = (site.start(0)?, site.start(1)?);
        wait_for_nodes(first, 2)?;
        let before = own(first)?;
        site.configure(&SINGLE.replace("\"vxlan\"", "\"vxlan\",\"VNI\":77,\"Port\":4789"))?;
        for node in [first, second] {
            until_true(SOON, "new wire form", || {
                let status = node.oxlan_json("status")?;
                Ok(status["vni"] == 77 && status["port"] == 4789 && status["nodes"] == 2)
            })?;
        }
        ensure!(own(first)? == before, "{:?}", own(first)?);
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        wait_for_talk(&a, &b)?;
        for node in [first, second] {
            wait_for_peace(node)?;
        }
        // What cannot be is reported and changes nothing.
        site.configure(&SINGLE.replace("vxlan", "wireguard"))?;
        wait_for_problem(first, "Backend Type = \"wireguard\": \"vxlan\" is wanted")?;
        wait_for_talk(&a, &b)?;
        ensure!(first.oxlan_json("status")?["vni"] == 77);
        site.configure(SINGLE)?;
        until_true(SOON, "first wire form", || {
            Ok(first.oxlan_json("status")?["vni"] == 1 && second.oxlan_json("status")?["vni"] == 1)
        })?;
        wait_for_peace(first)
    });
}

/// A node as Flannel sets one up, and its lease as Flannel writes it.
#[test]
fn a_flannel_node_is_a_peer() {
    let shape = Shape {
        plain_nodes: 1,
        v6: false,
        ..Shape::nodes(1)
    };
    with_site(shape, 1, false, |site| {
        // The plain node's fixture has its number in its subnet, so that the other one is left for ours.
        site.configure(&SINGLE.replace(
            "\"Backend\"",
            "\"SubnetMin\":\"10.244.1.0\",\"SubnetMax\":\"10.244.2.0\",\"Backend\"",
        ))?;
        let plain = &site.cluster.plain[0];
        let lease = site.etcd.ctl(&["lease", "grant", "86400"])?;
        let lease = lease
            .split_whitespace()
            .nth(1)
            .context("no lease")?
            .to_owned();
        let theirs = key("10.244.2.0-24");
        let text = value(plain.number, &plain.vtep_macs[0]);
        site.etcd.ctl(&["put", "--lease", &lease, &theirs, &text])?;
        let node = site.start(0)?;
        ensure!(own(node)? == ["10.244.1.0/24"], "{:?}", own(node)?);
        plain.add_oxlan_peer(node)?;
        let ours = node.add_pod("a")?;
        let (_, address) = plain.add_pod(7)?;
        until(SOON, "talk with the plain node's pod", || {
            ours.ping(address.into())
        })?;
        // It goes, as when its lease expires.
        site.etcd.ctl(&["lease", "revoke", &lease])?;
        wait_for_nodes(node, 1)
    });
}
