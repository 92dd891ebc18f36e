//! Errors as a runtime reads them (section 5, "Error").

use serde::{Deserialize, Serialize};

use super::Version;
use crate::host::netns::NetnsError;
use crate::host::veth::VethError;
use crate::pods::PodError;

/// Error codes: those below 100 are the specification's, the others Oxlan's own and as stable.
pub mod code {
    /// The configuration's `cniVersion` is not one that Oxlan speaks, or older than the verb.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration that Oxlan does not support; the message has key and value.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container, or its attachment, does not exist.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or wrong; the message has its name.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Standard input or output failed.
    pub const IO: u32 = 5;
    /// The configuration is not JSON.
    pub const DECODE: u32 = 6;
    /// A field of the configuration has a wrong value; the message has field, value and what is allowed.
    pub const INVALID_CONFIG: u32 = 7;
    /// The agent is not up, or not ready for this; the same call can succeed later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: no pods can be attached now.
    pub const UNAVAILABLE: u32 = 50;
    /// STATUS: no pods can be attached now, and those that are there may be cut off.
    pub const LIMITED: u32 = 51;
    /// The kernel refused a link, address, route, neighbour, sysctl or namespace.
    pub const KERNEL: u32 = 100;
    /// ADD for an interface that is attached already: DEL must come first.
    pub const ALREADY_ATTACHED: u32 = 101;
    /// Every address of the node's pod CIDR is in use.
    pub const NO_FREE_ADDRESS: u32 = 102;
    /// The container has an interface of this name, and it is not Oxlan's.
    pub const INTERFACE_EXISTS: u32 = 103;
    /// CHECK: the attachment is not as it should be; the message lists the differences.
    pub const DIFFERS: u32 = 104;
    /// The BPF maps or programs refused.
    pub const DATAPATH: u32 = 105;
    /// The state directory cannot be read or written.
    pub const STATE: u32 = 106;
    /// DEL or GC could not take everything away; it is tried again by the next one.
    pub const LEFTOVERS: u32 = 107;
    /// The agent answered with something that is not its protocol.
    pub const PROTOCOL: u32 = 108;
}

/// An error as the plugin prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{msg} (code {code})")]
pub struct CniError {
    /// Version of the configuration, or the newest when that is unknown.
    pub cni_version: String,
    /// One of [`code`].
    pub code: u32,
    /// What went wrong and what to do.
    pub msg: String,
    /// The causes, one after the other.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error of the newest version.
    #[must_use]
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self {
            cni_version: Version::NEWEST.name().into(),
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// The same with its causes.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The same in the version of the configuration.
    #[must_use]
    pub fn in_version(mut self, version: Version) -> Self {
        self.cni_version = version.name().into();
        self
    }

    /// An environment variable with a wrong value.
    #[must_use]
    pub fn environment(variable: &str, value: &str, allowed: &str) -> Self {
        let msg = format!("{variable} is \"{value}\"; allowed: {allowed}");
        Self::new(code::INVALID_ENVIRONMENT, msg)
    }

    /// A field of the configuration with a wrong value.
    #[must_use]
    pub fn config(field: &str, value: &serde_json::Value, allowed: &str) -> Self {
        let msg = format!("network configuration: {field} is {value}; allowed: {allowed}");
        Self::new(code::INVALID_CONFIG, msg)
    }

    /// A field of the configuration that has no meaning here.
    #[must_use]
    pub fn unsupported(field: &str, value: &serde_json::Value, advice: &str) -> Self {
        let msg = format!("network configuration: {field} = {value} is not supported: {advice}");
        Self::new(code::UNSUPPORTED_FIELD, msg)
    }
}

impl From<PodError> for CniError {
    fn from(error: PodError) -> Self {
        let details = std::error::Error::source(&error).map(crate::datapath::chain);
        Self::new(code_of(&error), error.to_string()).with_details(details.unwrap_or_default())
    }
}

fn code_of(error: &PodError) -> u32 {
    match error {
        PodError::Duplicate { .. } => code::ALREADY_ATTACHED,
        PodError::Unknown { .. } => code::UNKNOWN_CONTAINER,
        PodError::Exhausted { .. } => code::NO_FREE_ADDRESS,
        PodError::NoPodCidr | PodError::Interrupted => code::TRY_AGAIN,
        PodError::MtuTooLarge { .. }
        | PodError::MtuTooSmall { .. }
        | PodError::PortTaken { .. }
        | PodError::PortFamily(_) => code::INVALID_CONFIG,
        PodError::Ports(_) => code::KERNEL,
        PodError::Netns(netns) | PodError::Veth(VethError::Netns(netns)) => code_of_netns(netns),
        PodError::Veth(VethError::InterfaceExists { .. }) => code::INTERFACE_EXISTS,
        PodError::Rtnl(_)
        | PodError::Ethtool(_)
        | PodError::Veth(VethError::Rtnl(_) | VethError::Sysctl(_)) => code::KERNEL,
        PodError::Datapath { .. } => code::DATAPATH,
        PodError::State { .. } | PodError::Record { .. } | PodError::DoubleAddress(_) => {
            code::STATE
        }
        PodError::Differs(_) => code::DIFFERS,
        PodError::Leftovers(_) => code::LEFTOVERS,
    }
}

fn code_of_netns(error: &NetnsError) -> u32 {
    match error {
        NetnsError::Gone { .. } => code::UNKNOWN_CONTAINER,
        NetnsError::NotANamespace { .. } | NetnsError::Own { .. } => code::INVALID_ENVIRONMENT,
        NetnsError::Open { .. } | NetnsError::Enter { .. } | NetnsError::Thread(_) => code::KERNEL,
    }
}
