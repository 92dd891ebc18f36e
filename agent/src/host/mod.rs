//! The only room that touches the host: netlink, namespaces, sysctl, nftables.

pub mod conntrack;
pub mod default_route;
pub mod device;
pub mod ethtool;
pub mod files;
pub mod inspect;
pub mod layer3;
pub mod link;
pub mod masquerade;
mod messages;
pub mod netns;
pub mod nftables;
pub mod nic;
pub mod path_errors;
pub mod paths;
pub mod pod_links;
pub mod ports;
pub mod preflight;
pub mod rtnl;
pub mod shaper;
pub mod sysctl;
pub mod veth;
pub mod watch;
