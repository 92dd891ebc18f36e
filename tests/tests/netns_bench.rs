//! The benchmark runs from end to end. What it measures in the shortest time means nothing.

use std::process::Command;

use oxlan_tests::run::output;
use oxlan_tests::scope::Scope;
use oxlan_tests::skip::skip;
use serde_json::Value;

/// How the row of each goal begins. All are reached or missed in the shortest run, too: none may vanish.
const GOALS: [&str; 9] = [
    "| node to node, TCP request/response p50 (64 B) |",
    "| node to node, UDP 64 B packet rate |",
    "| node to node, TCP stream |",
    "| same node, request/response p50 |",
    "| a program's own time per packet, where it forwards |",
    "| CNI ADD |",
    "| agent with 5,000 nodes |",
    "| change of one node of 5,000 |",
    "| agent with 5,000 Nodes of Kubernetes |",
];

/// Every measure, and of how many subjects the shortest run has it.
const MEASURES: [(&str, usize); 23] = [
    ("path_length", 6),
    ("request_response", 1),
    ("tcp_stream", 4),
    ("tcp_streams", 2),
    ("cpu_per_gb", 4),
    ("udp_64b", 5),
    ("cpu_per_mpkt", 5),
    ("connect_rate", 1),
    ("program_time", 3 * 34),
    ("call_time", 12),
    ("xdp_live_frames", 4),
    ("cni_add", 2),
    ("cni_del", 2),
    ("cni_add_at_once", 2),
    ("cni_del_at_once", 2),
    ("start", 2),
    ("load", 1),
    ("change", 2),
    ("kube_converge", 2),
    ("kube_event", 1),
    ("memory", 4),
    ("idle_cpu", 4),
    ("idle_wakeups", 4),
];

#[test]
fn every_part_is_measured() {
    if oxlan_tests::binaries::unpacked("usr/lib/cni/bridge").is_err() {
        skip("the reference plugins are not unpacked");
        return;
    }
    let scope = Scope::for_test().unwrap();
    let directory = scope.dir().join("bench");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    let table = output(bench.arg("--smoke").arg(&directory)).unwrap();
    for goal in GOALS {
        let row = table.lines().find(|line| line.starts_with(goal));
        let row = row.unwrap_or_else(|| panic!("no goal {goal}: {table}"));
        assert!(!row.contains("not measured"), "{row}");
    }

    let json = std::fs::read_to_string(directory.join("bench.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let figures = json["figures"].as_array().unwrap();
    let of = |measure: &str| figures.iter().filter(|f| f["measure"] == measure).count();
    for (measure, subjects) in MEASURES {
        assert!(of(measure) >= subjects, "{measure}: {table}");
        let plot = directory.join(format!("bench/{measure}.svg"));
        let plot = std::fs::read_to_string(&plot).unwrap();
        assert!(plot.ends_with("</svg>\n"), "{measure}: {plot}");
    }
    for figure in figures {
        let measure = figure["measure"].as_str().unwrap();
        let is_known = MEASURES.iter().any(|(known, _)| *known == measure);
        assert!(is_known, "{measure} is to be in this test's list, too");
    }
    for figure in figures {
        let values = figure["values"].as_array().unwrap();
        assert!(
            !values.is_empty() && values.iter().all(Value::is_number),
            "{figure}"
        );
    }
}
