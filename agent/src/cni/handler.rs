//! The agent's half: does what a runtime asks for.

use serde_json::{Value, json};

use super::{CniError, NetConf, Request, Verb, code, labels, result};
use crate::api::ApiState;
use crate::api::types::Health;
use crate::pods::AddRequest;

/// Does it, and gives what the plugin prints: a result for ADD, an empty object for the others.
pub(crate) async fn handle(
    state: &ApiState,
    verb: Verb,
    request: Request,
) -> Result<Value, CniError> {
    let conf = NetConf::parse(&request.config, verb)?;
    let version = conf.version;
    let done = match request.validate(verb) {
        Ok(()) => perform(state, verb, &request, conf).await,
        Err(error) => Err(error),
    };
    let container = &request.container_id;
    match &done {
        Ok(_) if verb == Verb::Status => {}
        Ok(_) => tracing::info!(%container, "CNI {} done", verb.name()),
        Err(e) => tracing::warn!(%container, "CNI {} failed: {e}: {}", verb.name(), e.details),
    }
    done.map_err(|error| error.in_version(version))
}

async fn perform(
    state: &ApiState,
    verb: Verb,
    request: &Request,
    conf: NetConf,
) -> Result<Value, CniError> {
    match verb {
        Verb::Add => return add(state, request, &conf).await,
        Verb::Del => state.pods.del(request.key()).await?,
        Verb::Check => {
            let previous = conf.prev_result.unwrap_or_default();
            let expected = result::expected(&previous, &request.ifname, &request.netns)?;
            state.pods.check(request.key(), expected).await?;
        }
        Verb::Gc => {
            let valid = conf.valid_attachments.into_iter().collect();
            let gone = state.pods.gc(conf.name, valid).await?;
            if !gone.is_empty() {
                tracing::info!("garbage collection detached {} interfaces", gone.len());
            }
        }
        Verb::Status => status(state)?,
    }
    Ok(json!({}))
}

async fn add(state: &ApiState, request: &Request, conf: &NetConf) -> Result<Value, CniError> {
    let add = AddRequest {
        key: request.key(),
        network: conf.name.clone(),
        netns: request.netns.clone(),
        mtu: conf.mtu,
        ports: conf.ports.clone(),
        bandwidth: conf.bandwidth,
        pod: labels::parse(&request.args)?,
    };
    let attachment = state.pods.add(add).await?;
    let result = result::of_attachment(&attachment, conf);
    if result.is_err() {
        // A result that the runtime cannot be told must not leave an attachment.
        state.pods.del(request.key()).await?;
    }
    result
}

fn status(state: &ApiState) -> Result<(), CniError> {
    match state.node.health() {
        Health::Ready => {}
        Health::Unavailable(reason) => return Err(CniError::new(code::UNAVAILABLE, reason)),
        Health::Limited(reason) => return Err(CniError::new(code::LIMITED, reason)),
    }
    match state.pods.exhausted() {
        Some(cidr) => {
            let msg = format!("no free address in {cidr}");
            Err(CniError::new(code::UNAVAILABLE, msg))
        }
        None => Ok(()),
    }
}
