//! The benchmark runs from end to end. What it measures in the shortest time means nothing.

use std::process::Command;

use oxlan_tests::run::output;
use oxlan_tests::scope::Scope;
use oxlan_tests::skip::skip;
use serde_json::Value;

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
    // Goals that compare systems with each other need more than each once.
    assert!(table.matches("not measured").count() <= 4, "{table}");

    let json = std::fs::read_to_string(directory.join("bench.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let figures = json["figures"].as_array().unwrap();
    let of = |measure: &str| figures.iter().filter(|f| f["measure"] == measure).count();
    for (measure, subjects) in [
        ("path_length", 2),
        ("tcp_stream", 1),
        ("udp_64b", 1),
        ("connect_rate", 1),
        ("program_time", 24),
        ("xdp_live_frames", 2),
        ("cni_add", 2),
        ("cni_add_at_once", 2),
        ("start", 2),
        ("change", 2),
        ("idle_cpu", 2),
    ] {
        assert!(of(measure) >= subjects, "{measure}: {table}");
        let plot = directory.join(format!("bench/{measure}.svg"));
        let plot = std::fs::read_to_string(&plot).unwrap();
        assert!(plot.ends_with("</svg>\n"), "{measure}: {plot}");
    }
    for figure in figures {
        let values = figure["values"].as_array().unwrap();
        assert!(
            !values.is_empty() && values.iter().all(Value::is_number),
            "{figure}"
        );
    }
}
