//! Writes what this node announces to its Node: once at the start, and again when somebody else
//! has changed it.

use futures_util::future::BoxFuture;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::{Duration, Instant};

use super::node::Node;
use super::outage::Pauses;

/// Who else announces for this node, as a Flannel that still runs, is not fought more often.
const AGAIN: Duration = Duration::from_secs(5);

/// A server that has not answered by then does not keep this node from forwarding.
const PATIENCE: Duration = Duration::from_secs(5);

/// The request in flight, and what has become of the last one.
pub(super) struct Announcer {
    request: Option<BoxFuture<'static, Result<Node, kube::Error>>>,
    pauses: Pauses,
    /// No request before.
    not_before: Instant,
    attempted: bool,
    /// When the first request was sent.
    sent: Option<Instant>,
    problem: Option<String>,
}

impl Announcer {
    pub(super) fn new() -> Self {
        Self {
            request: None,
            pauses: Pauses::new(),
            not_before: Instant::now(),
            attempted: false,
            sent: None,
            problem: None,
        }
    }

    /// Whether the others know this node, or are not waited for: it was refused, or nobody answers.
    pub(super) fn has_tried(&self, now: Instant) -> bool {
        self.attempted || self.patience().is_some_and(|until| until <= now)
    }

    /// Until when the first answer is waited for, if there is something to wait for.
    pub(super) fn patience(&self) -> Option<Instant> {
        let sent = self.sent.filter(|_| !self.attempted);
        sent.map(|sent| sent + PATIENCE)
    }

    /// Why the others may not know this node.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// What is wanted is there already. Whether that is news.
    pub(super) fn nothing_to_do(&mut self) -> bool {
        let news = !self.attempted || self.problem.is_some();
        self.attempted = true;
        self.problem = None;
        news
    }

    /// Whether a patch can be sent now.
    pub(super) fn is_free(&self, now: Instant) -> bool {
        self.request.is_none() && self.not_before <= now
    }

    /// When a patch can be sent again, if it cannot now.
    pub(super) fn not_before(&self) -> Instant {
        self.not_before
    }

    /// Sends a patch of the status of this Node.
    pub(super) fn send(&mut self, client: &Client, node: &str, patch: Value) {
        let api: Api<Node> = Api::all(client.clone());
        let node = node.to_owned();
        self.sent.get_or_insert_with(Instant::now);
        self.request = Some(Box::pin(async move {
            let parameters = PatchParams::default();
            api.patch_status(&node, &parameters, &Patch::Strategic(patch))
                .await
        }));
    }

    /// The end of the request in flight: the Node as it is now. Never, if there is none.
    pub(super) async fn done(&mut self) -> Option<Node> {
        let outcome = match &mut self.request {
            Some(request) => request.await,
            None => std::future::pending().await,
        };
        self.request = None;
        self.attempted = true;
        match outcome {
            Ok(node) => {
                tracing::info!("the own Node announces this node to the others");
                self.pauses = Pauses::new();
                self.not_before = Instant::now() + AGAIN;
                self.problem = None;
                Some(node)
            }
            Err(error) => {
                self.not_before = Instant::now() + self.pauses.next();
                let cause = crate::datapath::chain(&error);
                self.problem = Some(format!(
                    "this node cannot be announced to the others (the agent needs patch of nodes/status): {cause}"
                ));
                None
            }
        }
    }
}
