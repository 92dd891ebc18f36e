//! What libcni, the library in containerd, CRI-O and Podman, does for a network: which plugin it calls
//! when, with which environment and standard input, and what it remembers in between.
//!
//! After `libcni/api.go` and `pkg/invoke` of version 1.2 of the library.

mod config;
pub mod site;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::binaries::{binary, unpacked};
use crate::cni::{Answer, ask};
use crate::netns::Netns;
use config::{WITH_CHECK, WITH_GC, config, injected, plugins, version};

/// A container's interface, as a runtime describes it (`RuntimeConf`).
#[derive(Clone, Debug, Default)]
pub struct Attachment {
    /// The container.
    pub container: String,
    /// Path of its network namespace; empty when it is gone.
    pub netns: String,
    /// The interface.
    pub ifname: String,
    /// `CNI_ARGS`, before they become one string.
    pub args: Vec<(&'static str, String)>,
    /// Values for capabilities that plugins declare.
    pub capabilities: Map<String, Value>,
}

/// Where our plugin and the reference plugins are.
///
/// # Errors
///
/// If ours was not built. Without the reference plugins there is one directory only.
pub fn plugin_directories() -> Result<Vec<PathBuf>> {
    let reference = unpacked("usr/lib/cni/host-local").ok();
    let programs = std::iter::once(binary("oxlan-cni")?).chain(reference);
    let directories = programs.filter_map(|program| program.parent().map(Path::to_owned));
    Ok(directories.collect())
}

/// A runtime's libcni on one node.
#[derive(Debug)]
pub struct Libcni {
    node: Netns,
    path: Vec<PathBuf>,
    cache: Mutex<Cache>,
}

/// What was added and its result, by network, container and interface (`/var/lib/cni/results`).
type Cache = BTreeMap<(String, String, String), (Attachment, Value)>;

impl Libcni {
    /// One that runs in a node's namespace and looks for plugins in these directories.
    #[must_use]
    pub fn new(node: Netns, path: Vec<PathBuf>) -> Self {
        let cache = Mutex::default();
        Self { node, path, cache }
    }

    /// `AddNetworkList`: every plugin in order, each with the result of the one before.
    ///
    /// # Errors
    ///
    /// If a plugin does; those before it are not called again, that is the runtime's task.
    pub fn add(&self, network: &Value, attachment: &Attachment) -> Result<Value> {
        let mut previous = Value::Null;
        for plugin in plugins(network)? {
            let config = config(network, plugin, &previous, attachment)?;
            let result = self.call("ADD", &config, attachment)?;
            ensure!(
                result["cniVersion"] == network["cniVersion"],
                "a result of another version: {result}"
            );
            previous = result;
        }
        let remembered = (attachment.clone(), previous.clone());
        self.cache().insert(key(network, attachment), remembered);
        Ok(previous)
    }

    /// `CheckNetworkList`: every plugin in order, each with the final result of ADD.
    ///
    /// # Errors
    ///
    /// If a plugin does, or the version has no CHECK.
    pub fn check(&self, network: &Value, attachment: &Attachment) -> Result<()> {
        ensure!(version(network)? >= WITH_CHECK, "the version has no CHECK");
        let previous = self.cached(network, attachment);
        for plugin in plugins(network)? {
            let config = config(network, plugin, &previous, attachment)?;
            self.call("CHECK", &config, attachment)?;
        }
        Ok(())
    }

    /// `DelNetworkList`: every plugin in reverse order, each with the final result of ADD.
    ///
    /// # Errors
    ///
    /// If a plugin does.
    pub fn del(&self, network: &Value, attachment: &Attachment) -> Result<()> {
        let previous = if version(network)? >= WITH_CHECK {
            self.cached(network, attachment)
        } else {
            Value::Null
        };
        for plugin in plugins(network)?.iter().rev() {
            let config = config(network, plugin, &previous, attachment)?;
            self.call("DEL", &config, attachment)?;
        }
        self.cache().remove(&key(network, attachment));
        Ok(())
    }

