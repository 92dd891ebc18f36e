//! A call of the plugin, and an agent that answers what the test wants.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::VERSIONS;

/// A call of the plugin.
pub(crate) struct Call {
    environment: Vec<(&'static str, String)>,
    input: String,
}

impl Call {
    pub(crate) fn new(command: &str, config: &Value) -> Self {
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

    pub(crate) fn with(mut self, variable: &str, value: &str) -> Self {
        let found = self
            .environment
            .iter_mut()
            .find(|(name, _)| *name == variable);
        value.clone_into(&mut found.unwrap().1);
        self
    }

    pub(crate) fn input(mut self, text: &str) -> Self {
        self.input = text.into();
        self
    }

    pub(crate) fn run(&self) -> Output {
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
    pub(crate) fn error(&self) -> Value {
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
pub(crate) fn config(version: &str, run_dir: &Path) -> Value {
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
pub(crate) fn agent(run_dir: &Path, status: u16, answer: &Value) -> JoinHandle<(String, Value)> {
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
