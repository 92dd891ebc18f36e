//! Nodes come, change and go; each announces itself and finds the others.

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oxlan_tests::cluster::Shape;
use oxlan_tests::kube_api::{PREFIX, flannel_node};
use oxlan_tests::wait::{SOON, until, until_true};
use serde_json::json;

use super::{
    annotation, net_conf, row, wait_for_node, wait_for_remark, wait_until_gone,
    wait_until_no_problem, with_shape, with_site,
};

#[test]
fn two_agents_find_each_other_and_their_pods_talk() {
    with_site(2, |site| {
        site.start()?;
        let (a, b) = (site.node(1).add_pod("a")?, site.node(2).add_pod("b")?);
        a.ping(b.ipv4()?.into())?;
        b.ping(a.ipv4()?.into())?;

        let node = site.api.node("node-1")?;
        assert_eq!(annotation(&node, "kube-subnet-manager"), "true");
        assert_eq!(annotation(&node, "backend-type"), "vxlan");
        assert_eq!(annotation(&node, "public-ip"), "192.168.50.1");
        let mac = site.node(1).oxlan_json("status")?["vtep_mac"].clone();
        let data = format!("{{\"VNI\":1,\"VtepMAC\":{mac}}}");
        assert_eq!(annotation(&node, "backend-data"), data);
        let foreign = &node["metadata"]["annotations"]["foreign.example.com/x"];
        assert_eq!(foreign, "y", "what others wrote is gone");
        let conditions = node["status"]["conditions"].as_array().context("none")?;
        let of = |kind: &str| conditions.iter().find(|c| c["type"] == kind);
        let network = of("NetworkUnavailable").context("no condition")?;
        assert_eq!(
            (&network["status"], &network["reason"]),
            (&json!("False"), &json!("FlannelIsUp"))
        );
        assert_eq!(
            of("Ready").context("the other condition is gone")?["status"],
            "True"
        );

        let env = std::fs::read_to_string(site.path("node-1-subnet.env"))?;
        assert_eq!(
            env,
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        let source = site.node(1).oxlan_json("status")?["source"].clone();
        assert_eq!(source, "kube http://127.0.0.1:6443");
        wait_until_no_problem(site.node(1))?;
        // What the agent wrote for others goes with it, or is named with the command that removes it.
        site.node(1).stop_agent()?;
        let said = site.node(1).cleanup()?;
        let command = "kubectl annotate node node-1 flannel.alpha.coreos.com/kube-subnet-manager- ";
        ensure!(said.contains(command), "{said}");
        ensure!(!site.path("node-1-subnet.env").exists(), "{said}");
        Ok(())
    });
}

#[test]
fn pods_of_both_families_talk_over_an_underlay_of_one() {
    let mut conf = net_conf();
    conf["EnableIPv6"] = true.into();
    conf["IPv6Network"] = "fd00:244::/48".into();
    with_shape(Shape::nodes(2), &conf, |site| {
        site.start()?;
        let (a, b) = (site.node(1).add_pod("a")?, site.node(2).add_pod("b")?);
        a.ping(b.ipv4()?.into())?;
        a.ping(b.ipv6()?.into())
    });
}

/// What a predecessor announced, and what an administrator has overwritten, stays.
#[test]
fn an_announced_mac_and_an_overwritten_address_are_kept() {
    with_site(1, |site| {
        let mac = "02:aa:00:00:00:01";
        let mut node = flannel_node("node-1", "10.244.1.0/24", "192.168.50.1", mac);
        node["metadata"]["annotations"][format!("{PREFIX}/public-ip-overwrite")] =
            "203.0.113.9".into();
        site.api.put(node);
        site.spawn_agent(1)?;
        site.node(1).wait_ready()?;
        let status = site.node(1).oxlan_json("status")?;
        assert_eq!(
            (&status["vtep_mac"], &status["underlay"]),
            (&json!(mac), &json!("192.168.50.1"))
        );
        assert_eq!(
            annotation(&site.api.node("node-1")?, "public-ip"),
            "203.0.113.9"
        );

        // Somebody else announces another MAC: it is put back.
        let wrong = "{\"VNI\":1,\"VtepMAC\":\"02:bb:00:00:00:01\"}";
        site.api.change("node-1", |node| {
            node["metadata"]["annotations"][format!("{PREFIX}/backend-data")] = wrong.into();
        })?;
        until_true(SOON, "own MAC again", || {
            let data = annotation(&site.api.node("node-1")?, "backend-data");
            Ok(data.as_str().is_some_and(|d| d.contains(mac)))
        })
    });
}

#[test]
fn nodes_join_change_and_leave() {
    with_site(1, |site| {
        site.start()?;
        let node = site.node(1);
        let mac = "02:f1:a0:00:00:07";
        site.api
            .put(flannel_node("f", "10.244.7.0/24", "192.168.50.7", mac));
        wait_for_node(node, "f")?;
        let cidr = || Ok::<_, anyhow::Error>(row(node, "f")?["pod_cidrs"][0].clone());
        assert_eq!(cidr()?, "10.244.7.0/24");

        // Made anew under the same name, with another prefix.
        site.api.delete("f");
        site.api
            .put(flannel_node("f", "10.244.8.0/24", "192.168.50.7", mac));
        until_true(SOON, "new prefix", || Ok(cidr()? == "10.244.8.0/24"))?;

        // It loses its prefix, and gets one again.
        site.api.change("f", |f| f["spec"] = json!({}))?;
        wait_for_remark(node, "notes", "without a podCIDR yet: f")?;
        wait_until_gone(node, "f")?;
        site.api
            .change("f", |f| f["spec"] = json!({"podCIDR": "10.244.9.0/24"}))?;
        until_true(SOON, "prefix again", || Ok(row(node, "f").is_ok()))?;

        site.api.delete("f");
        wait_until_gone(node, "f")
    });
}

#[test]
fn a_changed_network_configuration_is_followed_and_a_wrong_one_reported() {
    with_site(1, |site| {
        site.start()?;
        let node = site.node(1);
        let vni = || Ok::<_, anyhow::Error>(node.oxlan_json("status")?["vni"].clone());
        let mut conf = net_conf();
        conf["Backend"]["VNI"] = 7.into();
        conf["Backend"]["Port"] = 4789.into();
        site.write("net-conf.json", &conf.to_string())?;
        until_true(SOON, "VNI 7", || Ok(vni()? == 7))?;
        until_true(SOON, "port 4789", || {
            Ok(node.oxlan_json("status")?["port"] == 4789)
        })?;
        until_true(SOON, "announced VNI 7", || {
            let data = annotation(&site.api.node("node-1")?, "backend-data");
            Ok(data.as_str().is_some_and(|d| d.contains("\"VNI\":7")))
        })?;
        conf["Backend"]["Type"] = "host-gw".into();
        site.write("net-conf.json", &conf.to_string())?;
        wait_for_remark(node, "problems", "host-gw")?;
        assert_eq!(vni()?, 7);
        conf["Backend"] = json!({"Type": "vxlan", "VNI": 9});
        site.write("net-conf.json", &conf.to_string())?;
        until_true(SOON, "VNI 9", || Ok(vni()? == 9))?;
        until_true(SOON, "Flannel's port", || {
            Ok(node.oxlan_json("status")?["port"] == 8472)
        })?;
        wait_until_no_problem(node)
    });
}

/// Nodes on one link stop to encapsulate, and begin again, while their pods talk.
#[test]
fn direct_routing_is_followed() {
    with_site(2, |site| {
        site.start()?;
        let (a, b) = (site.node(1).add_pod("a")?, site.node(2).add_pod("b")?);
        for (direct, mode) in [(true, "auto"), (false, "vxlan")] {
            let mut conf = net_conf();
            conf["Backend"]["DirectRouting"] = direct.into();
            site.write("net-conf.json", &conf.to_string())?;
            for (number, other) in [(1, "10.244.2.0/24"), (2, "10.244.1.0/24")] {
                let node = site.node(number);
                until_true(SOON, mode, || {
                    let routes = node.oxlan_json("routes")?;
                    let mut routes = routes.as_array().into_iter().flatten();
                    let route = routes.find(|r| r["prefix"] == other);
                    let is_so = route.is_some_and(|r| r["direct"] == direct);
                    Ok(is_so && node.oxlan_json("status")?["mode"] == mode)
                })?;
            }
            a.ping(b.ipv4()?.into()).context(mode)?;
            b.ping(a.ipv4()?.into()).context(mode)?;
        }
        Ok(())
    });
}

/// Agents with another prefix find each other by it, and nobody else.
#[test]
fn annotations_have_the_prefix_that_is_wanted() {
    with_site(2, |site| {
        site.start_with(&[("OXLAN_ANNOTATION_PREFIX", "oxlan.example.com/blue")])?;
        let node = site.api.node("node-1")?;
        let annotations = &node["metadata"]["annotations"];
        assert_eq!(
            annotations["oxlan.example.com/blue-public-ip"],
            "192.168.50.1"
        );
        assert_eq!(annotation(&node, "public-ip"), serde_json::Value::Null);
        let mac = "02:f1:a0:00:00:07";
        site.api
            .put(flannel_node("f", "10.244.7.0/24", "192.168.50.7", mac));
        let (a, b) = (site.node(1).add_pod("a")?, site.node(2).add_pod("b")?);
        a.ping(b.ipv4()?.into())?;
        wait_for_remark(
            site.node(1),
            "notes",
            "without annotations of Oxlan or Flannel: f",
        )
    });
}

/// Kubernetes numbers a Node some time after its kubelet has registered it.
#[test]
fn an_agent_waits_for_its_node_and_its_prefix() {
    with_site(1, |site| {
        let node = site.node(1);
        site.spawn_agent(1)?;
        let says = |text: &str| until_true(SOON, text, || Ok(node.log().contains(text)));
        says("the cluster has no Node \"node-1\"")?;
        site.register(1);
        site.api.change("node-1", |n| n["spec"] = json!({}))?;
        says("has no podCIDR of 10.244.0.0/16 yet")?;
        ensure!(
            node.oxlan_json("status").is_err(),
            "the agent answers already"
        );
        site.api.change("node-1", |n| {
            n["spec"] = json!({"podCIDR": "10.244.1.0/24"})
        })?;
        node.wait_ready()?;
        node.add_pod("a").map(drop)
    });
}

#[test]
fn an_agent_that_waits_can_be_stopped() {
    with_site(1, |site| {
        site.spawn_agent(1)?;
        let node = site.node(1);
        until_true(SOON, "wait", || Ok(node.log().contains("waiting: ")))?;
        kill(
            Pid::from_raw(node.agent_pid()?.try_into()?),
            Signal::SIGTERM,
        )?;
        let ended = node.agent_ended()?;
        ensure!(ended.success(), "it ended with {ended}");
        Ok(())
    });
}

/// The own Node is made anew: pods stay, and who it is is announced again.
#[test]
fn the_own_node_is_deleted_and_comes_back() {
    with_site(2, |site| {
        site.start()?;
        let node = site.node(1);
        let (a, b) = (node.add_pod("a")?, site.node(2).add_pod("b")?);
        site.api.delete("node-1");
        wait_for_remark(node, "problems", "the cluster has no Node \"node-1\"")?;
        wait_until_gone(site.node(2), "node-1")?;
        site.register(1);
        wait_for_node(site.node(2), "node-1")?;
        wait_until_no_problem(node)?;
        until(SOON, "way between the pods", || a.ping(b.ipv4()?.into()))
    });
}
