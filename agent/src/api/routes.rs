//! Which path gives what.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use oxlan_common::counters::{DropReason, Verdict};
use oxlan_common::maps::Counter;
use serde_json::Value;

use super::types::{CounterRow, Device, Drops, Failure, Health, NodeRow, PodRow, RouteRow, Status};
use super::{ApiState, NodeFault};
use crate::cni::{self, CniError, Verb, code};
use crate::pods::{Attachment, Phase, seconds_since_1970};

/// The API.
pub(super) fn router(state: ApiState) -> Router {
    Router::new()
        .route("/v1/healthz", get(healthz))
        .route("/v1/status", get(status))
        .route("/v1/pods", get(pods))
        .route("/v1/nodes", get(nodes))
        .route("/v1/routes", get(routes))
        .route("/v1/drops", get(drops))
        .route(Verb::Add.path(), cni(Verb::Add))
        .route(Verb::Del.path(), cni(Verb::Del))
        .route(Verb::Check.path(), cni(Verb::Check))
        .route(Verb::Gc.path(), cni(Verb::Gc))
        .route(Verb::Status.path(), cni(Verb::Status))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(state)
}

/// 200 when the node can do its work, 503 with the reason when not.
async fn healthz(State(state): State<ApiState>) -> Response {
    match state.node.health() {
        Health::Ready => Json(Health::Ready).into_response(),
        health @ (Health::Unavailable(_) | Health::Limited(_)) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(health)).into_response()
        }
    }
}

async fn status(State(state): State<ApiState>) -> Json<Status> {
    let mut status = state.node.status();
    status.health = state.node.health();
    status.pods = state
        .pods
        .list()
        .iter()
        .filter(|a| a.phase == Phase::Ready)
        .count();
    Json(status)
}

async fn pods(State(state): State<ApiState>) -> Json<Vec<PodRow>> {
    let now = seconds_since_1970();
    let mut attachments = state.pods.list();
    attachments.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    Json(attachments.into_iter().map(|a| pod_row(a, now)).collect())
}

async fn nodes(State(state): State<ApiState>) -> Json<Vec<NodeRow>> {
    Json(state.node.nodes())
}

async fn routes(State(state): State<ApiState>) -> Result<Json<Vec<RouteRow>>, Response> {
    state.node.routes().map(Json).map_err(failed)
}

async fn drops(State(state): State<ApiState>) -> Result<Json<Drops>, Response> {
    let counters = state.node.counters().map_err(failed)?;
    let at = |slot: u32| {
        let found = counters.iter().find(|(s, _)| *s == slot);
        found.map_or_else(Counter::default, |(_, counter)| *counter)
    };
    let row = |name: &str, explanation: &str, counter: Counter| CounterRow {
        name: name.into(),
        packets: counter.packets,
        bytes: counter.bytes,
        explanation: explanation.into(),
    };
    let drops = DropReason::ALL
        .iter()
        .map(|r| row(r.name(), r.explanation(), at(r.slot())));
    let verdicts = Verdict::ALL
        .iter()
        .map(|v| row(v.name(), v.explanation(), at(v.slot())));
    Ok(Json(Drops {
        drops: drops.collect(),
        verdicts: verdicts.collect(),
    }))
}

/// Answers a CNI verb. The body is read as bytes, because curl's default content type is not JSON.
fn cni(verb: Verb) -> MethodRouter<ApiState> {
    post(
        move |State(state): State<ApiState>, body: Result<Bytes, BytesRejection>| async move {
            match cni_answer(&state, verb, body).await {
                Ok(result) => Json(result).into_response(),
                Err(error) => (cni_status(error.code), Json(error)).into_response(),
            }
        },
    )
}

async fn cni_answer(
    state: &ApiState,
    verb: Verb,
    body: Result<Bytes, BytesRejection>,
) -> Result<Value, CniError> {
    let body = body.map_err(|e| {
        let msg = "the request is larger than 2 MiB, or its end is missing";
        CniError::new(code::DECODE, msg).with_details(e.body_text())
    })?;
    let request = serde_json::from_slice(&body).map_err(|e| {
        let msg = "the request is not of the form {containerId, netns, ifname, args, config}";
        CniError::new(code::DECODE, msg).with_details(e.to_string())
    })?;
    cni::handle(state, verb, request).await
}

/// The HTTP status tells whether the request, the state of things, or the agent is at fault.
fn cni_status(code: u32) -> StatusCode {
    match code {
        code::UNKNOWN_CONTAINER => StatusCode::NOT_FOUND,
        code::TRY_AGAIN | code::UNAVAILABLE | code::LIMITED => StatusCode::SERVICE_UNAVAILABLE,
        code::ALREADY_ATTACHED | code::INTERFACE_EXISTS | code::DIFFERS => StatusCode::CONFLICT,
        1..=99 => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn unknown() -> (StatusCode, Json<Failure>) {
    let error = "no such path: there are GET /v1/healthz, /v1/status, /v1/pods, /v1/nodes, \
                 /v1/routes, /v1/drops and POST /v1/cni/{add,del,check,gc,status}";
    let error = error.to_owned();
    (StatusCode::NOT_FOUND, Json(Failure { error }))
}

async fn wrong_method() -> (StatusCode, Json<Failure>) {
    let error = "wrong method: paths below /v1/cni/ want POST, all others GET".to_owned();
    (StatusCode::METHOD_NOT_ALLOWED, Json(Failure { error }))
}

#[expect(clippy::needless_pass_by_value, reason = "it ends its life here")]
fn failed(fault: NodeFault) -> Response {
    let error = crate::datapath::chain(fault.as_ref());
    (StatusCode::INTERNAL_SERVER_ERROR, Json(Failure { error })).into_response()
}

fn pod_row(attachment: Attachment, now: u64) -> PodRow {
    let phase = match attachment.phase {
        Phase::Adding => "adding",
        Phase::Ready => "ready",
        Phase::Removing => "removing",
    };
    PodRow {
        namespace: attachment.pod.namespace,
        name: attachment.pod.name,
        container_id: attachment.container_id,
        ifname: attachment.ifname,
        network: attachment.network,
        netns: attachment.netns,
        phase: phase.into(),
        addresses: attachment.addresses,
        mac: attachment.mac.to_string(),
        host: Device {
            name: attachment.host_ifname,
            ifindex: attachment.host_ifindex,
            mtu: attachment.mtu.into(),
        },
        age: now.saturating_sub(attachment.created),
    }
}