    /// `GCNetworkList`: DEL for what is remembered and not valid, then every plugin's own GC.
    ///
    /// # Errors
    ///
    /// If a plugin does.
    pub fn collect_garbage(&self, network: &Value, valid: &[&Attachment]) -> Result<()> {
        for stale in self.stale(network, valid) {
            self.del(network, &stale)?;
        }
        if version(network)? < WITH_GC {
            return Ok(());
        }
        let valid: Vec<Value> = valid
            .iter()
            .map(|of| json!({"containerID": of.container, "ifname": of.ifname}))
            .collect();
        for plugin in plugins(network)? {
            let mut config = injected(network, plugin)?;
            // The library uses both names: the second was an early error of the specification.
            for name in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
                config[name] = json!(valid);
            }
            self.call("GC", &config, &Attachment::default())?;
        }
        Ok(())
    }

    /// `GetStatusNetworkList`: whether every plugin is able to work.
    ///
    /// # Errors
    ///
    /// If one is not.
    pub fn status(&self, network: &Value) -> Result<()> {
        ensure!(version(network)? >= WITH_GC, "the version has no STATUS");
        for plugin in plugins(network)? {
            let config = injected(network, plugin)?;
            self.call("STATUS", &config, &Attachment::default())?;
        }
        Ok(())
    }

    /// `ValidateNetworkList`: asks a plugin for its versions and expects the network's among them.
    ///
    /// # Errors
    ///
    /// If it is not among them, or the answer cannot be read.
    pub fn validate(&self, network: &Value) -> Result<()> {
        for plugin in plugins(network)? {
            let kind = plugin["type"].as_str().context("a plugin without a type")?;
            // Values that old plugins insist on.
            let dummy = Attachment {
                netns: "dummy".to_owned(),
                ifname: "dummy".to_owned(),
                ..Attachment::default()
            };
            let asked = json!({"cniVersion": "1.1.0"});
            let answer = self.invoke(kind, "VERSION", &asked, &dummy)?.result()?;
            let versions = answer["supportedVersions"].as_array();
            let versions = versions.with_context(|| format!("no versions: {answer}"))?;
            if !versions.contains(&network["cniVersion"]) {
                bail!("{kind} has only {versions:?}");
            }
        }
        Ok(())
    }

    /// Loses what it remembers, as a runtime whose `/var/lib/cni` was cleared.
    pub fn forget(&self) {
        self.cache().clear();
    }

    /// Calls one plugin.
    ///
    /// # Errors
    ///
    /// If it cannot be run; not if it reports an error.
    pub fn invoke(
        &self,
        kind: &str,
        verb: &str,
        config: &Value,
        attachment: &Attachment,
    ) -> Result<Answer> {
        let mut programs = self.path.iter().map(|directory| directory.join(kind));
        let program = programs.find(|program| program.is_file());
        let program = program.with_context(|| format!("no {kind} in {:?}", self.path))?;
        let args = attachment
            .args
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let mut command = self.node.command(&program.to_string_lossy());
        // All of them, also those that are empty.
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &attachment.container)
            .env("CNI_NETNS", &attachment.netns)
            .env("CNI_ARGS", args.collect::<Vec<_>>().join(";"))
            .env("CNI_IFNAME", &attachment.ifname)
            .env("CNI_PATH", std::env::join_paths(&self.path)?);
        ask(&mut command, config).with_context(|| format!("{verb} of {kind}"))
    }

    /// Calls the plugin that a configuration names, and expects success.
    fn call(&self, verb: &str, config: &Value, attachment: &Attachment) -> Result<Value> {
        let kind = config["type"].as_str().context("a plugin without a type")?;
        let answer = self.invoke(kind, verb, config, attachment)?;
        answer.result().with_context(|| format!("{verb} of {kind}"))
    }

    fn cached(&self, network: &Value, attachment: &Attachment) -> Value {
        let cache = self.cache();
        let found = cache.get(&key(network, attachment));
        found.map(|(_, result)| result.clone()).unwrap_or_default()
    }

    fn stale(&self, network: &Value, valid: &[&Attachment]) -> Vec<Attachment> {
        let valid: Vec<_> = valid.iter().map(|of| key(network, of)).collect();
        let cache = self.cache();
        let stale = cache
            .iter()
            .filter(|(key, _)| network["name"] == key.0 && !valid.contains(key));
        stale
            .map(|(_, (attachment, _))| attachment.clone())
            .collect()
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(network: &Value, attachment: &Attachment) -> (String, String, String) {
    let network = network["name"].as_str().unwrap_or_default().to_owned();
    (
        network,
        attachment.container.clone(),
        attachment.ifname.clone(),
    )
}
