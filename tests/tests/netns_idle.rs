//! An agent that the kernel tells of everything sleeps while nothing happens.
//!
//! In a file of its own, so that no other test of the machine changes anything meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oxlan_tests::cluster::{Shape, with_cluster};
use oxlan_tests::node::Node;
use oxlan_tests::run::host;
use oxlan_tests::skip::skip;
use oxlan_tests::wait::{SOON, until, until_true};

/// In which what somebody has changed is put back.
const SECOND: Duration = Duration::from_secs(1);

/// The key of the second node in `vteps`: its underlay address 192.168.50.2, v4-mapped.
const PEER: &str = "0 0 0 0 0 0 0 0 0 0 255 255 192 168 50 2";

/// Longer than the time between two looks of an agent that has to compare.
const WATCHED: Duration = Duration::from_secs(3);

/// What an agent says that the kernel does not tell of changed maps.
const COMPARES: &str = "comparing all maps all the time";

#[test]
fn an_agent_sleeps_until_somebody_changes_a_map() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        node.add_pod("a")?;
        if node.log().contains(COMPARES) {
            skip("this kernel does not let programs trace system calls");
            return Ok(());
        }
        // The last repairs and the timers of new devices' addresses may take some seconds.
        until(SOON, "rest of the agent", || sleeps(node))?;
        let vteps = node.dirs.bpf.join("maps/vteps");
        let entry = |verb: &str| {
            let pin = vteps.display();
            host(&format!("bpftool map {verb} pinned {pin} key {PEER}"))
        };
        let right = entry("lookup").context("the other node is not in the map")?;
        entry("delete")?;
        until_true(SECOND, "repair of the entry", || {
            Ok(entry("lookup")? == right)
        })?;
        until(SOON, "rest after the repair", || sleeps(node))
    });
}

/// That no thread of the agent is woken up for some seconds.
fn sleeps(node: &Node) -> Result<()> {
    let before = wakeups(node)?;
    std::thread::sleep(WATCHED);
    let woken = wakeups(node)?.saturating_sub(before);
    ensure!(woken == 0, "it woke up {woken} times");
    Ok(())
}

/// How often threads of the agent have waited for something.
fn wakeups(node: &Node) -> Result<u64> {
    let tasks = format!("/proc/{}/task", node.agent_pid()?);
    let mut sum = 0;
    for task in std::fs::read_dir(&tasks)? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        let count = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
            .context("the kernel counts no context switches")?;
        sum += count.trim().parse::<u64>()?;
    }
    Ok(sum)
}
