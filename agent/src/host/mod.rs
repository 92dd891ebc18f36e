//! The only room that touches the host: netlink, namespaces, sysctl, nftables.

pub mod inspect;
mod messages;
pub mod netns;
pub mod rtnl;
pub mod veth;
