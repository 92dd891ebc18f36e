//! Configurations of networks, and of one plugin of a network for one call.

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use super::Attachment;

/// The first version with CHECK, and with `prevResult` for DEL.
pub(super) const WITH_CHECK: [u64; 3] = [0, 4, 0];

/// The first version with GC and STATUS.
pub(super) const WITH_GC: [u64; 3] = [1, 1, 0];

/// A network's plugins in order.
pub(super) fn plugins(network: &Value) -> Result<&Vec<Value>> {
    network["plugins"]
        .as_array()
        .context("a network without plugins")
}

/// A network's version of CNI.
pub(super) fn version(network: &Value) -> Result<[u64; 3]> {
    let text = network["cniVersion"]
        .as_str()
        .context("a network without a version")?;
    let mut numbers = text.split('.').map(str::parse);
    let mut next = || {
        numbers
            .next()
            .context("a short version")?
            .context("not a number")
    };
    Ok([next()?, next()?, next()?])
}

/// A plugin's own configuration with what every call gets.
pub(super) fn injected(network: &Value, plugin: &Value) -> Result<Value> {
    let mut config = plugin.clone();
    ensure!(config.is_object(), "not a configuration: {plugin}");
    config["name"] = network["name"].clone();
    config["cniVersion"] = network["cniVersion"].clone();
    Ok(config)
}

/// The same with the previous result and the capabilities that the plugin declares.
pub(super) fn config(
    network: &Value,
    plugin: &Value,
    previous: &Value,
    attachment: &Attachment,
) -> Result<Value> {
    let mut config = injected(network, plugin)?;
    if !previous.is_null() {
        config["prevResult"] = previous.clone();
    }
    let declared = |name: &String| plugin["capabilities"][name.as_str()] == true;
    let values: Map<String, Value> = attachment
        .capabilities
        .clone()
        .into_iter()
        .filter(|(name, _)| declared(name))
        .collect();
    if !values.is_empty() {
        config["runtimeConfig"] = Value::Object(values);
    }
    Ok(config)
}
