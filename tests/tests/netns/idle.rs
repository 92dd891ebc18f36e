//! An agent with nothing to do does nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oxlan_tests::cluster::{Shape, with_cluster};
use oxlan_tests::node::Node;
use oxlan_tests::wait::{SOON, until_true};

/// How long the agent is watched.
const WATCHED: Duration = Duration::from_secs(3);

/// Wake-ups in that time that are not polling: a straggling event or two.
const FEW: u64 = 6;

/// What a comparison of all maps every second costs, where the kernel does not let the agent watch.
const COMPARING: u64 = 40;

/// How often the agent's threads went to sleep so far.
fn sleeps(node: &Node) -> Result<u64> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", node.agent_pid()?))?;
    let mut sum = 0;
    for task in tasks {
        // A thread may end meanwhile.
        let Ok(status) = std::fs::read_to_string(task?.path().join("status")) else {
            continue;
        };
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.context("no count")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}

#[test]
fn an_idle_agent_sleeps() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        node.add_pod("a")?;
        let watches = !node.log().contains("comparing all maps");
        let most = if watches { FEW } else { COMPARING };
        // What the pod's start has left to do ends within a moment.
        let mut seen = Vec::new();
        until_true(SOON, "quiet agent", || {
            let before = sleeps(node)?;
            std::thread::sleep(WATCHED);
            let now = sleeps(node)?.saturating_sub(before);
            seen.push(now);
            ensure!(now <= most, "woke up {seen:?} times in {WATCHED:?}");
            Ok(true)
        })
    });
}
