//! An API server that misbehaves: the agents lose nothing, and follow as soon as they can.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oxlan_tests::kube_api::{Faults, Verb, flannel_node};
use oxlan_tests::node::Node;
use oxlan_tests::wait::{SOON, until, until_true};
use serde_json::{Value, json};

use super::{
    Site, names, row, wait_for_node, wait_for_remark, wait_until_gone, wait_until_no_problem,
    wait_until_stored, with_site,
};

fn peer(number: u8) -> Value {
    let mac = format!("02:00:00:00:00:{number:02x}");
    let cidr = format!("10.244.{number}.0/24");
    flannel_node(
        &format!("p{number}"),
        &cidr,
        &format!("192.168.50.{number}"),
        &mac,
    )
}

fn watched(site: &Site) -> Result<()> {
    until_true(SOON, "watch", || Ok(site.api.watches() > 0))
}

/// How often the agent has seen another cluster.
fn versions(node: &Node) -> usize {
    node.log().matches("the cluster has changed").count()
}

/// What it is, and how it happens.
type Fault = (&'static str, &'static dyn Fn(&Site));

#[test]
fn after_every_fault_the_agent_follows() {
    with_site(1, |site| {
        site.start()?;
        let node = site.node(1);
        site.api.put(peer(50));
        wait_for_node(node, "p50")?;
        let faults: [Fault; 7] = [
            ("a watch that ends", &|s| s.api.disconnect()),
            ("a watch that is too old", &|s| {
                s.api.compact();
                s.api.disconnect();
            }),
            ("429 and 500", &|s| {
                s.api.misbehave(Faults {
                    codes: vec![429, 500, 429],
                    ..Faults::default()
                });
                s.api.disconnect();
            }),
            ("a bookmark", &|s| {
                let bookmark = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"resourceVersion": "1000000"}});
                s.api.send("BOOKMARK", &bookmark);
            }),
            ("an object that is none", &|s| {
                s.api
                    .send("MODIFIED", &json!({"kind": "Node", "metadata": {}}))
            }),
            ("an event of an unknown kind", &|s| {
                s.api.send("EXPLODED", &json!({}))
            }),
            ("slow answers", &|s| {
                s.api.misbehave(Faults {
                    delay: Duration::from_millis(500),
                    ..Faults::default()
                });
                s.api.disconnect();
            }),
        ];
        for (number, (description, fault)) in (60..).zip(faults) {
            watched(site).context(description)?;
            fault(site);
            site.api.put(peer(number));
            wait_for_node(node, &format!("p{number}")).context(description)?;
            ensure!(
                names(node)?.contains(&"p50".to_owned()),
                "{description}: p50 is gone"
            );
            site.api.misbehave(Faults::default());
        }
        wait_until_no_problem(node)
    });
}

/// A deletion that nobody told of, and a successor under the same name.
#[test]
fn what_was_missed_is_learnt_from_the_list() {
    with_site(1, |site| {
        site.start()?;
        let node = site.node(1);
        site.api.put(peer(50));
        site.api.put(peer(51));
        wait_for_node(node, "p50")?;
        wait_for_node(node, "p51")?;
        site.api.go_away();
        site.api.delete("p50");
        site.api.delete("p51");
        let mut successor = peer(51);
        successor["spec"] = json!({"podCIDR": "10.244.151.0/24"});
        site.api.put(successor);
        site.api.compact();
        site.api.come_back()?;
        wait_until_gone(node, "p50")?;
        until_true(SOON, "new prefix", || {
            Ok(row(node, "p51")?["pod_cidrs"][0] == "10.244.151.0/24")
        })
    });
}

#[test]
fn repeated_and_overtaken_events_are_no_work() {
    with_site(1, |site| {
        site.start()?;
        let node = site.node(1);
        site.api.put(peer(50));
        wait_for_node(node, "p50")?;
        let old = site.api.node("p50")?;
        site.api
            .change("p50", |n| n["spec"] = json!({"podCIDR": "10.244.150.0/24"}))?;
        let prefix = || Ok::<_, anyhow::Error>(row(node, "p50")?["pod_cidrs"][0].clone());
        until_true(SOON, "new prefix", || Ok(prefix()? == "10.244.150.0/24"))?;
        let new = site.api.node("p50")?;
        let before = versions(node);
        for _ in 0..100 {
            site.api.send("MODIFIED", &new);
            site.api.send("MODIFIED", &old);
            site.api.send("DELETED", &old);
        }
        // Heartbeats: a new version that says the same.
        for _ in 0..100 {
            site.api.change("p50", |_| {})?;
        }
        // When this one is there, those before it were looked at.
        site.api.put(peer(51));
        wait_for_node(node, "p51")?;
        assert_eq!(prefix()?, "10.244.150.0/24");
        assert_eq!(versions(node) - before, 1, "{}", node.log());
        Ok(())
    });
}

#[test]
fn a_token_that_is_replaced_is_read_again() {
    with_site(1, |site| {
        let path = site.path("token");
        site.write("token", "first")?;
        let user = json!({"tokenFile": path});
        site.write("kubeconfig", &site.api.kubeconfig(&user))?;
        let only = |token: &str| Faults {
            token: Some(token.to_owned()),
            ..Faults::default()
        };
        site.api.misbehave(only("first"));
        site.start()?;
        let node = site.node(1);
        site.api.misbehave(only("second"));
        site.api.disconnect();
        wait_for_remark(node, "problems", "does not accept the agent's token")?;
        site.write("token", "second")?;
        site.api.put(peer(50));
        wait_for_node(node, "p50")?;
        wait_until_no_problem(node)
    });
}

