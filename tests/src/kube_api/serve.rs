//! The server's HTTP.

use std::net::TcpListener;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State as Shared};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch};
use axum::{Json, Router};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::nodes::Line;
use super::{State, Verb, lock};

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

/// A watch's events, until one stops in the middle.
type Watching = (Option<UnboundedReceiver<Line>>, State);

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
    let verb = if watching { Verb::Watch } else { Verb::List };
    if let Err(refused) = admit(&state, &headers, verb).await {
        return refused;
    }
    if watching {
        let version = asked.resource_version.and_then(|v| v.parse().ok());
        let lines = lock(&state).nodes.watch(version.unwrap_or_default());
        let lines = futures_util::stream::unfold((Some(lines), state), next_line);
        return Body::from_stream(lines).into_response();
    }
    let limit = asked.limit.unwrap_or(usize::MAX);
    let page = lock(&state).nodes.page(limit, asked.after.as_deref());
    let list = json!({
        "kind": "NodeList", "apiVersion": "v1",
        "metadata": {"resourceVersion": page.version.to_string(), "continue": page.next},
        "items": page.items,
    });
    answer(&state, Verb::List, list)
}

/// The next event of a watch, or its first half and then nothing more.
async fn next_line((lines, state): Watching) -> Option<(Line, Watching)> {
    let Some(mut lines) = lines else {
        return std::future::pending().await;
    };
    let line = lines.recv().await?;
    match line {
        Ok(mut line) if stalls(&state, Verb::Watch) => {
            line.truncate(line.len() / 2);
            Some((Ok(line), (None, state)))
        }
        line => Some((line, (Some(lines), state))),
    }
}

/// The answer, or its first half.
fn answer(state: &State, verb: Verb, object: Value) -> Response {
    if !stalls(state, verb) {
        return Json(object).into_response();
    }
    let mut half = object.to_string();
    half.truncate(half.len() / 2);
    let half = futures_util::stream::iter([Ok::<_, std::io::Error>(half)]);
    Body::from_stream(half.chain(futures_util::stream::pending())).into_response()
}

async fn patch_status(
    Shared(state): Shared<State>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: String,
) -> Response {
    lock(&state).counts.patches += 1;
    if let Err(refused) = admit(&state, &headers, Verb::Patch).await {
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
    let changed = lock(&state).nodes.patch(&name, &change);
    match changed {
        Some(node) => answer(&state, Verb::Patch, node),
        None => failure(404),
    }
}

fn stalls(state: &State, verb: Verb) -> bool {
    lock(state).faults.stall.contains(&verb)
}

/// Carries the faults out.
async fn admit(state: &State, headers: &HeaderMap, verb: Verb) -> Result<(), Response> {
    while lock(state).faults.hang.contains(&verb) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let faults = lock(state).faults.clone();
    tokio::time::sleep(faults.delay).await;
    let token = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
    let wanted = faults.token.map(|t| format!("Bearer {t}"));
    if wanted.is_some() && wanted.as_deref() != token {
        return Err(failure(401));
    }
    if verb != Verb::Patch && !faults.codes.is_empty() {
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
