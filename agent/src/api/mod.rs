//! The agent's own API: HTTP and JSON on a unix socket, for the command line, the CNI plugin and curl.
//!
//! The forms in [`types`] are stable: fields are added, never renamed or given another meaning.
//! docs/api.md shows each with an example.

pub mod client;
pub mod health;
mod routes;
mod server;
pub mod types;

use std::sync::Arc;

use oxlan_common::maps::Counter;

use crate::pods::Pods;
use types::{Health, NodeRow, RouteRow, Status};

pub use server::{ApiError, SOCKET, bind, serve};

/// Whatever the node answers when it cannot.
pub type NodeFault = Box<dyn std::error::Error + Send + Sync>;

/// What the API needs of the node that it does not get from [`Pods`].
pub trait NodeView: Send + Sync + 'static {
    /// The node in one object. `pods` and `health` are filled in by the API.
    fn status(&self) -> Status;

    /// Whether pods can be attached and are forwarded for. Called for every STATUS: cheap.
    fn health(&self) -> Health;

    /// Every node of the cluster, in the order of names.
    fn nodes(&self) -> Vec<NodeRow>;

    /// What is in the datapath's table of routes now.
    ///
    /// # Errors
    /// When the table cannot be read.
    fn routes(&self) -> Result<Vec<RouteRow>, NodeFault>;

    /// The datapath's counters by slot, summed over all CPUs.
    ///
    /// # Errors
    /// When the table cannot be read.
    fn counters(&self) -> Result<Vec<(u32, Counter)>, NodeFault>;
}

/// What requests are answered from.
#[derive(Clone)]
pub struct ApiState {
    /// The attachments.
    pub pods: Arc<Pods>,
    /// Everything else.
    pub node: Arc<dyn NodeView>,
}

#[cfg(test)]
mod tests;
