//! Pods and agents that come and go while a numbered stream runs: nothing of it may be lost.

use std::time::Duration;

use anyhow::Result;
use oxlan_tests::cluster::{Cluster, Shape, with_cluster};
use oxlan_tests::node::Node;
use oxlan_tests::run::host;
use oxlan_tests::traffic::End;
use oxlan_tests::traffic::udp_stream::UdpStream;
use oxlan_tests::wait::{SOON, until_true};

const INTERVAL: Duration = Duration::from_millis(1);

/// Streams between pods while `disturb` runs: on one node, and across in both families and directions.
fn under_traffic(cluster: &Cluster, disturb: impl FnOnce() -> Result<()>) -> Result<()> {
    let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
    let (a, b) = (first.add_pod("a")?, first.add_pod("b")?);
    let c = second.add_pod("c")?;
    let streams = [
        UdpStream::start(
            End::new(&a.netns, a.ipv4()?),
            End::new(&b.netns, b.ipv4()?),
            INTERVAL,
        )?,
        UdpStream::start(
            End::new(&a.netns, a.ipv4()?),
            End::new(&c.netns, c.ipv4()?),
            INTERVAL,
        )?,
        UdpStream::start(
            End::new(&c.netns, c.ipv6()?),
            End::new(&b.netns, b.ipv6()?),
            INTERVAL,
        )?,
    ];
    streams
        .iter()
        .try_for_each(|stream| stream.wait_for_more(100))?;
    disturb()?;
    streams
        .iter()
        .try_for_each(|stream| stream.wait_for_more(200))?;
    for stream in streams {
        stream.finish()?.expect_perfect(300)?;
    }
    Ok(())
}

/// Both agents, one after the other, end by `end` and start again.
fn replace_agents(cluster: &Cluster, end: impl Fn(&Node) -> Result<()>) -> Result<()> {
    for node in &cluster.nodes {
        end(node)?;
        std::thread::sleep(Duration::from_millis(200));
        node.start_agent()?;
    }
    Ok(())
}

#[test]
fn a_killed_agent_and_its_successor_lose_nothing() {
    with_cluster(Shape::nodes(2), |cluster| {
        under_traffic(cluster, || replace_agents(cluster, Node::kill_agent))
    });
}

#[test]
fn a_stopped_agent_and_its_successor_lose_nothing() {
    with_cluster(Shape::nodes(2), |cluster| {
        under_traffic(cluster, || replace_agents(cluster, Node::stop_agent))
    });
}

/// A successor that cannot use the maps, as one of a version with another layout, fills new ones
/// and moves the programs over to them.
#[test]
fn a_successor_with_other_maps_loses_nothing() {
    with_cluster(Shape::nodes(2), |cluster| {
        under_traffic(cluster, || {
            for node in &cluster.nodes {
                let map = || host(&format!("bpftool map show pinned {}", pin_of_pods(node)));
                let before = map()?;
                node.kill_agent()?;
                let larger = [("OXLAN_MAX_PODS", "5000"), ("OXLAN_MAX_ROUTES", "5000")];
                node.spawn_agent_with(&larger)?;
                node.wait_ready()?;
                let after = map()?;
                anyhow::ensure!(
                    before != after && after.contains("max_entries 5000"),
                    "{before} became {after}"
                );
            }
            Ok(())
        })
    });
}

fn pin_of_pods(node: &Node) -> String {
    node.dirs.bpf.join("maps/pods").display().to_string()
}

#[test]
fn pods_come_and_go_beside_a_stream() {
    with_cluster(Shape::nodes(2), |cluster| {
        under_traffic(cluster, || {
            for round in 0..10 {
                for node in &cluster.nodes {
                    let pod = node.add_pod(&format!("guest{round}"))?;
                    node.delete_pod(&pod)?;
                }
            }
            Ok(())
        })
    });
}

