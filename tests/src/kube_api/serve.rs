//! The server's HTTP.

use std::net::TcpListener;

use axum::body::Body;
use axum::extract::{Path, Query, State as Shared};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{State, lock};

/// Answers until it is dropped.
pub(super) async fn serve(listener: TcpListener, state: State) {
    let router = Router::new()
        .route("/api/v1/nodes", get(list_or_watch))
        .route("/api/v1/nodes/{name}/status", patch(patch_status))
        .with_state(state);
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => {
            let _ = axum::serve(listener, router).await;
        }
        Err(error) => println!("the API server cannot listen: {error}"),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    watch: Option<bool>,
    limit: Option<usize>,
    #[serde(rename = "continue")]
    after: Option<String>,
    resource_version: Option<String>,
}

async fn list_or_watch(
    Shared(state): Shared<State>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Response {
    let watching = asked.watch == Some(true);
    {
        let counts = &mut lock(&state).counts;
        *(if watching {
            &mut counts.watches
        } else {
            &mut counts.pages
        }) += 1;
    }
    if let Err(refused) = admit(&state, &headers, true).await {
        return refused;
    }
    if watching {
        let version = asked.resource_version.and_then(|v| v.parse().ok());
        let lines = lock(&state).nodes.watch(version.unwrap_or_default());
        let lines = futures_util::stream::unfold(lines, async |mut lines| {
            lines.recv().await.map(|line| (line, lines))
        });
        return Body::from_stream(lines).into_response();
    }
    let limit = asked.limit.unwrap_or(usize::MAX);
    let page = lock(&state).nodes.page(limit, asked.after.as_deref());
    Json(json!({
        "kind": "NodeList", "apiVersion": "v1",
        "metadata": {"resourceVersion": page.version.to_string(), "continue": page.next},
        "items": page.items,
    }))
    .into_response()
}

async fn patch_status(
    Shared(state): Shared<State>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: String,
) -> Response {
    lock(&state).counts.patches += 1;
    if let Err(refused) = admit(&state, &headers, false).await {
        return refused;
    }
    if lock(&state).faults.read_only {
        return failure(403);
    }
    let form = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    if form != Some("application/strategic-merge-patch+json") {
        return failure(415);
    }
    let Ok(change) = serde_json::from_str::<Value>(&body) else {
        return failure(400);
    };
    match lock(&state).nodes.patch(&name, &change) {
        Some(node) => Json(node).into_response(),
        None => failure(404),
    }
}

/// Carries the faults out.
async fn admit(state: &State, headers: &HeaderMap, reading: bool) -> Result<(), Response> {
    let faults = lock(state).faults.clone();
    tokio::time::sleep(faults.delay).await;
    let token = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
    let wanted = faults.token.map(|t| format!("Bearer {t}"));
    if wanted.is_some() && wanted.as_deref() != token {
        return Err(failure(401));
    }
    if reading && !faults.codes.is_empty() {
        return Err(failure(lock(state).faults.codes.remove(0)));
    }
    Ok(())
}

fn failure(code: u16) -> Response {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("refused by the test with {code}"), "reason": "Test", "code": code,
    });
    (status, Json(body)).into_response()
}
