//! Oxlan's node agent, command line and CNI plugin: one room per concern, see docs/ARCHITECTURE.md.

pub mod api;
pub mod cli;
pub mod cluster;
pub mod cni;
pub mod datapath;
pub mod host;
pub mod node;
pub mod pods;
pub mod reconcile;
