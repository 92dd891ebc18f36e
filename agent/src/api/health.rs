//! What a supervisor asks on a TCP port, as Kubernetes does: whether the agent lives, and whether it is
//! ready. Nothing else is told there. It answers from the first moment on, also while the agent
//! waits for its source.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use super::types::Health;
use super::{ApiError, NodeView};

/// Path of the question whether the agent lives.
pub const LIVE: &str = "/livez";

/// Path of the question whether pods can be attached.
pub const READY: &str = "/readyz";

/// What the answers follow from.
#[derive(Clone, Default)]
pub struct Probe(Arc<Seen>);

#[derive(Default)]
struct Seen {
    node: OnceLock<Arc<dyn NodeView>>,
    obstacle: RwLock<Option<String>>,
}

impl Probe {
    /// The agent has started: from here on its node says how it is.
    pub fn started(&self, node: Arc<dyn NodeView>) {
        let _ = self.0.node.set(node);
    }

    /// Why no pods come although the node is ready; none when they can.
    pub fn set_obstacle(&self, obstacle: Option<String>) {
        let mut held = self.0.obstacle.write();
        **held.as_mut().unwrap_or_else(PoisonError::get_mut) = obstacle;
    }

    fn health(&self) -> Health {
        let Some(node) = self.0.node.get() else {
            return Health::Unavailable(
                "the agent is starting; its log says what it waits for".into(),
            );
        };
        let obstacle = self.0.obstacle.read();
        let obstacle = obstacle.unwrap_or_else(PoisonError::into_inner).clone();
        match (node.health(), obstacle) {
            (Health::Ready, Some(obstacle)) => Health::Unavailable(obstacle),
            (health, _) => health,
        }
    }
}

/// Listens on an address.
///
/// # Errors
/// When it is not an address of this machine, or in use.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ApiError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| ApiError::Health { address, source })
}

/// Answers until the task is ended.
pub async fn serve(listener: TcpListener, probe: Probe) {
    let router = Router::new()
        .route(LIVE, get(async || "ok\n"))
        .route(READY, get(readyz))
        .with_state(probe);
    // It ends only with the task: errors of single connections are passed over.
    let _ = axum::serve(listener, router).await;
}

/// 200 when pods can be attached, 503 with the reason when not.
async fn readyz(State(probe): State<Probe>) -> Response {
    let health = probe.health();
    let status = match health {
        Health::Ready => StatusCode::OK,
        Health::Unavailable(_) | Health::Limited(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(health)).into_response()
}
