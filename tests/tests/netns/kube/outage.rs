//! The API server is away: what is known stays in force, also over a restart of the agent.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oxlan_tests::kube_api::{Faults, flannel_node};
use oxlan_tests::node::Node;
use oxlan_tests::wait::{SOON, until, until_true};

use super::{
    names, wait_for_node, wait_for_remark, wait_until_no_problem, wait_until_stored, with_site,
};

#[test]
fn pods_come_and_go_while_the_server_is_away() {
    with_site(2, |site| {
        site.start()?;
        let (a, b) = (site.node(1).add_pod("a")?, site.node(2).add_pod("b")?);
        site.api.go_away();
        for number in [1, 2] {
            wait_for_remark(site.node(number), "problems", "does not answer since")?;
        }
        a.ping(b.ipv4()?.into())?;
        let c = site.node(1).add_pod("c")?;
        c.ping(b.ipv4()?.into())?;
        site.node(1).delete_pod(&a)?;
        site.api.put(flannel_node(
            "new",
            "10.244.7.0/24",
            "192.168.50.7",
            "02:00:00:00:00:07",
        ));
        site.api.come_back()?;
        for number in [1, 2] {
            wait_for_node(site.node(number), "new")?;
            wait_until_no_problem(site.node(number))?;
        }
        Ok(())
    });
}

/// As after a power failure of the whole cluster: nothing is pinned, and nobody can be asked.
#[test]
fn an_agent_starts_from_what_it_knew() {
    with_site(2, |site| {
        site.start()?;
        let node = site.node(1);
        wait_until_stored(node)?;
        let b = site.node(2).add_pod("b")?;
        site.api.go_away();
        node.stop_agent()?;
        node.netns.run("ip link del oxlan0")?;
        std::fs::remove_dir_all(&node.dirs.bpf)?;
        site.spawn_agent(1)?;
        node.wait_ready()?;
        assert_eq!(names(node)?, ["node-1", "node-2"]);
        wait_for_remark(node, "problems", "the nodes are those of 20")?;
        wait_for_remark(node, "problems", "does not answer since")?;
        let a = node.add_pod("a")?;
        a.ping(b.ipv4()?.into())?;

        site.api.put(flannel_node(
            "new",
            "10.244.7.0/24",
            "192.168.50.7",
            "02:00:00:00:00:07",
        ));
        site.api.come_back()?;
        wait_for_node(node, "new")?;
        wait_until_no_problem(node)?;
        a.ping(b.ipv4()?.into())
    });
}

/// A state that is of no use is no state: the agent waits for the server.
#[test]
fn a_damaged_state_is_not_believed() {
    with_site(1, |site| {
        site.register(1);
        let node = site.node(1);
        site.api.go_away();
        for text in ["", "{\"format\":1}", "[]"] {
            std::fs::create_dir_all(&node.dirs.state)?;
            std::fs::write(node.dirs.state.join("cluster-kube.json"), text)?;
            site.spawn_agent(1)?;
            until_true(SOON, "wait", || {
                Ok(node.log().contains("waiting: the API server"))
            })?;
            ensure!(
                node.oxlan_json("status").is_err(),
                "it started from {text:?}"
            );
            node.stop_agent()?;
            std::fs::remove_file(&node.dirs.log)?;
        }
        site.spawn_agent(1)?;
        site.api.come_back()?;
        node.wait_ready()
    });
}

/// How long an idle agent is watched.
const WATCHED: Duration = Duration::from_secs(3);

/// Switches of its threads in that time: comparing the maps takes some where the kernel does not tell of
/// changes. A timer that is always due takes a whole CPU, or is interrupted hundreds of times.
const SWITCHES: u64 = 150;
const CPU: Duration = Duration::from_millis(300);

/// CPU time of an agent so far, and how often its threads have made room for others, of themselves or not.
fn activity(node: &Node) -> Result<(Duration, u64)> {
    let mut sum = (Duration::ZERO, 0);
    for task in std::fs::read_dir(format!("/proc/{}/task", node.agent_pid()?))? {
        let task = task?.path();
        let read = |file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
        // A thread may end meanwhile. proc(5): nanoseconds on the CPU come first.
        let schedule = read("schedstat");
        let ran = schedule
            .split_whitespace()
            .next()
            .and_then(|n| n.parse().ok());
        sum.0 += Duration::from_nanos(ran.unwrap_or_default());
        let status = read("status");
        let lines = status
            .lines()
            .filter(|l| l.contains("voluntary_ctxt_switches:"));
        let counts = lines.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
        sum.1 += counts.sum::<u64>();
    }
    Ok(sum)
}

fn wait_until_idle(node: &Node) -> Result<()> {
    until(SOON * 2, "rest of the agent", || {
        let before = activity(node)?;
        std::thread::sleep(WATCHED);
        let after = activity(node)?;
        let (cpu, switches) = (
            after.0.saturating_sub(before.0),
            after.1.saturating_sub(before.1),
        );
        ensure!(
            cpu < CPU && switches < SWITCHES,
            "{cpu:?}, {switches} switches"
        );
        Ok(())
    })
}

/// Whatever it waits for, the agent has no timer that is always due.
#[test]
fn an_agent_sleeps_while_nothing_happens() {
    with_site(2, |site| {
        site.start()?;
        let node = site.node(1);
        wait_until_idle(node).context("all is well")?;
        // It may not announce itself: the next attempt has its time.
        site.api.misbehave(Faults {
            read_only: true,
            ..Faults::default()
        });
        site.api.change("node-1", |node| {
            node["metadata"]["annotations"]["flannel.alpha.coreos.com/backend-type"] = "x".into();
        })?;
        wait_for_remark(node, "problems", "cannot be announced")?;
        wait_until_idle(node).context("it is refused")?;
        site.api.misbehave(Faults::default());
        wait_until_no_problem(node)?;
        site.api.go_away();
        wait_for_remark(node, "problems", "does not answer since")?;
        wait_until_idle(node).context("the server is away")?;
        site.api.come_back()?;
        wait_until_no_problem(node)?;
        // A Node that comes is remembered on disk, later: that timer ends, too.
        site.api.put(flannel_node(
            "new",
            "10.244.7.0/24",
            "192.168.50.7",
            "02:00:00:00:00:07",
        ));
        wait_for_node(node, "new")?;
        wait_until_idle(node).context("another Node has come")
    });
}
