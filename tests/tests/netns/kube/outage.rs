//! The API server is away: what is known stays in force, also over a restart of the agent.

use anyhow::ensure;
use oxlan_tests::kube_api::flannel_node;
use oxlan_tests::wait::{SOON, until_true};

use super::{names, wait_for_node, wait_for_remark, wait_until_no_problem, with_site};

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
        let file = node.dirs.state.join("cluster-kube.json");
        until_true(SOON, "state on disk with both nodes", || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            Ok(text.contains("node-1") && text.contains("node-2"))
        })?;
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