/// A pod that is gone is gone at once: its peers get errors instead of silence.
#[test]
fn a_deleted_pod_is_unreachable_at_once() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let client = first.add_pod("client")?;
        for node in [first, second] {
            let pod = node.add_pod("gone")?;
            let addresses: Vec<_> = pod.addresses().collect();
            for address in &addresses {
                client.ping(*address)?;
            }
            node.delete_pod(&pod)?;
            for address in addresses {
                let answer = client
                    .netns
                    .command("ping")
                    .args(["-n", "-c", "1", "-W", "2", &address.to_string()])
                    .output()?;
                let text = String::from_utf8_lossy(&answer.stdout).into_owned();
                assert!(
                    text.contains("nreachable"),
                    "{address} on {}: {text}",
                    node.name
                );
            }
        }
        Ok(())
    });
}

/// A runtime whose DEL met no agent ends the namespace later, when one runs again.
#[test]
fn a_pod_that_ends_without_del_is_dropped() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let (kept, gone) = (node.add_pod("kept")?, node.add_pod("gone")?);
        kept.ping(gone.ipv4()?.into())?;
        gone.netns.delete()?;
        until_true(SOON, "end of the attachment", || {
            Ok(addresses(&node.oxlan_json("pods")?).len() == 1)
        })?;
        until_true(SOON, "a node without problems", || {
            Ok(node.oxlan_json("status")?["problems"] == serde_json::json!([]))
        })?;
        let entries = host(&format!("bpftool -j map dump pinned {}", pin_of_pods(node)))?;
        let entries: serde_json::Value = serde_json::from_str(&entries)?;
        // The node's own and the other pod's, of both families.
        assert_eq!(entries.as_array().map(Vec::len), Some(4), "{entries}");
        Ok(())
    });
}

/// Pods outlive their agent: what was attached before is known and can be detached after.
#[test]
fn a_new_agent_knows_the_pods() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let pods = [node.add_pod("a")?, node.add_pod("b")?];
        let before = node.oxlan_json("pods")?;
        node.kill_agent()?;
        node.start_agent()?;
        let after = node.oxlan_json("pods")?;
        assert_eq!(addresses(&before), addresses(&after));
        assert_eq!(addresses(&after).len(), 2);
        pods.iter().try_for_each(|pod| node.delete_pod(pod))?;
        assert_eq!(node.oxlan_json("pods")?, serde_json::json!([]));
        Ok(())
    });
}

/// With the agent down, pods are removed by the runtime all the same; the next agent tidies up.
#[test]
fn a_pod_may_go_while_the_agent_is_down() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let (kept, gone) = (node.add_pod("kept")?, node.add_pod("gone")?);
        node.kill_agent()?;
        node.delete_pod(&gone)?;
        let refused = node.cni("ADD", "late", &kept.netns)?.error()?;
        assert_eq!(refused.0, 11, "{refused:?}");
        node.start_agent()?;
        let pods = node.oxlan_json("pods")?;
        assert_eq!(addresses(&pods).len(), 1, "{pods}");
        assert_eq!(pods[0]["container_id"], kept.container.as_str());
        node.netns
            .run(&format!("ping -n -q -c 1 -W 2 {}", kept.ipv4()?))
            .map(drop)
    });
}

/// After a reboot the records are there, and nothing of what they are about.
#[test]
fn an_agent_starts_after_a_reboot() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        let old = node.add_pod("old")?;
        node.kill_agent()?;
        std::fs::remove_dir_all(&node.dirs.bpf)?;
        std::fs::remove_dir_all(&node.dirs.run)?;
        old.netns.delete()?;
        node.netns
            .run_all(&["ip link del oxlan0", "nft flush ruleset"])?;
        node.start_agent()?;
        assert_eq!(node.oxlan_json("pods")?, serde_json::json!([]));
        let (a, b) = (node.add_pod("a")?, cluster.nodes[1].add_pod("b")?);
        b.addresses().try_for_each(|to| a.ping(to))
    });
}

fn addresses(pods: &serde_json::Value) -> Vec<String> {
    let rows = pods.as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter()
        .map(|pod| pod["addresses"].to_string())
        .collect()
}
