//! What a container runtime meets when something ends at the wrong time.

use anyhow::{Result, ensure};
use oxlan_tests::containerd::site::{Host, with_containers};
use oxlan_tests::libcni::{Attachment, Libcni, plugin_directories};
use oxlan_tests::wait::{SOON, until_true};

const IDLE: &str = "sleep 1000000";

#[test]
fn runtime_cleans_up_after_a_killed_container() {
    with_containers(1, |_, hosts| {
        let container = hosts[0].runtime.run("victim", IDLE)?;
        container.kill()?;
        let (status, log) = container.wait()?;
        assert_eq!(status.code(), Some(128 + 9), "{log}");
        expect_nothing_left(&hosts[0])
    });
}

#[test]
fn runtime_reports_that_no_agent_answers() {
    with_containers(1, |_, hosts| {
        let Host { node, runtime } = &hosts[0];
        node.stop_agent()?;
        let error = runtime.run("early", IDLE).expect_err("there is no agent");
        let text = format!("{error:#}");
        let socket = node.dirs.run.join("agent.sock");
        assert!(text.contains(&*socket.to_string_lossy()), "{text}");
        // `ctr` leaves this to its user.
        runtime.ctr(&["task", "delete", "--force", "early"])?;
        runtime.ctr(&["container", "delete", "early"])?;
        // Nothing of the failed attempt is in the way of the next.
        node.start_agent()?;
        runtime.run("early", IDLE)?.remove()?;
        expect_nothing_left(&hosts[0])
    });
}

#[test]
fn runtime_removes_a_container_that_an_earlier_agent_attached() {
    with_containers(2, |_, hosts| {
        let container = hosts[0].runtime.run("old", IDLE)?;
        let peer = hosts[1].runtime.run("peer", IDLE)?;
        hosts[0].node.kill_agent()?;
        peer.addresses
            .iter()
            .try_for_each(|address| container.ping(*address))?;
        hosts[0].node.start_agent()?;
        peer.addresses
            .iter()
            .try_for_each(|address| container.ping(*address))?;
        container.remove()?;
        expect_nothing_left(&hosts[0])
    });
}

/// The runtime calls DEL while no agent is there, and will not call it again.
#[test]
fn runtime_removes_a_container_while_no_agent_runs() {
    with_containers(1, |_, hosts| {
        let Host { node, runtime } = &hosts[0];
        let gone = runtime.run("gone", IDLE)?;
        let kept = runtime.run("kept", IDLE)?;
        node.kill_agent()?;
        gone.remove()?;
        assert_eq!(runtime.containers()?, ["kept"]);
        // The kernel takes a namespace and its devices apart some time after its last process.
        until_true(SOON, "end of the namespace", || {
            let devices = node.netns.run("ip -o link show type veth")?;
            Ok(devices.matches(": oxl").count() == 1)
        })?;
        node.start_agent()?;
        assert!(hosts[0].record("gone")?.is_null());
        assert_eq!(hosts[0].record("kept")?["phase"], "ready");
        kept.remove()?;
        expect_nothing_left(&hosts[0])
    });
}

/// A runtime that is killed calls no DEL; after its return it says what is valid.
#[test]
fn runtime_that_was_killed_has_its_garbage_collected() {
    with_containers(1, |_, hosts| {
        let Host { node, runtime } = &hosts[0];
        let libcni = Libcni::new(node.netns.clone(), plugin_directories()?);
        let kept = runtime.run("kept", IDLE)?;
        let lost = runtime.run("lost", IDLE)?;
        let id = lost.cni_id();
        // Ends the `ctr` that would have called DEL; the container runs on.
        drop(lost);
        assert_eq!(hosts[0].record("lost")?["container_id"], id);
        let valid = Attachment {
            container: kept.cni_id(),
            ifname: "eth0".to_owned(),
            ..Attachment::default()
        };
        libcni.collect_garbage(&hosts[0].network("1.1.0"), &[&valid])?;
        assert!(hosts[0].record("lost")?.is_null());
        assert_eq!(hosts[0].record("kept")?["phase"], "ready");
        kept.remove()?;
        expect_nothing_left(&hosts[0])
    });
}

fn expect_nothing_left(host: &Host<'_>) -> Result<()> {
    let traces = host.traces()?;
    ensure!(traces.is_empty(), "this is left: {traces:#?}");
    Ok(())
}
