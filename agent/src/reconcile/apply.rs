//! Carries steps out, one by one: the failure of one does not keep the others from being done.

use super::filters::Step as FilterStep;
use super::host::{Step as HostStep, Via};
use super::tables::Step as TableStep;
use crate::datapath::{Datapath, DatapathError};
use crate::host::device;
use crate::host::layer3::{self, Address, Route, Way};
use crate::host::link;
use crate::host::rtnl::{Rtnl, RtnlError};
use crate::host::shaper;
use crate::host::sysctl::{self, Originals, SysctlError};
use ipnet::IpNet;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The kernel refused.
    #[error(transparent)]
    Rtnl(#[from] RtnlError),
    /// A device has gone since the plan was made; its going makes a new plan.
    #[error("the device {0} has gone")]
    Gone(String),
    /// A sysctl cannot be set.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The datapath refused.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
}

/// Changes the host.
///
/// # Errors
/// What the kernel refused.
pub fn host(rtnl: &mut Rtnl, originals: &mut Originals, step: &HostStep) -> Result<(), ApplyError> {
    match step {
        HostStep::CreateOverlay { name, port, mac } => {
            device::create_vxlan(rtnl, name, *port, *mac)?;
        }
        HostStep::RemoveDevice(name) => device::remove(rtnl, name)?,
        HostStep::ChangeDevice(name, change) => device::change(rtnl, name, change)?,
        HostStep::AddAddress(name, net) => {
            let ifindex = ifindex(rtnl, name)?;
            layer3::add_address(rtnl, net.addr(), ifindex)?;
        }
        HostStep::RemoveAddress(name, net) => {
            let ifindex = ifindex(rtnl, name)?;
            layer3::remove_address(rtnl, Address { ifindex, net: *net })?;
        }
        HostStep::SetRoute(to, metric, via) => {
            let route = route(rtnl, *to, *metric, via)?;
            layer3::set_route(rtnl, &route)?;
        }
        HostStep::RemoveRoute(to, metric, via) => match route(rtnl, *to, *metric, via) {
            // The kernel removes a device's routes with it.
            Err(ApplyError::Gone(_)) => {}
            route => layer3::remove_route(rtnl, &route?)?,
        },
        HostStep::SetNeighbour(name, address, mac) => {
            let ifindex = ifindex(rtnl, name)?;
            layer3::set_neighbour(rtnl, *address, *mac, ifindex)?;
        }
        HostStep::SetLimit(name, bucket) => {
            let ifindex = ifindex(rtnl, name)?;
            shaper::set(rtnl, name, ifindex, bucket)?;
        }
        HostStep::SetSysctl(wanted) => match wanted.device {
            // What vanishes with a device of ours needs no memory.
            Some(_) => sysctl::write(&wanted.key, wanted.value)?,
            None => originals.set(&wanted.key, wanted.value)?,
        },
    }
    Ok(())
}

/// Changes a map.
///
/// # Errors
/// What the kernel refused.
pub fn table(datapath: &Datapath, step: &TableStep) -> Result<(), ApplyError> {
    match step {
        TableStep::SetPod(key, value) => datapath.write_pod(key, *value)?,
        TableStep::RemovePod(key) => datapath.pods().remove(key)?,
        TableStep::SetRoute(key, value) => datapath.routes().set(key, value)?,
        TableStep::RemoveRoute(key) => datapath.routes().remove(key)?,
        TableStep::SetHops(key, value) => datapath.hops().set(key, value)?,
        TableStep::RemoveHops(key) => datapath.hops().remove(key)?,
        TableStep::SetVtep(key, value) => datapath.vteps().set(key, value)?,
        TableStep::RemoveVtep(key) => datapath.vteps().remove(key)?,
        TableStep::SetConfig(config) => datapath.set_config(config)?,
    }
    Ok(())
}

/// Attaches or detaches a program.
///
/// # Errors
/// What the kernel refused.
pub fn filter(datapath: &Datapath, step: &FilterStep) -> Result<(), ApplyError> {
    match step {
        FilterStep::Attach(f) => match datapath.attach(f.program, &f.ifname, f.ifindex) {
            Err(DatapathError::NoDevice { ifname, .. }) => return Err(ApplyError::Gone(ifname)),
            attached => drop(attached?),
        },
        FilterStep::Detach(f) => datapath.detach(f.program, &f.ifname, f.ifindex)?,
    }
    Ok(())
}

fn route(rtnl: &mut Rtnl, to: IpNet, metric: u32, via: &Via) -> Result<Route, ApplyError> {
    let way = match via {
        Via::Device { name, source, mtu } => Way::Device {
            mtu: *mtu,
            ifindex: ifindex(rtnl, name)?,
            source: *source,
        },
        Via::Gateway {
            name,
            gateway,
            source,
        } => Way::Gateway {
            ifindex: ifindex(rtnl, name)?,
            gateway: *gateway,
            source: *source,
        },
        Via::Unreachable => Way::Unreachable,
    };
    Ok(Route {
        destination: to,
        metric,
        way,
    })
}

fn ifindex(rtnl: &mut Rtnl, name: &str) -> Result<u32, ApplyError> {
    let link = link::find(rtnl, name)?;
    link.map(|l| l.ifindex)
        .ok_or_else(|| ApplyError::Gone(name.to_owned()))
}
