//! Flannel's formats, which a cluster that moves from it goes on using: the network's
//! configuration, what a node announces of itself, and the file that other tools read.

mod backend_data;
mod net_conf;
mod subnet_env;

pub use backend_data::BackendData;
pub use net_conf::{Backend, NetConf, NetConfError, Subnets};
pub use subnet_env::{SubnetEnv, SubnetEnvError};

/// Flannel's name of its VXLAN backend, in configurations, annotations and leases.
pub const VXLAN: &str = "vxlan";
