//! The plugin as a runtime calls it.
#![cfg(test)]

mod call;
mod input;

use std::os::unix::net::UnixListener;
use std::process::Command;

use oxlan::cni::{Verb, Version, code};
use serde_json::{Value, json};

use call::{Call, agent, config};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[test]
fn every_verb_reaches_the_agent_in_every_version_that_has_it() {
    for version in Version::ALL {
        for verb in Verb::ALL {
            let run_dir = tempfile::tempdir().unwrap();
            let config = config(version.name(), run_dir.path());
            let call = Call::new(verb.name(), &config);
            if verb.since() > *version {
                let error = call.error();
                assert_eq!(
                    error["code"],
                    code::INCOMPATIBLE_VERSION,
                    "{verb:?} {version}"
                );
                assert_eq!(error["cniVersion"], version.name());
                continue;
            }
            let result = json!({"cniVersion": version.name(), "ips": []});
            let agent = agent(run_dir.path(), 200, &result);
            let output = call.run();
            assert!(output.status.success(), "{verb:?} {version}: {output:?}");
            let (line, request) = agent.join().unwrap();
            assert_eq!(line, format!("POST {} HTTP/1.1", verb.path()));
            assert_eq!(request["config"], config);
            assert_eq!(request["containerId"], "c1");
            assert_eq!(request["args"], "IgnoreUnknown=1;K8S_POD_NAME=web");
            if *verb == Verb::Add {
                let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
                assert_eq!(printed, result);
            } else {
                assert_eq!(output.stdout, b"", "{verb:?} has no result");
            }
        }
    }
}

#[test]
fn version_needs_no_agent() {
    for asked in ["0.3.1", "1.1.0", "7.0.0"] {
        let output = Call::new("VERSION", &json!({"cniVersion": asked})).run();
        assert!(output.status.success());
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            printed,
            json!({"cniVersion": asked, "supportedVersions": VERSIONS})
        );
    }
    let output = Call::new("VERSION", &json!({})).input("").run();
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["cniVersion"], "1.1.0");
}

#[test]
fn a_person_is_told_what_it_is() {
    let output = Command::new(env!("CARGO_BIN_EXE_oxlan-cni"))
        .arg("--version")
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .starts_with("oxlan-cni ")
    );
}

#[test]
fn the_agents_error_is_passed_on_whatever_its_code() {
    for wanted in [
        1, 2, 3, 4, 5, 6, 7, 11, 50, 51, 100, 101, 102, 103, 104, 105, 106, 107,
    ] {
        let run_dir = tempfile::tempdir().unwrap();
        let error = json!({"cniVersion": "1.0.0", "code": wanted, "msg": "m", "details": "d"});
        let agent = agent(run_dir.path(), 500, &error);
        let printed = Call::new("ADD", &config("1.0.0", run_dir.path())).error();
        agent.join().unwrap();
        assert_eq!(printed, error);
    }
}

#[test]
fn an_answer_that_is_none_is_an_error() {
    for (status, answer) in [
        (404, json!("nothing here")),
        (200, json!("")),
        (502, json!({})),
    ] {
        let run_dir = tempfile::tempdir().unwrap();
        let agent = agent(run_dir.path(), status, &answer);
        let call = Call::new("ADD", &config("1.0.0", run_dir.path()));
        if status == 200 {
            // Any JSON is a result as far as the plugin knows.
            assert!(call.run().status.success());
        } else {
            let error = call.error();
            assert_eq!(error["code"], code::PROTOCOL, "{error}");
            assert!(
                error["msg"].as_str().unwrap().contains(&status.to_string()),
                "{error}"
            );
        }
        agent.join().unwrap();
    }
}

#[test]
fn without_an_agent_the_runtime_is_told_to_try_again_and_del_succeeds() {
    let run_dir = tempfile::tempdir().unwrap();
    let config = config("1.1.0", run_dir.path());
    let socket = run_dir.path().join("agent.sock");
    for listening in [false, true] {
        if listening {
            // What SIGKILL leaves: a socket that nobody listens on.
            drop(UnixListener::bind(&socket).unwrap());
        }
        for (verb, wanted) in [
            ("ADD", code::TRY_AGAIN),
            ("CHECK", code::TRY_AGAIN),
            ("GC", code::TRY_AGAIN),
            ("STATUS", code::UNAVAILABLE),
        ] {
            let error = Call::new(verb, &config).error();
            assert_eq!(error["code"], wanted, "{verb}: {error}");
            let message = error["msg"].as_str().unwrap();
            assert!(
                message.contains(socket.to_str().unwrap()),
                "{verb}: {message}"
            );
        }
        let output = Call::new("DEL", &config).with("CNI_NETNS", "").run();
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{output:?}"
        );
    }
}

#[test]
fn an_agent_that_dies_over_a_request_is_asked_again() {
    let run_dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(run_dir.path().join("agent.sock")).unwrap();
    let dying = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let error = Call::new("DEL", &config("1.1.0", run_dir.path())).error();
    dying.join().unwrap();
    assert_eq!(
        error["code"],
        code::TRY_AGAIN,
        "nobody knows whether it is gone: {error}"
    );
}
