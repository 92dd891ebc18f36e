//! What has gone wrong once does not go on: keys of one node that contradict each other, or that vanish.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oxlan_tests::cluster::Shape;
use oxlan_tests::node::Node;
use oxlan_tests::wait::{SOON, until_true};

use crate::site::{DUAL, SINGLE, key, own, value, wait_for_nodes, wait_for_problem, with_site};

/// The prefixes of the node with this underlay address, as another one knows them.
fn seen(node: &Node, address: &str) -> Result<String> {
    let nodes = node.oxlan_json("nodes")?;
    let all = nodes.as_array().context("no list of nodes")?;
    let row = all.iter().find(|row| row.to_string().contains(address));
    Ok(row.context("not there")?.to_string())
}

/// An agent was killed after it took a subnet and before it saw that an older one overlaps.
#[test]
fn a_subnet_that_overlaps_an_older_one_is_given_up() {
    with_site(Shape::nodes(1), 1, false, |site| {
        site.configure(DUAL)?;
        site.put(
            "10.244.8.0-24&fd00:244:0:8::-64",
            &value(8, "02:0a:00:00:00:08"),
        )?;
        let lease = site.etcd.ctl(&["lease", "grant", "86400"])?;
        let lease = lease
            .split_whitespace()
            .nth(1)
            .context("no lease")?
            .to_owned();
        let wrong = key("10.244.9.0-24&fd00:244:0:8::-64");
        site.etcd.ctl(&[
            "put",
            "--lease",
            &lease,
            &wrong,
            &value(1, "02:0a:00:00:00:01"),
        ])?;
        let node = site.start(0)?;
        ensure!(
            !own(node)?.iter().any(|p| p.contains("fd00:244:0:8")),
            "{:?}",
            own(node)?
        );
        ensure!(site.etcd.key(&wrong)?.is_null(), "the key is still there");
        wait_for_nodes(node, 2)
    });
}

/// Of two reservations for one node, it and the others go by the older one.
#[test]
fn nodes_agree_on_a_node_with_two_subnets() {
    with_site(Shape::nodes(2), 1, false, |site| {
        site.configure(SINGLE)?;
        site.put("10.244.78.0-24", &value(1, "02:0a:00:00:00:01"))?;
        site.put("10.244.77.0-24", &value(1, "02:0a:00:00:00:01"))?;
        let (first, second) = (site.start(0)?, site.start(1)?);
        ensure!(own(first)? == ["10.244.78.0/24"], "{:?}", own(first)?);
        wait_for_nodes(second, 2)?;
        let row = seen(second, "192.168.50.1")?;
        ensure!(row.contains("10.244.78.0/24"), "{row}");
        // When that is gone, both go by the other one.
        site.etcd.ctl(&["del", &key("10.244.78.0-24")])?;
        until_true(SOON, "the other subnet", || {
            Ok(own(first)? == ["10.244.77.0/24"])
        })?;
        until_true(SOON, "the other subnet, as seen by the other node", || {
            Ok(seen(second, "192.168.50.1").is_ok_and(|row| row.contains("10.244.77.0/24")))
        })
    });
}

/// The own key vanishes and etcd with it: the node stays who it was, also if its agent is started again.
#[test]
fn a_node_whose_key_vanished_before_etcd_keeps_its_mac() {
    with_site(Shape::nodes(1), 1, false, |site| {
        site.configure(SINGLE)?;
        let mac = "02:0a:00:00:00:99";
        site.put("10.244.77.0-24", &value(1, mac))?;
        site.start(0)?;
        let node = &site.cluster.nodes[0];
        ensure!(node.oxlan_json("status")?["vtep_mac"] == mac);
        let agent = Pid::from_raw(node.agent_pid()?.try_into()?);
        kill(agent, Signal::SIGSTOP)?;
        site.etcd.ctl(&["del", &key("10.244.77.0-24")])?;
        site.etcd.kill(0)?;
        kill(agent, Signal::SIGCONT)?;
        wait_for_problem(node, "what was known before stays in force")?;
        ensure!(node.oxlan_json("status")?["vtep_mac"] == mac);
        node.kill_agent()?;
        site.start(0)?;
        ensure!(node.oxlan_json("status")?["vtep_mac"] == mac);
        ensure!(own(node)? == ["10.244.77.0/24"], "{:?}", own(node)?);
        // It writes the same again.
        site.etcd.restart(0)?;
        until_true(SOON, "the key to be written again", || {
            let text = site
                .etcd
                .ctl(&["get", "--print-value-only", &key("10.244.77.0-24")])?;
            Ok(text.contains(mac))
        })
    });
}

/// A memory that cannot be used does not hide why etcd cannot be.
#[test]
fn what_is_wrong_with_etcd_is_said_before_what_is_wrong_with_the_memory() {
    with_site(Shape::nodes(1), 1, false, |site| {
        site.etcd.kill(0)?;
        let node = &site.cluster.nodes[0];
        std::fs::create_dir_all(&node.dirs.state)?;
        let memory =
            r#"{"prefix":"/coreos.com/network","config":"{}","own":"10.244.1.0-24","subnets":[]}"#;
        std::fs::write(node.dirs.state.join("cluster-etcd.json"), memory)?;
        site.spawn(0, &[])?;
        let ended = node.agent_ended_within(Duration::from_secs(30))?;
        let log = node.log();
        ensure!(!ended.success(), "{log}");
        ensure!(
            log.contains("cannot use what was remembered of the cluster"),
            "{log}"
        );
        let last = log.lines().last().unwrap_or_default();
        ensure!(last.contains("etcd at http://192.168.50.254:2379"), "{log}");
        Ok(())
    });
}
