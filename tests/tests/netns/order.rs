//! Nothing on the way may put the packets of a TCP flow into another order.

use anyhow::{Context, Result, ensure};
use oxlan_tests::cluster::{Families, Shape, with_cluster};
use oxlan_tests::netns::Netns;
use oxlan_tests::traffic::{End, tcp};

/// Bytes of a transfer; there and back.
const BULK: usize = 16 << 20;

/// Transfers over each way, of which the one in the middle counts: what goes two ways is reordered in each of them,
/// but a machine that stands still for a moment makes the kernel drop a segment, and thousands behind it are early.
const ROUNDS: usize = 7;

/// Counters of the kernel (net/ipv4/proc.c) that say that a segment came too early.
const REORDERED: [&str; 3] = ["TCPOFOQueue", "TCPSACKReorder", "TCPTSReorder"];

/// A sender that is moved to another CPU overtakes itself, with any way: what it sent before waits in the
/// backlog of the CPU that it has left. So the kernel's own way, in the same minute, is the measure.
#[test]
fn streams_are_not_reordered() {
    check(Families::V4, 5);
}

/// On one CPU nothing is left to chance: whatever is reordered there, has gone two ways.
#[test]
fn streams_on_one_processor_are_not_reordered_more_than_by_the_kernel() {
    let mut one = nix::sched::CpuSet::new();
    let here = nix::sched::sched_getcpu().and_then(|cpu| one.set(cpu));
    // The threads of this test's sockets follow; agents have a part in no packet.
    let pinned =
        here.and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &one));
    assert_eq!(pinned, Ok(()));
    check(Families::V4, 2);
}

/// Over IPv6, sent aggregates go by the overlay device and single packets do not: neither way queues, but a sender
/// that is moved to another CPU has two backlogs to overtake itself in.
#[test]
fn streams_are_not_reordered_over_ipv6() {
    check(Families::V6, 15);
}

/// Streams over both ways in turn. Ours may have this many events a transfer more than the kernel's: on a busy
/// machine some come by chance, while two ways for one flow make hundreds.
fn check(underlay: Families, more: u64) {
    let shape = Shape {
        plain_nodes: 2,
        v6: false,
        ..Shape::nodes(2).over(underlay)
    };
    with_cluster(shape, |cluster| {
        let a = cluster.nodes[0].add_pod("a")?;
        let b = cluster.nodes[1].add_pod("b")?;
        let (plain_a, from) = cluster.plain[0].add_pod(10)?;
        let (plain_b, to) = cluster.plain[1].add_pod(10)?;
        let ours = [End::new(&a.netns, a.ipv4()?), End::new(&b.netns, b.ipv4()?)];
        let kernels = [End::new(&plain_a, from), End::new(&plain_b, to)];
        let mut events = [const { Vec::new() }; 2];
        for _ in 0..ROUNDS {
            for (events, ends) in events.iter_mut().zip([ours, kernels]) {
                events.push(reordered_by_a_transfer(ends)?);
            }
        }
        println!(
            "reordered by a transfer: {:?} over Oxlan, {:?} over the kernel's own way",
            events[0], events[1]
        );
        let [ours, kernels] = events.map(median);
        ensure!(
            ours <= kernels + more,
            "{ours} events, {kernels} on the kernel's own way"
        );
        Ok(())
    });
}

fn median(mut events: Vec<u64>) -> u64 {
    events.sort_unstable();
    events[events.len() / 2]
}

/// How many more events both ends have counted after it.
fn reordered_by_a_transfer([client, server]: [End<'_>; 2]) -> Result<u64> {
    let counted = || anyhow::Ok(reordered(client.netns)? + reordered(server.netns)?);
    let before = counted()?;
    tcp::transfer(client, server, BULK)?;
    Ok(counted()? - before)
}

/// Events that a namespace has counted.
fn reordered(netns: &Netns) -> Result<u64> {
    let text = netns.run("nstat -asz")?;
    let count = |name: &str| -> Result<u64> {
        let name = format!("TcpExt{name}");
        let line = text
            .lines()
            .find(|line| line.split_whitespace().next() == Some(&name));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        value
            .with_context(|| format!("no counter {name}"))?
            .parse()
            .with_context(|| format!("counter {name}"))
    };
    REORDERED.into_iter().map(count).sum()
}
