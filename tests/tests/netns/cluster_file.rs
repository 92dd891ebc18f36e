//! Changes of the cluster file while the agents run.

use std::time::Duration;

use anyhow::{Result, ensure};
use oxlan_tests::cluster::{Shape, node_entry, with_cluster};
use oxlan_tests::wait::{SOON, until_true};

fn knows(node: &oxlan_tests::node::Node, name: &str) -> Result<bool> {
    let nodes = node.oxlan_json("nodes")?;
    let rows = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(rows.iter().any(|row| row["name"] == name))
}

#[test]
fn a_node_joins_and_leaves() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
        let (a, b) = (first.add_pod("a")?, second.add_pod("b")?);
        a.ping(b.ipv4()?.into())?;

        let whole = cluster.file_text();
        let without = whole.replace(&node_entry(&second.name, &second.pod_cidrs, 2, ""), "");
        assert_ne!(whole, without);
        // The second node must stay in its own file, so the first gets its view alone: it leaves
        // first, when both read a file without it, and its own agent keeps the last valid version.
        cluster.write_file(&without)?;
        until_true(SOON, "departure of node-2", || Ok(!knows(first, "node-2")?))?;
        assert!(
            a.ping(b.ipv4()?.into()).is_err(),
            "node-2 is still reachable"
        );

        cluster.write_file(&whole)?;
        until_true(SOON, "return of node-2", || knows(first, "node-2"))?;
        until_true(SOON, "way to node-2", || {
            Ok(a.ping(b.ipv4()?.into()).is_ok())
        })?;
        a.ping(b.ipv6()?.into())
    });
}

#[test]
fn an_invalid_file_changes_nothing_and_is_reported() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        let (a, b) = (node.add_pod("a")?, cluster.nodes[1].add_pod("b")?);
        let whole = cluster.file_text();
        for bad in [
            "[network",
            &whole.replace("10.244.2.0/24", "10.244.1.0/24"),
            "",
        ] {
            cluster.write_file(bad)?;
            until_true(SOON, "report of the invalid file", || {
                let status = node.oxlan_json("status")?;
                Ok(!status["problems"].as_array().is_none_or(Vec::is_empty))
            })?;
            ensure!(knows(node, "node-2")?, "the old version is gone");
            a.ping(b.ipv4()?.into())?;
            cluster.write_file(&whole)?;
            until_true(SOON, "end of the problem", || {
                Ok(node.oxlan_json("status")?["problems"] == serde_json::json!([]))
            })?;
        }
        Ok(())
    });
}

/// A file that is written in place, in pieces, as some editors do.
#[test]
fn a_file_written_in_place_is_read() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let more = node_entry("node-9", &["10.244.9.0/24".to_owned()], 9, "");
        let text = cluster.file_text() + &more;
        let (start, end) = text.split_at(text.len() / 2);
        std::fs::write(cluster.file(), start)?;
        std::thread::sleep(Duration::from_millis(20));
        std::fs::OpenOptions::new()
            .append(true)
            .open(cluster.file())
            .and_then(|mut file| std::io::Write::write_all(&mut file, end.as_bytes()))?;
        until_true(SOON, "node-9", || knows(node, "node-9"))
    });
}
