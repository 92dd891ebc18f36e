//! Own underlay addresses that are found, and underlays of both families.

use anyhow::{Context, Result};
use oxlan_tests::capture::{Capture, each_family_over_its_own};
use oxlan_tests::cluster::{Families, Shape};
use oxlan_tests::flannel::{PlainNode, pod_v6};
use oxlan_tests::kube_api::{PREFIX, bare_node, flannel_node};
use oxlan_tests::pod::Pod;
use oxlan_tests::underlay::{UPLINK, node_v4, node_v6};
use oxlan_tests::wait::{SOON, until};
use serde_json::{Value, json};

use super::{
    annotation, net_conf, row, wait_for_node, wait_until_no_problem, with_shape, with_site,
};

/// Flannel's configuration with both families.
fn dual() -> Value {
    let mut conf = net_conf();
    conf["EnableIPv6"] = true.into();
    conf["IPv6Network"] = "fd00:244::/48".into();
    conf
}

/// A Node without an address of its own: the source address of the default route counts.
#[test]
fn a_node_without_an_internal_address_is_found_by_its_default_routes() {
    with_site(1, |site| {
        let node = site.node(1);
        // Not the first address of the device, so that only the route leads to it.
        node.netns.run_all(&[
            &format!("ip address add 192.168.50.77/24 dev {UPLINK}"),
            "ip route replace default via 192.168.50.254 src 192.168.50.77",
        ])?;
        site.api.put(bare_node(&node.name, &node.pod_cidrs, &[]));
        site.spawn_agent(1)?;
        node.wait_ready()?;
        assert_eq!(node.oxlan_json("status")?["underlay"], "192.168.50.77");
        wait_until_no_problem(node)?;
        let announced = site.api.node("node-1")?;
        assert_eq!(annotation(&announced, "public-ip"), "192.168.50.77");
        let v6 = node_v6(1).to_string();
        assert_eq!(annotation(&announced, "public-ipv6"), v6.as_str());
        node.add_pod("a").map(drop)
    });
}

/// The Node of a plain node, as Flannel announces both families.
fn flannel_of_both(plain: &PlainNode) -> Value {
    let number = plain.number;
    let [v4_mac, v6_mac] = &plain.vtep_macs;
    let cidr = format!("10.244.{number}.0/24");
    let mut node = flannel_node(&plain.name, &cidr, &node_v4(number).to_string(), v4_mac);
    let v6_data = json!({"VNI": 1, "VtepMAC": v6_mac}).to_string();
    let annotations = &mut node["metadata"]["annotations"];
    annotations[format!("{PREFIX}/public-ipv6")] = node_v6(number).to_string().into();
    annotations[format!("{PREFIX}/backend-v6-data")] = v6_data.into();
    node["spec"]["podCIDRs"] = json!([cidr, format!("fd00:244:0:{number:x}::/64")]);
    node
}

fn talk(a: &Pod, b: &Pod) -> Result<()> {
    for (from, to) in [(a, b), (b, a)] {
        to.addresses().try_for_each(|address| from.ping(address))?;
    }
    Ok(())
}

/// Two agents and a node with Flannel, each with an underlay of both families.
#[test]
fn both_families_below_with_oxlan_and_with_flannel() {
    let shape = Shape {
        plain_nodes: 1,
        ..Shape::nodes(2).over(Families::Both)
    };
    with_shape(shape, &dual(), |site| {
        site.start()?;
        let [one, two] = [site.node(1), site.node(2)];
        let announced = site.api.node("node-1")?;
        let mac = &one.oxlan_json("status")?["vtep_mac"];
        let data = format!("{{\"VNI\":1,\"VtepMAC\":{mac}}}");
        assert_eq!(annotation(&announced, "public-ip"), "192.168.50.1");
        assert_eq!(annotation(&announced, "public-ipv6"), "fd00:50::1");
        assert_eq!(annotation(&announced, "backend-data"), data);
        assert_eq!(annotation(&announced, "backend-v6-data"), data);

        let (a, b) = (one.add_pod("a")?, two.add_pod("b")?);
        let (scope, switch) = (site.cluster.scope(), &site.cluster.underlay.switch);
        let capture = Capture::start(scope, switch, "br0", "-t", "udp port 8472")?;
        talk(&a, &b)?;
        each_family_over_its_own(&capture.finish()?)?;

        let plain = site.cluster.plain.first().context("no plain node")?;
        site.api.put(flannel_of_both(plain));
        wait_for_node(one, &plain.name)?;
        assert_eq!(row(one, &plain.name)?["pod_cidrs"][1], "fd00:244:0:3::/64");
        plain.add_oxlan_peer(one)?;
        let (pod, v4) = plain.add_pod(7)?;
        until(SOON, "talk with Flannel's pod", || a.ping(v4.into()))?;
        until(SOON, "talk with it by IPv6", || {
            a.ping(pod_v6(plain.number, 7).into())
        })?;
        pod.run(&format!("ping -n -q -c 2 -i 0.05 -W 2 {}", a.ipv6()?))?;
        wait_until_no_problem(one)
    });
}
