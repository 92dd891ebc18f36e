//! The Container Network Interface: verbs, configuration, results, error codes.
//!
//! The plugin `oxlan-cni` reads what the runtime says, checks it, and hands it to the agent as one
//! [`Request`]; the agent does the work and answers with a result or a [`CniError`], which the
//! plugin prints. Sections named below are those of the specification, SPEC.md of CNI 1.1.0.

mod config;
mod error;
mod handler;
pub mod install;
mod labels;
pub mod plugin;
mod request;
mod result;
mod version;

pub use config::{DEFAULT_RUN_DIR, Dns, NetConf};
pub use error::{CniError, code};
pub(crate) use handler::handle;
pub use request::{Request, Verb};
pub use version::Version;
