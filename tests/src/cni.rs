//! Calls of `oxlan-cni` exactly as libcni makes them: environment, configuration on standard input.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::binaries::binary;
use crate::netns::Netns;
use crate::run::finish;

/// One call of the plugin.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// `CNI_COMMAND`.
    pub verb: &'a str,
    /// `CNI_CONTAINERID`.
    pub container: &'a str,
    /// `CNI_NETNS`.
    pub netns: &'a str,
    /// `CNI_IFNAME`.
    pub ifname: &'a str,
    /// `CNI_ARGS`.
    pub args: &'a str,
    /// The network configuration.
    pub config: Value,
}

/// What the plugin answered.
#[derive(Debug)]
pub struct Answer {
    /// Whether it succeeded.
    pub success: bool,
    /// What it printed; null if nothing.
    pub json: Value,
    /// What it printed to standard error.
    pub stderr: String,
}

impl Answer {
    /// The result of a call that succeeded.
    ///
    /// # Errors
    ///
    /// If the plugin reported an error.
    pub fn result(self) -> Result<Value> {
        if !self.success {
            bail!("the plugin failed: {} {}", self.json, self.stderr.trim());
        }
        Ok(self.json)
    }

    /// Code and message of a call that failed.
    ///
    /// # Errors
    ///
    /// If it succeeded, or the answer has no error's form.
    pub fn error(self) -> Result<(u64, String)> {
        if self.success {
            bail!("the plugin succeeded: {}", self.json);
        }
        let code = self.json["code"]
            .as_u64()
            .with_context(|| format!("no code: {self:?}"))?;
        let message = self.json["msg"]
            .as_str()
            .with_context(|| format!("no msg: {self:?}"))?;
        let details = self.json["details"].as_str().unwrap_or_default();
        Ok((code, format!("{message} {details}").trim_end().to_owned()))
    }
}

/// The network configuration that the documentation gives, for an agent with this run directory.
#[must_use]
pub fn config(run_dir: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": "oxlan", "type": "oxlan-cni", "runDir": run_dir})
}

impl Call<'_> {
    /// Runs the plugin in a node's namespace, as its container runtime does.
    ///
    /// # Errors
    ///
    /// If the plugin cannot be run or prints something that is not JSON.
    pub fn run(&self, node: &Netns) -> Result<Answer> {
        let plugin = binary("oxlan-cni")?;
        let mut command = node.command(&plugin.to_string_lossy());
        command
            .env("CNI_COMMAND", self.verb)
            .env("CNI_PATH", plugin.parent().context("no directory")?);
        for (name, value) in [
            ("CNI_CONTAINERID", self.container),
            ("CNI_NETNS", self.netns),
            ("CNI_IFNAME", self.ifname),
            ("CNI_ARGS", self.args),
        ] {
            if !value.is_empty() {
                command.env(name, value);
            }
        }
        ask(&mut command, &self.config)
    }
}

/// Runs a plugin, whose environment is complete, with this configuration.
pub(crate) fn ask(command: &mut Command, config: &Value) -> Result<Answer> {
    // Written before the start: the plugin may end without reading all of it.
    command.stdin(stdin_of(&config.to_string())?);
    let output = finish(command)?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let json = if stdout.trim().is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&stdout).with_context(|| format!("not JSON: {stdout}"))?
    };
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(Answer {
        success: output.status.success(),
        json,
        stderr,
    })
}

/// A pipe with this text, which must fit into it (64 KiB).
fn stdin_of(text: &str) -> Result<Stdio> {
    let (reader, mut writer) = std::io::pipe()?;
    writer.write_all(text.as_bytes())?;
    Ok(reader.into())
}
