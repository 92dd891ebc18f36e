//! The plugin as a runtime calls it, against an agent that answers what the test wants.
#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

use oxlan::cni::{Verb, Version, code};
use serde_json::{Value, json};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A call of the plugin.
struct Call {
    environment: Vec<(&'static str, String)>,
    input: String,
}

impl Call {
    fn new(command: &str, config: &Value) -> Self {
        let environment = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web"),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        Self {
            environment: environment
                .map(|(name, value)| (name, value.to_owned()))
                .into(),
            input: config.to_string(),
        }
    }

    fn with(mut self, variable: &str, value: &str) -> Self {
        let found = self
            .environment
            .iter_mut()
            .find(|(name, _)| *name == variable);
        value.clone_into(&mut found.unwrap().1);
        self
    }

    fn input(mut self, text: &str) -> Self {
        self.input = text.into();
        self
    }

    fn run(&self) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_oxlan-cni"))
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(self.input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }

    /// The error that it ends with, whose form is the specification's.
    fn error(&self) -> Value {
        let output = self.run();
        assert!(!output.status.success());
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(
            VERSIONS.contains(&error["cniVersion"].as_str().unwrap()),
            "{error}"
        );
        assert!(!error["msg"].as_str().unwrap().is_empty(), "{error}");
        error
    }
}

/// A configuration that is right for every verb.
fn config(version: &str, run_dir: &Path) -> Value {
    json!({
        "cniVersion": version,
        "name": "oxlan",
        "type": "oxlan-cni",
        "runDir": run_dir,
        "prevResult": {"cniVersion": version, "interfaces": [], "ips": []},
        "cni.dev/valid-attachments": [],
    })
}

/// Answers one request and gives it back: first line and body.
fn agent(run_dir: &Path, status: u16, answer: &Value) -> JoinHandle<(String, Value)> {
    let listener = UnixListener::bind(run_dir.join("agent.sock")).unwrap();
    let body = answer.to_string();
    let text = format!(
        "HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !is_whole(&request) {
            let length = stream.read(&mut buffer).unwrap();
            assert!(length > 0, "the request ends early");
            request.extend_from_slice(&buffer[..length]);
        }
        stream.write_all(text.as_bytes()).unwrap();
        let request = String::from_utf8(request).unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let line = head.lines().next().unwrap().to_owned();
        (line, serde_json::from_str(body).unwrap())
    })
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .unwrap();
    body.len() == length.parse::<usize>().unwrap()
}

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
