//! What the binary `oxlan-cni` does. It runs once for every call of a runtime, so it starts no
//! runtime of its own, reads no file and asks the agent exactly once.

use std::env;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{CniError, NetConf, Request, Verb, Version, code};
use crate::api::client::{self, Answer, ClientError};

const ABOUT: &str = concat!(
    "oxlan-cni ",
    env!("CARGO_PKG_VERSION"),
    ": CNI plugin of Oxlan, for versions 0.3.1, 0.4.0, 1.0.0 and 1.1.0.\n\
     A container runtime calls it with CNI_COMMAND and its configuration on standard input; \
     `oxlan pods` shows what it made."
);

/// Entry point of the plugin.
#[must_use]
pub fn main() -> ExitCode {
    if env::args_os().len() > 1 {
        let printed = writeln!(io::stdout(), "{ABOUT}");
        return if printed.is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    match run() {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(result)) => print(&result, ExitCode::SUCCESS),
        Err(error) => print(&json!(error), ExitCode::FAILURE),
    }
}

fn run() -> Result<Option<Value>, CniError> {
    let command = variable("CNI_COMMAND")?;
    let mut input = Vec::new();
    io::stdin().read_to_end(&mut input).map_err(|e| {
        let msg = "cannot read the network configuration from standard input";
        CniError::new(code::IO, msg).with_details(e.to_string())
    })?;
    if command == "VERSION" {
        return Ok(Some(versions(&input)));
    }
    let Some(verb) = Verb::ALL.iter().find(|v| v.name() == command) else {
        eprintln!("{ABOUT}");
        let allowed = "ADD, DEL, CHECK, GC, STATUS, VERSION";
        return Err(CniError::environment("CNI_COMMAND", &command, allowed));
    };
    let config = serde_json::from_slice(&input).map_err(|e| {
        let msg = "the network configuration on standard input is not JSON";
        CniError::new(code::DECODE, msg).with_details(e.to_string())
    })?;
    let conf = NetConf::parse(&config, *verb)?;
    let request = Request {
        container_id: variable("CNI_CONTAINERID")?,
        netns: variable("CNI_NETNS")?,
        ifname: variable("CNI_IFNAME")?,
        args: variable("CNI_ARGS")?,
        config,
    };
    let answered = request
        .validate(*verb)
        .and_then(|()| ask(*verb, &request, &conf));
    answered.map_err(|error| error.in_version(conf.version))
}

/// What VERSION answers (section 2, "VERSION"): the version that was asked with, and all of ours.
fn versions(input: &[u8]) -> Value {
    let config: Value = serde_json::from_slice(input).unwrap_or_default();
    let asked = config["cniVersion"]
        .as_str()
        .unwrap_or(Version::NEWEST.name());
    json!({"cniVersion": asked, "supportedVersions": Version::names()})
}

fn ask(verb: Verb, request: &Request, conf: &NetConf) -> Result<Option<Value>, CniError> {
    let body = json!(request).to_string();
    match client::post(&conf.run_dir, verb.path(), body.as_bytes()) {
        Ok(answer) => understand(verb, &answer),
        Err(error @ ClientError::NoAgent { .. }) => without_agent(verb, &error),
        Err(error) => Err(unanswered(code::TRY_AGAIN, &error)),
    }
}

fn understand(verb: Verb, answer: &Answer) -> Result<Option<Value>, CniError> {
    let strange = || {
        let msg = format!(
            "the agent's answer cannot be read (HTTP status {})",
            answer.status
        );
        CniError::new(code::PROTOCOL, msg).with_details(String::from_utf8_lossy(&answer.body))
    };
    if answer.status == 200 {
        let result = serde_json::from_slice(&answer.body).map_err(|_| strange())?;
        return Ok((verb == Verb::Add).then_some(result));
    }
    Err(serde_json::from_slice(&answer.body).unwrap_or_else(|_| strange()))
}

/// Without an agent a DEL has succeeded: the end of the namespace takes the interface along, and
/// the agent's next start or GC the rest. The runtime can so get rid of the container.
fn without_agent(verb: Verb, error: &ClientError) -> Result<Option<Value>, CniError> {
    match verb {
        Verb::Del => {
            eprintln!("oxlan-cni: {error}; the agent cleans up when it starts");
            Ok(None)
        }
        Verb::Status => Err(unanswered(code::UNAVAILABLE, error)),
        Verb::Add | Verb::Check | Verb::Gc => Err(unanswered(code::TRY_AGAIN, error)),
    }
}

fn unanswered(code: u32, error: &ClientError) -> CniError {
    let details = std::error::Error::source(error).map(crate::datapath::chain);
    CniError::new(code, error.to_string()).with_details(details.unwrap_or_default())
}

/// An environment variable; empty when it is not set.
fn variable(name: &str) -> Result<String, CniError> {
    match env::var(name) {
        Ok(value) => Ok(value),
        Err(env::VarError::NotPresent) => Ok(String::new()),
        Err(env::VarError::NotUnicode(value)) => {
            let value = value.to_string_lossy();
            Err(CniError::environment(name, &value, "UTF-8"))
        }
    }
}

/// Prints an object on standard output, which is all that a runtime reads.
fn print(value: &Value, code: ExitCode) -> ExitCode {
    let mut text = value.to_string();
    text.push('\n');
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}