fn hanging(hang: impl Into<Vec<Verb>>) -> Faults {
    Faults {
        hang: hang.into(),
        ..Faults::default()
    }
}

/// The agent has what it knew before, and says what it waits for.
#[test]
fn an_agent_starts_while_the_server_hangs() {
    with_site(2, |site| {
        site.start()?;
        let node = site.node(1);
        wait_until_stored(node)?;
        let b = site.node(2).add_pod("b")?;
        node.stop_agent()?;
        site.api.misbehave(hanging(Verb::ALL));
        site.spawn_agent(1)?;
        node.wait_ready()?;
        let a = node.add_pod("a")?;
        a.ping(b.ipv4()?.into())?;
        wait_for_remark(node, "problems", "from the state directory")?;
        wait_for_remark(node, "problems", "owes the answer to a list of nodes")?;
        site.api.put(peer(50));
        site.api.misbehave(Faults::default());
        wait_for_node(node, "p50")?;
        wait_until_no_problem(node)
    });
}

/// Without anything that it knew before, the agent says in its log what it waits for.
#[test]
fn a_new_agent_tells_that_the_server_hangs() {
    with_site(1, |site| {
        site.register(1);
        site.api.misbehave(hanging([Verb::List]));
        site.spawn_agent(1)?;
        let node = site.node(1);
        until_true(SOON, "words on what is waited for", || {
            Ok(node.log().contains("waiting: the API server")
                && node.log().contains("owes the answer to a list of nodes"))
        })?;
        site.api.misbehave(Faults::default());
        node.wait_ready()?;
        wait_until_no_problem(node)
    });
}

fn stalling(stall: impl Into<Vec<Verb>>) -> Faults {
    Faults {
        stall: stall.into(),
        ..Faults::default()
    }
}

/// Whether the others know this node is not worth pods that cannot talk.
fn an_announcement_without_an_answer(fault: Faults) {
    with_site(1, |site| {
        site.register(1);
        site.api.put(peer(50));
        site.api.misbehave(fault);
        site.spawn_agent(1)?;
        let node = site.node(1);
        // The announcement's five seconds come before the start.
        until(SOON * 2, "start", || node.wait_ready())?;
        wait_for_node(node, "p50")?;
        node.add_pod("a")?;
        let said = "owes the answer to a patch of nodes/status";
        wait_for_remark(node, "problems", said)?;
        site.api.misbehave(Faults::default());
        until_true(SOON, "announcement", || {
            Ok(super::annotation(&site.api.node("node-1")?, "public-ip") == "192.168.50.1")
        })?;
        until(STALLED, "peace", || wait_until_no_problem(node))
    });
}

#[test]
fn an_announcement_that_hangs_does_not_hold_forwarding_back() {
    an_announcement_without_an_answer(hanging([Verb::Patch]));
}

#[test]
fn an_announcement_that_stops_in_the_middle_does_not_hold_forwarding_back() {
    an_announcement_without_an_answer(stalling([Verb::Patch]));
}

/// The middle of an answer is 20 seconds old then.
const STALLED: Duration = Duration::from_secs(40);

/// An answer that stops in the middle is given up, and asked for again.
#[test]
fn an_answer_that_stops_in_the_middle_is_asked_for_again() {
    with_site(1, |site| {
        site.start()?;
        let node = site.node(1);
        watched(site)?;
        site.api.misbehave(stalling(Verb::ALL));
        // The watch stops, then the list that follows: each is noticed by itself.
        site.api.put(peer(50));
        let stopped = "stopped in the middle of an answer";
        until(STALLED, "notice of the watch", || {
            wait_for_remark(node, "problems", stopped)
        })?;
        site.api.misbehave(Faults::default());
        wait_for_node(node, "p50")?;
        wait_until_no_problem(node)?;

        watched(site)?;
        site.api.misbehave(stalling([Verb::List]));
        site.api.compact();
        site.api.disconnect();
        site.api.put(peer(51));
        wait_for_remark(node, "problems", "owes the answer to a list of nodes")?;
        until(STALLED, "notice of the list", || {
            wait_for_remark(node, "problems", stopped)
        })?;
        ensure!(names(node)?.contains(&"p50".to_owned()), "p50 is gone");
        site.api.misbehave(Faults::default());
        wait_for_node(node, "p51")?;
        wait_until_no_problem(node)
    });
}

/// As a firewall does: no answer, and no refusal.
const LOST: &str = "table inet lost { chain input { type filter hook input priority 0; tcp dport 6443 drop; tcp sport 6443 drop; }; }";

/// A connection is given up after 35 seconds without a word.
const GIVEN_UP: Duration = Duration::from_secs(60);

#[test]
fn lost_packets_are_noticed_and_their_end() {
    with_site(1, |site| {
        site.start()?;
        let node = site.node(1);
        watched(site)?;
        node.netns.run(&format!("nft {LOST}"))?;
        site.api.put(peer(50));
        until(GIVEN_UP, "notice of the outage", || {
            wait_for_remark(node, "problems", "does not answer since")
        })?;
        node.add_pod("a")?;
        node.netns.run("nft delete table inet lost")?;
        until(STALLED, "the new node", || wait_for_node(node, "p50"))?;
        wait_until_no_problem(node)
    });
}
