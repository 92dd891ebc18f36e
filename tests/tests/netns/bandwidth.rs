//! Limits of what pods send and receive (the capability `bandwidth`).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use oxlan_tests::cluster::{Shape, with_cluster};
use oxlan_tests::netns::Netns;
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::traffic::{End, tcp};
use oxlan_tests::wait::{SOON, until, until_true};
use serde_json::{Value, json};

/// Bits per second, and at once: less than an aggregate, so that the limit has to cut them.
const RATE: u64 = 8_000_000;
const BURST: u64 = 32 * 1024 * 8;

/// Bytes that pass a limit in a test: a second's.
const BYTES: usize = 1_000_000;

fn config(node: &Node, bandwidth: Value) -> Value {
    let mut config = node.cni_config();
    config["runtimeConfig"] = json!({ "bandwidth": bandwidth });
    config
}

/// As a runtime passes it on: also the direction without a limit is named.
fn receives_less(node: &Node, name: &str) -> Result<Pod> {
    let limit =
        json!({"ingressRate": RATE, "ingressBurst": BURST, "egressRate": 0, "egressBurst": 0});
    node.add_pod_with(name, config(node, limit))
}

fn sends_less(node: &Node, name: &str) -> Result<Pod> {
    let limit = json!({"egressRate": RATE, "egressBurst": BURST});
    node.add_pod_with(name, config(node, limit))
}

/// The least time in which so many bytes pass the limit, whatever the machine does.
fn least(bytes: usize) -> Duration {
    let over = bytes as u64 - BURST / 8;
    Duration::from_millis(over * 8 * 1000 / RATE)
}

/// Bytes that the limit of a device has let pass, if it has one.
fn passed(netns: &Netns, device: &str) -> Result<Option<u64>> {
    let text = netns.run(&format!("tc -s -j qdisc show dev {device} root"))?;
    let all: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let all = all.as_array().context("no list")?;
    let limit = all.iter().find(|d| d["kind"] == "tbf");
    Ok(limit.and_then(|d| d["bytes"].as_u64()))
}

fn expect_limited(client: &Pod, server: &Pod, limited: (&Netns, &str)) -> Result<()> {
    for (from, to) in client.addresses().zip(server.addresses()) {
        let (netns, device) = limited;
        let before = passed(netns, device)?.context("no limit")?;
        let begun = Instant::now();
        let (client, server) = (End::new(&client.netns, from), End::new(&server.netns, to));
        tcp::transfer(client, server, BYTES)?;
        let took = begun.elapsed();
        ensure!(took >= least(BYTES), "{BYTES} bytes took {took:?} to {to}");
        let passed = passed(netns, device)?.context("no limit")? - before;
        ensure!(
            passed >= BYTES as u64,
            "{passed} bytes have passed the limit"
        );
    }
    Ok(())
}

#[test]
fn a_pod_receives_no_faster_from_here_and_there() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [node, other] = [&cluster.nodes[0], &cluster.nodes[1]];
        let slow = receives_less(node, "slow")?;
        let device = slow.host_ifname()?;
        for client in [node.add_pod("near")?, other.add_pod("far")?] {
            expect_limited(&client, &slow, (&node.netns, &device))?;
        }
        // What passes the limit is none of the host's translated flows.
        ensure!(node.verdicts("translated")? == 0);
        ensure!(
            passed(&slow.netns, "eth0")?.is_none(),
            "it sends as much as it can"
        );
        node.delete_pod(&slow)?;
        ensure!(!node.netns.run("tc qdisc show")?.contains("tbf"));
        Ok(())
    });
}

#[test]
fn a_pod_sends_no_faster_to_here_and_there() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [node, other] = [&cluster.nodes[0], &cluster.nodes[1]];
        let slow = sends_less(node, "slow")?;
        for server in [node.add_pod("near")?, other.add_pod("far")?] {
            expect_limited(&slow, &server, (&slow.netns, "eth0"))?;
        }
        ensure!(passed(&node.netns, &slow.host_ifname()?)?.is_none());
        Ok(())
    });
}

/// Limits outlive agents, and somebody who takes one away.
#[test]
fn limits_are_kept_and_checked() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let limit = json!({"ingressRate": RATE, "ingressBurst": BURST, "egressRate": RATE, "egressBurst": 1});
        let pod = node.add_pod_with("slow", config(node, limit))?;
        let device = pod.host_ifname()?;
        let check = || -> Result<()> {
            let mut config = node.cni_config();
            config["prevResult"] = pod.result.clone();
            let answer = node.cni_with("CHECK", &pod.container, &pod.netns, config)?;
            answer.result().map(drop)
        };
        check()?;
        // The host's side is watched.
        node.netns.run(&format!("tc qdisc del dev {device} root"))?;
        until(SOON, "the limit to be set again", check)?;
        node.netns.run(&format!(
            "tc qdisc replace dev {device} root tbf rate 1gbit burst 1m latency 1s"
        ))?;
        until(SOON, "the limit to be the right one", check)?;
        // The pod's own side is looked at when it is checked and when an agent starts.
        pod.netns.run("tc qdisc del dev eth0 root")?;
        let said = check().expect_err("the limit is gone").to_string();
        ensure!(
            said.contains("eth0 is not limited to 1000000 bytes/s"),
            "{said}"
        );
        node.kill_agent()?;
        node.start_agent()?;
        check()?;
        ensure!(node.oxlan_json("status")?["problems"] == json!([]));
        // A new MTU needs a larger burst, or the largest frames would never pass again.
        let uplink = node.oxlan_json("status")?["uplinks"][0]["name"].clone();
        let uplink = uplink.as_str().context("no uplink")?;
        node.netns.run(&format!("ip link set {uplink} mtu 1400"))?;
        until_true(SOON, "the pod's MTU to follow", || {
            Ok(pod.netns.run("ip link show eth0")?.contains("mtu 1350"))
        })?;
        until(SOON, "the limits to follow", check)?;
        let near = node.add_pod("near")?;
        near.ping(pod.ipv4()?.into())
    });
}
