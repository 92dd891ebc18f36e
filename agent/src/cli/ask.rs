//! Asking the agent.

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;

use super::Ask;
use crate::api::client;
use crate::api::types::Failure;

/// The answer to `GET path`, as it came and as what it means.
pub(super) struct Answered<T> {
    /// JSON, as the agent sent it.
    pub(super) json: serde_json::Value,
    /// The same, typed.
    pub(super) value: T,
}

/// Asks the agent for `path`.
pub(super) fn ask<T: DeserializeOwned>(ask: &Ask, path: &str) -> anyhow::Result<Answered<T>> {
    let answer = client::get(&ask.run.run_dir, path)?;
    if answer.status != 200 {
        match serde_json::from_slice::<Failure>(&answer.body) {
            Ok(failure) => bail!("the agent: {}", failure.error),
            Err(_) => bail!("the agent answered with the HTTP status {}", answer.status),
        }
    }
    let json: serde_json::Value =
        serde_json::from_slice(&answer.body).context("the agent's answer is not JSON")?;
    let value = T::deserialize(&json).with_context(|| {
        format!("the agent's answer to {path} is not understood: are agent and command of the same version?")
    })?;
    Ok(Answered { json, value })
}
