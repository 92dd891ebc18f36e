//! What is: reads the host and the maps into what the plans compare.

use std::collections::{BTreeMap, HashMap};

use oxlan_common::addr::Addr;
use oxlan_common::maps::PodValue;

use super::host::{Actual as Host, Desired, Sysctl, Via};
use super::tables::Actual as Tables;
use crate::datapath::{Datapath, DatapathError};
use crate::host::device::{self, Device};
use crate::host::layer3::{self, Way};
use crate::host::rtnl::{Rtnl, RtnlError};
use crate::host::shaper::{self, Present};
use crate::host::sysctl;

/// Reads what `desired` is compared with.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn host(rtnl: &mut Rtnl, desired: &Desired) -> Result<Host, RtnlError> {
    let devices = device::devices(rtnl)?;
    let names: HashMap<u32, String> = devices
        .iter()
        .map(|d| (d.ifindex, d.name.clone()))
        .collect();
    let name = |ifindex: u32| {
        let known = names.get(&ifindex).cloned();
        known.unwrap_or_else(|| format!("ifindex {ifindex}"))
    };
    let overlay = devices.iter().find(|d| d.name == desired.overlay.name);
    let overlay = overlay.map(|d| d.ifindex);
    let addresses = layer3::addresses(rtnl)?;
    let addresses = addresses.iter().filter(|a| Some(a.ifindex) == overlay);
    let routes = layer3::routes(rtnl)?.into_iter().map(|route| {
        let via = match route.way {
            Way::Device {
                ifindex,
                source,
                mtu,
            } => Via::Device {
                name: name(ifindex),
                source,
                mtu,
            },
            Way::Gateway {
                ifindex,
                gateway,
                source,
            } => Via::Gateway {
                name: name(ifindex),
                gateway,
                source,
            },
            Way::Unreachable => Via::Unreachable,
        };
        ((route.destination, route.metric), via)
    });
    let neighbours = layer3::neighbours(rtnl)?.into_iter();
    let neighbours = neighbours.map(|n| ((name(n.ifindex), n.address), (n.mac, n.permanent)));
    Ok(Host {
        limits: limits(rtnl, desired)?,
        addresses: addresses.map(|a| a.net).collect(),
        routes: routes.collect(),
        neighbours: neighbours.collect(),
        sysctls: sysctls(&desired.sysctls),
        devices: by_name(devices),
    })
}

fn limits(rtnl: &mut Rtnl, desired: &Desired) -> Result<BTreeMap<String, Present>, RtnlError> {
    let limited = desired.pods.iter().filter(|(_, pod)| pod.limit.is_some());
    let (names, devices): (Vec<&String>, Vec<u32>) =
        limited.map(|(name, pod)| (name, pod.ifindex)).unzip();
    let present = shaper::present(rtnl, &devices)?.into_iter();
    let named = names.into_iter().cloned().zip(present);
    Ok(named.filter_map(|(name, p)| Some((name, p?))).collect())
}

/// Devices by name.
#[must_use]
pub fn by_name(devices: Vec<Device>) -> BTreeMap<String, Device> {
    devices.into_iter().map(|d| (d.name.clone(), d)).collect()
}

fn sysctls(desired: &[Sysctl]) -> BTreeMap<String, String> {
    let value = |s: &Sysctl| Some((s.key.clone(), sysctl::read(&s.key)?));
    desired.iter().filter_map(value).collect()
}

/// Which maps to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Which {
    /// `PODS`.
    pub pods: bool,
    /// `ROUTES`.
    pub routes: bool,
    /// `HOPS`.
    pub hops: bool,
    /// `VTEPS`.
    pub vteps: bool,
    /// `CONFIG`.
    pub config: bool,
}

impl Which {
    /// All of them.
    pub const ALL: Self = Self {
        pods: true,
        routes: true,
        hops: true,
        vteps: true,
        config: true,
    };
}

/// The programs' own notes in the entries are nobody's wish.
fn without_marks(entries: Vec<(Addr, PodValue)>) -> BTreeMap<Addr, PodValue> {
    let entries = entries.into_iter();
    entries
        .map(|(key, value)| (key, value.without_marks()))
        .collect()
}

/// Reads maps.
///
/// # Errors
/// When the kernel refuses.
pub fn tables(datapath: &Datapath, which: Which) -> Result<Tables, DatapathError> {
    let pods = || datapath.pods().entries().map(without_marks);
    let routes = || datapath.routes().entries().map(BTreeMap::from_iter);
    let hops = || datapath.hops().entries().map(BTreeMap::from_iter);
    let vteps = || datapath.vteps().entries().map(BTreeMap::from_iter);
    Ok(Tables {
        pods: which.pods.then(pods).transpose()?,
        routes: which.routes.then(routes).transpose()?,
        hops: which.hops.then(hops).transpose()?,
        vteps: which.vteps.then(vteps).transpose()?,
        config: which.config.then(|| datapath.config()).transpose()?,
    })
}
