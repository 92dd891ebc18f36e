//! What is wrong with variables and configurations, in words.

use std::path::Path;
use std::process::Command;

use oxlan::cni::code;
use serde_json::{Value, json};

use crate::call::{Call, config};

#[test]
fn wrong_variables_are_named() {
    let config = config("1.1.0", Path::new("/nowhere"));
    for (variable, value) in [
        ("CNI_COMMAND", "add"),
        ("CNI_COMMAND", ""),
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "a/b"),
        ("CNI_IFNAME", ""),
        ("CNI_IFNAME", "a-name-that-is-too-long"),
        ("CNI_NETNS", ""),
    ] {
        let error = Call::new("ADD", &config).with(variable, value).error();
        assert_eq!(
            error["code"],
            code::INVALID_ENVIRONMENT,
            "{variable}={value}"
        );
        assert!(
            error["msg"].as_str().unwrap().starts_with(variable),
            "{error}"
        );
    }
}

#[test]
fn input_that_cannot_be_read_is_an_input_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_oxlan-cni"))
        .env("CNI_COMMAND", "ADD")
        // Reading from a directory fails.
        .stdin(std::fs::File::open("/").unwrap())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["code"], code::IO, "{error}");
}

#[test]
fn wrong_configurations_are_explained() {
    let changed = |change: Value| {
        let mut config = config("1.1.0", Path::new("/nowhere"));
        let fields = config.as_object_mut().unwrap();
        for (field, value) in change.as_object().unwrap() {
            if value.is_null() {
                fields.remove(field);
            } else {
                fields.insert(field.clone(), value.clone());
            }
        }
        config
    };
    for (verb, change, wanted, words) in [
        (
            "ADD",
            json!({"cniVersion": "0.2.0"}),
            code::INCOMPATIBLE_VERSION,
            "\"0.2.0\"",
        ),
        (
            "ADD",
            json!({"cniVersion": null}),
            code::INCOMPATIBLE_VERSION,
            "0.3.1, 0.4.0",
        ),
        (
            "ADD",
            json!({"name": null}),
            code::INVALID_CONFIG,
            "name is null",
        ),
        (
            "ADD",
            json!({"name": "a b"}),
            code::INVALID_CONFIG,
            "name is \"a b\"; allowed:",
        ),
        (
            "ADD",
            json!({"runDir": "run"}),
            code::INVALID_CONFIG,
            "runDir is \"run\"; allowed:",
        ),
        (
            "ADD",
            json!({"mtu": 70000}),
            code::INVALID_CONFIG,
            "mtu is 70000; allowed: 1280",
        ),
        (
            "ADD",
            json!({"mtu": "1500"}),
            code::INVALID_CONFIG,
            "mtu is \"1500\"",
        ),
        (
            "ADD",
            json!({"dns": {"nameservers": ["x"]}}),
            code::INVALID_CONFIG,
            "dns is {",
        ),
        (
            "ADD",
            json!({"prevResult": 1}),
            code::INVALID_CONFIG,
            "prevResult is 1",
        ),
        (
            "ADD",
            json!({"bridge": "cni0"}),
            code::UNSUPPORTED_FIELD,
            "bridge = \"cni0\"",
        ),
        (
            "ADD",
            json!({"ipam": {"type": "x"}}),
            code::UNSUPPORTED_FIELD,
            "ipam = {",
        ),
        (
            "ADD",
            json!({"runtimeConfig": {"mac": "m"}}),
            code::UNSUPPORTED_FIELD,
            "runtimeConfig.mac",
        ),
        (
            "ADD",
            json!({"runtimeConfig": {"bandwidth": 5}}),
            code::INVALID_CONFIG,
            "runtimeConfig.bandwidth is 5; allowed: an object with ingressRate",
        ),
        (
            "ADD",
            json!({"runtimeConfig": {"bandwidth": {"shapedSubnets": []}}}),
            code::UNSUPPORTED_FIELD,
            "runtimeConfig.bandwidth.shapedSubnets",
        ),
        (
            "ADD",
            json!({"runtimeConfig": {"bandwidth": {"ingressRate": 0, "ingressBurst": 8}}}),
            code::INVALID_CONFIG,
            "bandwidth.ingressRate is 0; allowed: with a burst: 8 bits per second or more",
        ),
        (
            "ADD",
            json!({"runtimeConfig": {"bandwidth": {"egressRate": 1_000_000}}}),
            code::INVALID_CONFIG,
            "bandwidth.egressBurst is null; allowed: with a rate: 1 to 34359738360 bits",
        ),
        (
            "ADD",
            json!({"runtimeConfig": {"bandwidth": {"egressRate": 7, "egressBurst": 8}}}),
            code::INVALID_CONFIG,
            "bandwidth.egressRate is 7; allowed: 8 bits per second or more",
        ),
        (
            "ADD",
            json!({"runtimeConfig": {"bandwidth": {"egressRate": 8, "egressBurst": 34_359_738_361_u64}}}),
            code::INVALID_CONFIG,
            "bandwidth.egressBurst is 34359738361; allowed: 1 to 34359738360",
        ),
        (
            "ADD",
            json!({"runtimeConfig": {"bandwidth": {"ingressRate": 18_446_744_073_709_551_616_f64, "ingressBurst": 8}}}),
            code::INVALID_CONFIG,
            "a whole number of bits, 0 to 18446744073709551615",
        ),
        (
            "CHECK",
            json!({"runtimeConfig": {"bandwidth": {"ingressRate": -1, "ingressBurst": 8}}}),
            code::INVALID_CONFIG,
            "bandwidth.ingressRate is -1; allowed: a whole number of bits",
        ),
        (
            "STATUS",
            json!({"bridge": "cni0"}),
            code::UNSUPPORTED_FIELD,
            "bridge",
        ),
        (
            "CHECK",
            json!({"prevResult": null}),
            code::INVALID_CONFIG,
            "prevResult is null",
        ),
        (
            "GC",
            json!({"cni.dev/valid-attachments": null}),
            code::INVALID_CONFIG,
            "is null; allowed: a list",
        ),
        (
            "GC",
            json!({"cni.dev/valid-attachments": [1]}),
            code::INVALID_CONFIG,
            "is [1]",
        ),
    ] {
        let error = Call::new(verb, &changed(change)).error();
        assert_eq!(error["code"], wanted, "{error}");
        assert!(
            error["msg"].as_str().unwrap().contains(words),
            "{words}: {error}"
        );
    }
    for text in ["", "{", "[]", "\"x\""] {
        let error = Call::new("ADD", &json!({})).input(text).error();
        assert_eq!(error["code"], code::DECODE, "{text}: {error}");
    }
}

#[test]
fn del_minds_only_what_it_needs() {
    let run_dir = tempfile::tempdir().unwrap();
    let mut config = config("1.1.0", run_dir.path());
    config["mtu"] = json!("spoilt");
    config["bridge"] = json!("cni0");
    config["prevResult"] = json!(1);
    assert!(
        Call::new("DEL", &config)
            .with("CNI_ARGS", "spoilt")
            .run()
            .status
            .success()
    );
}
