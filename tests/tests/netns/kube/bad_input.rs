//! What others wrote wrongly is refused by name, and the rest goes on.

use anyhow::ensure;
use oxlan_tests::kube_api::{PREFIX, flannel_node};
use oxlan_tests::wait::{SOON, until_true};
use serde_json::{Value, json};

use super::{
    names, net_conf, wait_for_node, wait_for_remark, wait_until_gone, wait_until_no_problem,
    with_site,
};

fn bad(change: impl FnOnce(&mut Value)) -> Value {
    let mut node = flannel_node(
        "bad",
        "10.244.66.0/24",
        "192.168.50.66",
        "02:00:00:00:00:66",
    );
    change(&mut node);
    node
}

fn annotated(what: &str, value: Value) -> Value {
    bad(|n| n["metadata"]["annotations"][format!("{PREFIX}/{what}")] = value)
}

#[test]
fn a_node_that_cannot_be_is_left_out_and_named() {
    with_site(1, |site| {
        site.start()?;
        let node = site.node(1);
        site.api.put(flannel_node(
            "old",
            "10.244.5.0/24",
            "192.168.50.5",
            "02:00:00:00:00:05",
        ));
        wait_for_node(node, "old")?;
        let mac = |mac: &str| format!("{{\"VNI\":1,\"VtepMAC\":\"{mac}\"}}").into();
        for (bad, list, said) in [
            (
                annotated("public-ip", "x".into()),
                "problems",
                "node \"bad\" annotation flannel.alpha.coreos.com/public-ip = \"x\"",
            ),
            (
                annotated("public-ip", "y".repeat(200_000).into()),
                "problems",
                "public-ip = \"yyyy",
            ),
            (
                annotated("public-ip", 7.into()),
                "problems",
                "public-ip = 7",
            ),
            (
                annotated("public-ip", json!({"a": []})),
                "problems",
                "public-ip = {\"a\":[]}",
            ),
            (
                annotated("public-ip", "127.0.0.1".into()),
                "problems",
                "node \"bad\" underlay = \"127.0.0.1\"",
            ),
            (
                annotated("public-ip", "10.244.5.5".into()),
                "problems",
                "inside the pods' network",
            ),
            (
                annotated("public-ip", "192.168.50.5".into()),
                "problems",
                "underlay = 192.168.50.5: node \"old\" has it",
            ),
            (
                annotated("public-ip", "192.168.50.1".into()),
                "problems",
                "underlay = 192.168.50.1: node \"node-1\" has it",
            ),
            (
                annotated("backend-data", mac("02:00:00:00:00:05")),
                "problems",
                "vtep_mac = 02:00:00:00:00:05: node \"old\" has it",
            ),
            (
                annotated("backend-data", "{}".into()),
                "problems",
                "backend-data VtepMAC: ",
            ),
            (
                annotated(
                    "backend-data",
                    "{\"VNI\":2,\"VtepMAC\":\"02:00:00:00:00:66\"}".into(),
                ),
                "problems",
                "the network's is 1",
            ),
            (
                annotated("backend-type", "udp".into()),
                "notes",
                "with Flannel's backend \"udp\" instead of vxlan: bad",
            ),
            (
                annotated("kube-subnet-manager", "no".into()),
                "notes",
                "without annotations of Oxlan or Flannel: bad",
            ),
            (
                bad(|n| n["metadata"]["annotations"] = json!([7])),
                "notes",
                "without annotations of Oxlan or Flannel: bad",
            ),
            (
                bad(|n| n["spec"] = json!({})),
                "notes",
                "without a podCIDR yet: bad",
            ),
            (
                bad(|n| n["spec"] = Value::Null),
                "notes",
                "without a podCIDR yet: bad",
            ),
            (
                bad(|n| n["spec"] = json!({"podCIDRs": 7})),
                "problems",
                "podCIDRs = 7",
            ),
            (
                bad(|n| n["spec"] = json!({"podCIDR": "10.244.66.0"})),
                "problems",
                "podCIDRs[0] = \"10.244.66.0\"",
            ),
            (
                bad(|n| n["spec"] = json!({"podCIDR": "10.99.0.0/24"})),
                "problems",
                "outside the network's pod_cidrs",
            ),
            (
                bad(|n| n["spec"] = json!({"podCIDR": "10.244.5.128/25"})),
                "problems",
                "it overlaps 10.244.5.0/24 of node \"old\"",
            ),
            (
                bad(|n| n["spec"] = json!({"podCIDR": "10.244.0.0/16"})),
                "problems",
                "it overlaps",
            ),
            (
                bad(|n| n["spec"] = json!({"podCIDR": "10.244.66.7/32"})),
                "problems",
                "no room for a pod",
            ),
            (
                bad(|n| n["spec"] = json!({"podCIDR": "fd00::/64"})),
                "notes",
                "of a family that the network uses: bad",
            ),
        ] {
            site.api.put(bad);
            wait_for_remark(node, list, said)?;
            ensure!(
                names(node)? == ["node-1", "old"],
                "{said}: {:?}",
                names(node)?
            );
        }
        // Put right, it is taken in; the others were never gone.
        site.api.put(bad(|_| {}));
        wait_for_node(node, "bad")?;
        wait_until_no_problem(node)?;
        site.api.delete("bad");
        wait_until_gone(node, "bad")
    });
}

