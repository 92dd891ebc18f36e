//! 200 operations at random, by callers that work at the same time, while the agent is killed now
//! and then. In the end nothing is leaked and no address is double.

#![cfg(test)]

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use oxlan::cni::code;
use oxlan_tests::cluster::{Shape, with_cluster};
use oxlan_tests::netns::Netns;
use oxlan_tests::node::Node;
use oxlan_tests::traces;

const CALLERS: usize = 4;
const OPERATIONS: usize = 50;
const PODS: usize = 12;
const KILLS: usize = 4;

/// xorshift64 (Marsaglia 2003): the same operations in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap_or_default()
    }
}

#[test]
fn nothing_is_leaked_and_nothing_is_double() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let names = (0..PODS).map(|number| node.pod_netns(&format!("r{number}")));
        let pods = names.collect::<Result<Vec<Netns>>>()?;
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let calls = |caller| {
                let (pods, done) = (&pods, &done);
                move || call(node, pods, Random(0x9e37_79b9_7f4a_7c15 ^ caller), done)
            };
            let callers: Vec<_> = (1..=CALLERS as u64)
                .map(|c| scope.spawn(calls(c)))
                .collect();
            let killed = kill_now_and_then(node, &done);
            let results = callers.into_iter().map(|caller| caller.join());
            results.into_iter().try_for_each(|result| {
                result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?;
            killed
        })?;
        // The last successor has seen to what the last kill left.
        node.kill_agent()?;
        node.start_agent()?;
        require_order(node, &pods)?;
        for pod in &pods {
            node.cni("DEL", pod.name(), pod)?.result()?;
            pod.delete()?;
        }
        let traces = traces::of_pods(node)?;
        ensure!(traces.is_empty(), "left: {traces:#?}");
        Ok(())
    });
}

/// Kills the agent when a part of the operations is done, and starts another.
fn kill_now_and_then(node: &Node, done: &AtomicUsize) -> Result<()> {
    for kill in 1..=KILLS {
        let due = kill * CALLERS * OPERATIONS / (KILLS + 1);
        oxlan_tests::wait::until_true(10 * oxlan_tests::wait::SOON, "progress", || {
            Ok(done.load(Ordering::SeqCst) >= due)
        })?;
        node.kill_agent()?;
        node.start_agent()?;
    }
    Ok(())
}

/// One caller. What fails while no agent answers is tried again by a runtime, or not at all.
fn call(node: &Node, pods: &[Netns], mut random: Random, done: &AtomicUsize) -> Result<()> {
    let allowed = [
        code::TRY_AGAIN,
        code::ALREADY_ATTACHED,
        code::UNAVAILABLE,
        // CHECK has no result to compare with, but must say so in order.
        code::INVALID_CONFIG,
    ];
    for _ in 0..OPERATIONS {
        let pod = pods.get(random.below(pods.len())).context("no pod")?;
        let verb = match random.below(10) {
            0..5 => "ADD",
            5..8 => "DEL",
            8 => "CHECK",
            _ => "STATUS",
        };
        let answer = node.cni(verb, pod.name(), pod)?;
        if !answer.success {
            let (code, message) = answer.error()?;
            ensure!(
                allowed.iter().any(|allowed| u64::from(*allowed) == code),
                "{verb}: {code}: {message}"
            );
        }
        done.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

/// Every attachment is complete and works, no two have an address in common, and every trace on the
/// node belongs to one.
fn require_order(node: &Node, pods: &[Netns]) -> Result<()> {
    let rows = node.oxlan_json("pods")?;
    let rows = rows.as_array().context("no list")?;
    let mut addresses = HashSet::new();
    for row in rows {
        ensure!(row["phase"] == "ready", "{row}");
        for address in row["addresses"].as_array().context("no addresses")? {
            ensure!(addresses.insert(address.to_string()), "{address} is double");
        }
        let pod = pods.iter().find(|pod| row["container_id"] == pod.name());
        let pod = pod.context("a pod that nobody made")?;
        pod.run("ping -n -q -c 1 -W 2 10.244.1.0")?;
    }
    // A device, a record and a link each, and two of everything that an address has.
    let traces = traces::of_pods(node)?;
    for (kind, each) in [
        ("ip -o link", 1),
        ("record", 1),
        ("link from", 1),
        ("map entry", 2),
    ] {
        let count = traces
            .iter()
            .filter(|trace| trace.starts_with(kind))
            .count();
        ensure!(
            count == each * rows.len(),
            "{count} x {kind} of {} pods: {traces:#?}",
            rows.len()
        );
    }
    Ok(())
}
