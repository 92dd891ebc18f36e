//! A pod's veth pair: made with one end directly in the pod's namespace, then each side set up
//! with one batch of requests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use oxlan_common::addr::Mac;
use oxlan_common::wire::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, MIN_MTU_V6};

use super::link::{self, LinkState, link_of, required};
use super::messages::{self, Route};
use super::netns::{Netns, NetnsError};
use super::rtnl::{Batch, Rtnl, RtnlError};
use super::shaper::{self, TokenBucket};
use super::sysctl::{self, SysctlError};

/// Why one side of a pair cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum VethError {
    /// The pod's namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel refused.
    #[error(transparent)]
    Rtnl(#[from] RtnlError),
    /// A sysctl cannot be written.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The pod has an interface of this name.
    #[error("the namespace {netns} already has an interface {ifname}")]
    InterfaceExists {
        /// Path of the namespace.
        netns: String,
        /// The interface.
        ifname: String,
    },
}

/// A pair to be made.
#[derive(Debug)]
pub struct Pair<'a> {
    /// Name of the host side.
    pub host_ifname: &'a str,
    /// MAC of the host side.
    pub host_mac: Mac,
    /// Name of the pod's side.
    pub pod_ifname: &'a str,
    /// MAC of the pod's side.
    pub pod_mac: Mac,
    /// MTU of both, bytes.
    pub mtu: u16,
    /// What the host side may send.
    pub to_pod: Option<TokenBucket>,
    /// What the pod's side may send.
    pub from_pod: Option<TokenBucket>,
}

/// An address of the pod, and the node's own in the same family.
#[derive(Debug, Clone, Copy)]
pub struct HostRoute {
    /// Address of the pod.
    pub pod: IpAddr,
    /// Source of what the host sends to it.
    pub source: Option<IpAddr>,
}

/// Makes the pair, both sides down, and returns the host side.
///
/// A host side of the same name that is there already is a leftover without a record: it goes first.
///
/// # Errors
/// When the pod has an interface of that name, or the kernel refuses.
pub fn create(rtnl: &mut Rtnl, netns: &Netns, pair: &Pair<'_>) -> Result<LinkState, VethError> {
    let name = pair.host_ifname;
    let mut batch = Batch::new();
    batch.remove(
        format!("remove the leftover {name}"),
        messages::remove_link(name),
    );
    batch.create(
        format!("make the veth pair {name}"),
        messages::new_veth(pair, netns.as_raw_fd()),
    );
    batch.request(format!("find {name}"), messages::get_link(name));
    match rtnl.run(batch) {
        Ok(answers) => Ok(link_of(&answers, name)?),
        Err(e) if e.errno() == Some(nix::libc::EEXIST) => Err(VethError::InterfaceExists {
            netns: netns.path().display().to_string(),
            ifname: pair.pod_ifname.to_owned(),
        }),
        Err(e) => Err(e.into()),
    }
}