/// Nothing on the node is touched.
#[test]
fn an_agent_does_not_start_with_what_it_cannot_use() {
    with_site(1, |site| {
        let node = site.node(1);
        site.register(1);
        let mut unknown = net_conf();
        unknown["Backend"]["Type"] = "wireguard".into();
        let kubeconfig = site.api.kubeconfig(&json!({}));
        for (file, text, said) in [
            ("net-conf.json", unknown.to_string(), "wireguard"),
            ("net-conf.json", "{".to_owned(), "is not JSON"),
            ("kubeconfig", ": no YAML [".to_owned(), "kubeconfig"),
            ("kubeconfig", "{}".to_owned(), "kubeconfig"),
        ] {
            site.write("net-conf.json", &net_conf().to_string())?;
            site.write("kubeconfig", &kubeconfig)?;
            site.write(file, &text)?;
            site.spawn_agent(1)?;
            ensure!(!node.agent_ended()?.success(), "{said}: it started");
            ensure!(node.log().contains(said), "{said}: {}", node.log());
        }
        site.write("net-conf.json", &net_conf().to_string())?;
        site.write("kubeconfig", &kubeconfig)?;
        site.api
            .change("node-1", |n| n["spec"] = json!({"podCIDR": "10.9.9.0/24"}))?;
        site.spawn_agent(1)?;
        ensure!(
            !node.agent_ended()?.success(),
            "it started outside the network"
        );
        ensure!(node.log().contains("10.9.9.0/24"), "{}", node.log());
        ensure!(
            !node.succeeds("ip link show oxlan0")?,
            "there is an overlay device"
        );
        Ok(())
    });
}

/// Without the right to patch its Node the agent works, and says that the others cannot know.
#[test]
fn an_agent_that_may_not_announce_says_so() {
    with_site(1, |site| {
        site.register(1);
        site.api.misbehave(oxlan_tests::kube_api::Faults {
            read_only: true,
            ..Default::default()
        });
        site.spawn_agent(1)?;
        let node = site.node(1);
        node.wait_ready()?;
        wait_for_remark(node, "problems", "patch of nodes/status")?;
        node.add_pod("a")?;
        site.api.misbehave(Default::default());
        until_true(SOON, "announcement", || {
            let own = site.api.node("node-1")?;
            Ok(super::annotation(&own, "public-ip") == "192.168.50.1")
        })?;
        wait_until_no_problem(node)
    });
}
