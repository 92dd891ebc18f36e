//! Drift in the pinned BPF maps.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use oxlan_tests::run::host;
use oxlan_tests::wait::{SOON, until_true};
use oxlan_tests::xdp;
use serde_json::Value;

use super::with_scene;

/// The entries of a pinned map, in an order that does not depend on the hash table.
fn entries(pin: &str) -> Result<Vec<Value>> {
    let text = host(&format!("bpftool --json map dump pinned {pin}"))?;
    let dump: Value = serde_json::from_str(&text)?;
    let mut entries = dump.as_array().context("no entries")?.clone();
    entries.sort_by_key(Value::to_string);
    Ok(entries)
}

/// Bytes of a field as bpftool takes them.
fn bytes(field: &Value) -> Result<String> {
    let bytes = field.as_array().context("no bytes")?;
    let words: Vec<&str> = bytes.iter().filter_map(Value::as_str).collect();
    ensure!(
        words.len() == bytes.len() && !words.is_empty(),
        "not bytes: {field}"
    );
    Ok(words.join(" "))
}

#[test]
fn map_entries() {
    with_scene(|scene| {
        if xdp::is_demanded() {
            // The flag by which pods get frames comes a moment after the pod.
            let pods = scene.pin("maps/pods");
            until_true(SOON, "frames for pods", || {
                let entries = entries(&pods)?;
                let flags = |entry: &Value| entry["formatted"]["value"]["flags"] != 0;
                Ok(entries.iter().all(flags))
            })?;
        }
        for map in ["pods", "routes", "vteps"] {
            let pin = scene.pin(&format!("maps/{map}"));
            let look = || Ok(format!("{:#?}", entries(&pin)?));
            for entry in entries(&pin)? {
                let key = bytes(&entry["key"])?;
                scene.repairs(&format!("a deleted entry of {map}"), look, || {
                    host(&format!("bpftool map delete pinned {pin} key {key}")).map(drop)
                })?;
            }
            let first = entries(&pin)?.remove(0);
            let (key, value) = (bytes(&first["key"])?, bytes(&first["value"])?);
            let zeros = vec!["0"; value.split(' ').count()].join(" ");
            scene.repairs(&format!("a changed entry of {map}"), look, || {
                host(&format!(
                    "bpftool map update pinned {pin} key {key} value {zeros}"
                ))
                .map(drop)
            })?;
            let strange = vec!["7"; key.split(' ').count()].join(" ");
            scene.repairs(&format!("a strange entry of {map}"), look, || {
                host(&format!(
                    "bpftool map update pinned {pin} key {strange} value {value}"
                ))
                .map(drop)
            })?;
        }
        Ok(())
    });
}

#[test]
fn the_configuration_map() {
    with_scene(|scene| {
        let pin = scene.pin("maps/config");
        let look = || Ok(format!("{:#?}", entries(&pin)?));
        let value = bytes(&entries(&pin)?[0]["value"])?;
        let zeros = vec!["0"; value.split(' ').count()].join(" ");
        scene.repairs("the configuration", look, || {
            host(&format!(
                "bpftool map update pinned {pin} key 0 0 0 0 value {zeros}"
            ))
            .map(drop)
        })
    });
}

#[test]
fn the_pin_of_a_map() {
    with_scene(|scene| {
        for map in ["pods", "routes", "hops", "vteps", "config", "counters"] {
            let pin = scene.pin(&format!("maps/{map}"));
            let look = || Ok(Path::new(&pin).exists().to_string());
            scene.repairs(&format!("the pin of {map}"), look, || {
                Ok(std::fs::remove_file(&pin)?)
            })?;
        }
        Ok(())
    });
}