/// Sets the host side up and makes its addresses reachable from the host.
///
/// That an address already has a route is an error: it would belong to another pod.
///
/// # Errors
/// When the kernel refuses.
pub fn connect_host(
    rtnl: &mut Rtnl,
    pair: &Pair<'_>,
    ifindex: u32,
    routes: &[HostRoute],
) -> Result<(), VethError> {
    let name = pair.host_ifname;
    if routes.iter().any(|r| r.pod.is_ipv6()) {
        sysctl::require(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0")?;
        sysctl::require(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
    }
    let ipv6 = pair.mtu >= MIN_MTU_V6 && Path::new("/proc/sys/net/ipv6").exists();
    let mut batch = Batch::new();
    if let Some(bucket) = &pair.to_pod {
        shaper::limit(&mut batch, name, ifindex, bucket);
    }
    batch.request(
        format!("set {name} up"),
        messages::host_side_up(ifindex, ipv6),
    );
    for route in routes {
        let pod = route.pod;
        batch.create(
            format!("make the route to {pod}"),
            messages::route(&Route {
                source: route.source,
                ..Route::to_host(pod, ifindex)
            }),
        );
        batch.replace(
            format!("make the neighbour {pod}"),
            messages::neighbour(pod, pair.pod_mac, ifindex),
        );
    }
    rtnl.run(batch)?;
    Ok(())
}

/// Sets the pod's side up: addresses, gateway, routes. Returns whether the pod takes what is sent to
/// its addresses before `patience` ends.
///
/// # Errors
/// When the namespace cannot be entered or the kernel refuses.
pub fn configure_pod(
    netns: &Netns,
    pair: &Pair<'_>,
    addresses: &[IpAddr],
    patience: Duration,
) -> Result<bool, VethError> {
    netns.run(|| {
        let mut rtnl = Rtnl::open()?;
        configure_pod_inside(&mut rtnl, pair, addresses)?;
        Ok(link::wait_until_local(&mut rtnl, addresses, patience)?)
    })?
}

fn configure_pod_inside(
    rtnl: &mut Rtnl,
    pair: &Pair<'_>,
    addresses: &[IpAddr],
) -> Result<(), VethError> {
    let ifname = pair.pod_ifname;
    let ifindex = required(rtnl, ifname)?.ifindex;
    if addresses.iter().any(IpAddr::is_ipv6) {
        sysctl::require(&format!("net/ipv6/conf/{ifname}/disable_ipv6"), "0")?;
    }
    let mut batch = Batch::new();
    if let Some(bucket) = &pair.from_pod {
        shaper::limit(&mut batch, ifname, ifindex, bucket);
    }
    batch.request("set lo up", messages::link_up_by_name("lo"));
    batch.request(format!("set {ifname} up"), messages::link_up(ifindex));
    for address in addresses {
        let gateway = gateway_for(*address);
        batch.create(
            format!("add the address {address}"),
            messages::address(*address, ifindex),
        );
        batch.replace(
            format!("make the neighbour {gateway}"),
            messages::neighbour(gateway, Mac::new(GATEWAY_MAC), ifindex),
        );
        batch.replace(
            format!("make the route to {gateway}"),
            messages::route(&Route::to_host(gateway, ifindex)),
        );
        batch.replace(
            format!("make the default route via {gateway}"),
            messages::route(&Route::default_via(gateway, ifindex)),
        );
    }
    rtnl.run(batch)?;
    Ok(())
}

/// Removes the pair with everything that hangs on it. That it is gone is success.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(rtnl: &mut Rtnl, host_ifname: &str) -> Result<(), RtnlError> {
    let mut batch = Batch::new();
    batch.remove(
        format!("remove {host_ifname}"),
        messages::remove_link(host_ifname),
    );
    rtnl.run(batch).map(drop)
}

/// Sets the MTU of the interface `ifname` of the calling thread's namespace, and what it may send, for
/// the burst has to have room for a frame.
///
/// # Errors
/// When the kernel refuses.
pub fn set_mtu(
    rtnl: &mut Rtnl,
    ifname: &str,
    mtu: u16,
    bucket: Option<&TokenBucket>,
) -> Result<(), RtnlError> {
    let mut batch = Batch::new();
    if let Some(bucket) = bucket {
        let ifindex = required(rtnl, ifname)?.ifindex;
        shaper::limit(&mut batch, ifname, ifindex, bucket);
    }
    batch.request(
        format!("set the MTU of {ifname} to {mtu}"),
        messages::set_mtu(ifname, mtu),
    );
    rtnl.run(batch).map(drop)
}

/// The pods' gateway of the same family as `address`.
#[must_use]
pub fn gateway_for(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::from(GATEWAY_V4).into(),
        IpAddr::V6(_) => Ipv6Addr::from(GATEWAY_V6).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::link::{find, wait_until_running};
    use crate::pods::tests::fixture::{Container, on_a_node};

    #[test]
    fn the_kernel_sends_only_when_both_sides_are_up() {
        on_a_node(&[], async || {
            let container = Container::new("c1");
            let netns = Netns::open(container.netns().as_ref()).unwrap();
            let mut rtnl = Rtnl::open().unwrap();
            let pair = Pair {
                host_ifname: "oxltest",
                host_mac: Mac::new(GATEWAY_MAC),
                pod_ifname: "eth0",
                pod_mac: Mac::new([0x0a, 0x58, 10, 0, 0, 1]),
                mtu: 1450,
                to_pod: None,
                from_pod: None,
            };
            let host_side = create(&mut rtnl, &netns, &pair).unwrap();
            assert!(host_side.peer_netns.is_some_and(|number| number >= 0));
            connect_host(&mut rtnl, &pair, host_side.ifindex, &[]).unwrap();
            let mut wait = |patience| {
                wait_until_running(&mut rtnl, "oxltest", Duration::from_millis(patience)).unwrap()
            };
            assert!(!wait(20));
            let patience = Duration::from_secs(2);
            let addresses = ["10.0.0.9".parse().unwrap(), "fd00::9".parse().unwrap()];
            assert!(configure_pod(&netns, &pair, &addresses, patience).unwrap());
            assert!(wait(2000));
            remove(&mut rtnl, "oxltest").unwrap();
            remove(&mut rtnl, "oxltest").unwrap();
            assert_eq!(find(&mut rtnl, "oxltest").unwrap(), None);
        });
    }
}
