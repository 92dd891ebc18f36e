//! What a node tells of its kernel.

use anyhow::{Context, Result, ensure};
use oxlan_tests::cluster::{Shape, with_cluster};

#[test]
fn status_and_log_tell_what_the_kernel_can_do() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let status = node.oxlan_json("status --features")?;
        let features = status["features"].as_array().context("a list")?;
        ensure!(features.len() == 6, "{features:?}");
        let (table, log) = (node.oxlan("status --features")?, node.log());
        for feature in features {
            let name = feature["name"].as_str().context("a name")?;
            let available = feature["available"].as_bool().context("true or false")?;
            let said = here(&table, name)?;
            ensure!(said == if available { "yes" } else { "no" }, "{table}");
            let lacks = format!("this kernel lacks {name}: ");
            ensure!(log.contains(&lacks) != available, "{name} in\n{log}");
        }
        // What the agent has found out is what it acts upon.
        let tcx = here(&table, "tcx-links")? == "yes";
        let attach = status["attach"].as_str().context("a word")?;
        ensure!((attach == "tcx") == tcx, "{attach} with\n{table}");
        Ok(())
    });
}

/// The word behind a name at the start of a line.
fn here<'a>(table: &'a str, name: &str) -> Result<&'a str> {
    let mut rows = table.lines().filter_map(|line| line.strip_prefix(name));
    let row = rows
        .next()
        .with_context(|| format!("no {name} in\n{table}"))?;
    Ok(row.split_whitespace().next().unwrap_or_default())
}
