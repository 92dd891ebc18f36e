//! etcd is away, forgets, or changes its leader: forwarding and CNI go on.

use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oxlan_tests::cluster::Shape;
use oxlan_tests::traffic::End;
use oxlan_tests::traffic::udp_stream::UdpStream;
use oxlan_tests::wait::{SOON, until_true};

use crate::site::{
    DUAL, SINGLE, key, own, value, wait_for_nodes, wait_for_peace, wait_for_problem, wait_for_talk,
    with_site,
};

#[test]
fn pods_come_and_talk_while_etcd_is_away() {
    with_site(Shape::nodes(2), 1, false, |site| {
        site.configure(DUAL)?;
        site.start(0)?;
        site.start(1)?;
        let [first, second] = [&site.cluster.nodes[0], &site.cluster.nodes[1]];
        wait_for_nodes(first, 2)?;
        wait_for_nodes(second, 2)?;
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        wait_for_talk(&a, &b)?;
        let ends = (End::new(&a.netns, a.ipv4()?), End::new(&b.netns, b.ipv4()?));
        let stream = UdpStream::start(ends.0, ends.1, Duration::from_millis(1))?;
        stream.wait_for_more(100)?;
        site.etcd.kill(0)?;
        wait_for_problem(first, "etcd at http://192.168.50.254:2379")?;
        let c = first.add_pod("c")?;
        wait_for_talk(&c, &b)?;
        // An agent that starts now has what the last one remembered, some seconds ago at most.
        let memory = first.dirs.state.join("cluster-etcd.json");
        until_true(SOON, "the other node to be remembered", || {
            Ok(std::fs::read_to_string(&memory)?.contains("192.168.50.2"))
        })?;
        let before = own(first)?;
        first.kill_agent()?;
        site.start(0)?;
        ensure!(own(first)? == before, "{:?}", own(first)?);
        wait_for_problem(first, "what was known before stays in force")?;
        wait_for_nodes(first, 2)?;
        let d = first.add_pod("d")?;
        wait_for_talk(&d, &b)?;
        stream.wait_for_more(100)?;
        stream.finish()?.expect_perfect(200)?;
        site.etcd.restart(0)?;
        for node in [first, second] {
            wait_for_peace(node)?;
            wait_for_nodes(node, 2)?;
        }
        Ok(())
    });
}

/// What happened while an agent could not hear is known afterwards, although etcd no longer tells how it came.
#[test]
fn changes_that_were_compacted_are_seen() {
    with_site(Shape::nodes(1), 1, false, |site| {
        site.configure(SINGLE)?;
        site.put("10.244.8.0-24", &value(8, "02:0a:00:00:00:08"))?;
        site.start(0)?;
        let node = &site.cluster.nodes[0];
        wait_for_nodes(node, 2)?;
        let agent = Pid::from_raw(node.agent_pid()?.try_into()?);
        kill(agent, Signal::SIGSTOP)?;
        site.etcd.kill(0)?;
        site.etcd.restart(0)?;
        site.etcd.wait()?;
        site.etcd.ctl(&["del", &key("10.244.8.0-24")])?;
        for number in 20..30 {
            let name = format!("10.244.{number}.0-24");
            site.put(
                &name,
                &value(number, &format!("02:0a:00:00:00:{number:02x}")),
            )?;
        }
        let last = site.etcd.key(&key("10.244.29.0-24"))?;
        site.etcd
            .ctl(&["compact", "--physical", &last["mod_revision"].to_string()])?;
        kill(agent, Signal::SIGCONT)?;
        wait_for_nodes(node, 11)?;
        let nodes = node.oxlan("nodes --output json")?;
        ensure!(!nodes.contains("192.168.50.8"), "{nodes}");
        Ok(())
    });
}

/// With three members, one may be away, be it the leader.
#[test]
fn a_member_goes_and_the_leader_too() {
    with_site(Shape::nodes(2), 3, false, |site| {
        site.configure(SINGLE)?;
        let leader = site.etcd.leader()?;
        let follower = (leader + 1) % 3;
        site.etcd.kill(follower)?;
        site.start(0)?;
        site.start(1)?;
        let [first, second] = [&site.cluster.nodes[0], &site.cluster.nodes[1]];
        wait_for_nodes(first, 2)?;
        site.etcd.restart(follower)?;
        site.etcd.wait()?;
        let leader = site.etcd.leader()?;
        site.etcd.kill(leader)?;
        site.etcd.wait()?;
        site.put("10.244.8.0-24", &value(8, "02:0a:00:00:00:08"))?;
        for node in [first, second] {
            until_true(
                Duration::from_secs(30),
                "a change after the leader's end",
                || Ok(node.oxlan_json("status")?["nodes"] == 3),
            )?;
            wait_for_peace(node)?;
        }
        // Without a majority nothing is known, and that is said.
        let another = (leader + 1) % 3;
        site.etcd.kill(another)?;
        until_true(Duration::from_secs(40), "report that etcd is away", || {
            let problems = crate::site::problems(first)?;
            Ok(problems.iter().any(|p| p.contains("stays in force")))
        })?;
        site.etcd.restart(another)?;
        site.etcd.wait()?;
        until_true(Duration::from_secs(40), "end of the report", || {
            Ok(crate::site::problems(first)?.is_empty())
        })?;
        Ok(())
    });
}
