//! Many pods on one node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use oxlan_tests::cluster::{Shape, with_cluster};
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::traffic::{End, udp};

const PODS: usize = 100;
/// Callers at once, as a runtime starts pods.
const CALLERS: usize = 10;

#[test]
fn a_hundred_pods() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        let pods = in_parallel(PODS, |number| node.add_pod(&format!("p{number}")))?;
        let distinct: BTreeSet<IpAddr> = pods.iter().flat_map(Pod::addresses).collect();
        ensure!(
            distinct.len() == 2 * PODS,
            "{} distinct addresses",
            distinct.len()
        );
        assert_eq!(
            node.oxlan_json("pods")?.as_array().map(Vec::len),
            Some(PODS)
        );

        let remote = cluster.nodes[1].add_pod("remote")?;
        for pod in &pods {
            for client in [&pods[0], &remote] {
                exchange(client, pod)?;
            }
        }
        in_parallel(PODS, |number| node.delete_pod(&pods[number]))?;
        nothing_is_left(node)
    });
}

fn exchange(client: &Pod, server: &Pod) -> Result<()> {
    for (from, to) in client.addresses().zip(server.addresses()) {
        udp::exchange(
            End::new(&client.netns, from),
            End::new(&server.netns, to),
            64,
            1,
        )?;
    }
    Ok(())
}

fn nothing_is_left(node: &Node) -> Result<()> {
    assert_eq!(node.oxlan_json("pods")?, serde_json::json!([]));
    let veths = node.netns.run("ip -o link show type veth")?;
    ensure!(!veths.contains("oxl"), "left on the node: {veths}");
    let links = std::fs::read_dir(node.dirs.bpf.join("links"))?;
    let names: Vec<String> = links
        .flatten()
        .map(|link| link.file_name().to_string_lossy().into_owned())
        .collect();
    ensure!(
        !names.iter().any(|name| name.starts_with("from_pod")),
        "left pinned: {names:?}"
    );
    Ok(())
}

/// Calls `work` with the numbers below `count` from [`CALLERS`] threads.
fn in_parallel<T: Send>(count: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..CALLERS)
            .map(|first| scope.spawn(move || (first..count).step_by(CALLERS).map(work).collect()))
            .collect();
        let parts: Result<Vec<Vec<T>>> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        Ok(parts?.into_iter().flatten().collect())
    })
}
