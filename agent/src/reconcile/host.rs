//! Devices, addresses, routes, neighbours and sysctls: which steps lead from what is to what should be.

mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use oxlan_common::addr::Mac;

use super::{Found, Planned};
use crate::host::device::{Device, DeviceChange, Vxlan};
use crate::host::shaper::{Present, TokenBucket};
use words::{differing, kind_in_words};

/// What should be on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The overlay device.
    pub overlay: Overlay,
    /// Host sides of the pods' veth pairs, by name. They are repaired, but cannot be made here.
    pub pods: BTreeMap<String, PodDevice>,
    /// Addresses of the overlay device; it has no others.
    pub addresses: BTreeSet<IpNet>,
    /// Routes by destination and metric; there are no others with our protocol number.
    pub routes: BTreeMap<(IpNet, u32), Via>,
    /// Permanent neighbours by device and address.
    pub neighbours: BTreeMap<(String, IpAddr), Mac>,
    /// Kernel parameters.
    pub sysctls: Vec<Sysctl>,
}

/// The overlay device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Its name.
    pub name: String,
    /// VXLAN port.
    pub port: u16,
    /// MAC of the node's VTEP.
    pub mac: Mac,
    /// MTU, bytes.
    pub mtu: u32,
}

/// Host side of a pod's veth pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodDevice {
    /// Interface index; another device of the same name is another device.
    pub ifindex: u32,
    /// MAC.
    pub mac: Mac,
    /// MTU, bytes.
    pub mtu: u32,
    /// What it may send, if that is limited.
    pub limit: Option<TokenBucket>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// Onto a device.
    Device {
        /// Its name.
        name: String,
        /// Preferred source address.
        source: Option<IpAddr>,
        /// Largest packet, bytes, where it is less than the device's MTU.
        mtu: Option<u32>,
    },
    /// By way of a router, or of the node that owns the prefix.
    Gateway {
        /// Name of the device.
        name: String,
        /// Who receives it there.
        gateway: IpAddr,
        /// Preferred source address.
        source: Option<IpAddr>,
    },
    /// Nowhere: the sender is told so.
    Unreachable,
}

impl Via {
    /// The device that it needs.
    fn device(&self) -> Option<&str> {
        match self {
            Self::Device { name, .. } | Self::Gateway { name, .. } => Some(name),
            Self::Unreachable => None,
        }
    }
}

/// A kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Its path below `/proc/sys`.
    pub key: String,
    /// Its value.
    pub value: &'static str,
    /// The device that it belongs to and vanishes with; none for what outlives the agent's devices.
    pub device: Option<String>,
}

/// What is on the host, as far as it is ours or has the place of something of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// All devices by name.
    pub devices: BTreeMap<String, Device>,
    /// Addresses of the overlay device.
    pub addresses: BTreeSet<IpNet>,
    /// Routes with our protocol number.
    pub routes: BTreeMap<(IpNet, u32), Via>,
    /// Neighbours by device and address: MAC, and whether they are permanent.
    pub neighbours: BTreeMap<(String, IpAddr), (Mac, bool)>,
    /// What pods' devices are limited to, as far as the kernel has been asked: where they should be limited.
    pub limits: BTreeMap<String, Present>,
    /// Values of the desired kernel parameters that exist.
    pub sysctls: BTreeMap<String, String>,
}

/// One change of the host. It displays as what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the overlay device, down.
    CreateOverlay {
        /// Its name.
        name: String,
        /// VXLAN port.
        port: u16,
        /// MAC.
        mac: Mac,
    },
    /// Remove a device.
    RemoveDevice(String),
    /// Change a device.
    ChangeDevice(String, DeviceChange),
    /// Add an address to a device.
    AddAddress(String, IpNet),
    /// Remove an address from a device.
    RemoveAddress(String, IpNet),
    /// Make or replace a route.
    SetRoute(IpNet, u32, Via),
    /// Remove a route.
    RemoveRoute(IpNet, u32, Via),
    /// Make or replace a permanent neighbour.
    SetNeighbour(String, IpAddr, Mac),
    /// Limit what a device sends.
    SetLimit(String, TokenBucket),
    /// Set a kernel parameter.
    SetSysctl(Sysctl),
}

/// What is to be done, and what cannot be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Planned<Step>>,
    /// Host sides of pods that are gone: only the runtime can make those pods again.
    pub lost: Vec<String>,
}

/// The steps from `actual` to `desired`.
#[must_use]
pub fn plan(desired: &Desired, actual: &Actual) -> Plan {
    let mut plan = Plan::default();
    let mut planner = Planner {
        desired,
        actual,
        fresh_overlay: false,
        plan: &mut plan,
    };
    planner.overlay();
    planner.pods();
    planner.sysctls();
    planner.addresses();
    planner.routes();
    planner.neighbours();
    // Last: the kernel removes every route whose preferred source goes.
    planner.unwanted_addresses();
    plan
}

struct Planner<'a> {
    desired: &'a Desired,
    actual: &'a Actual,
    /// The overlay device will be a new one, so nothing that hangs on it is there.
    fresh_overlay: bool,
    plan: &'a mut Plan,
}

impl Planner<'_> {
    fn push(&mut self, step: Step, found: Found) {
        self.plan.steps.push(Planned { step, found });
    }

    fn overlay(&mut self) {
        let wanted = &self.desired.overlay;
        let kind = Vxlan {
            port: wanted.port,
            external: true,
        };
        let existing = self.actual.devices.get(&wanted.name);
        let usable = existing.filter(|d| d.vxlan == Some(kind));
        if let Some(device) = usable {
            let change = device_change(device, wanted.mac, wanted.mtu, false);
            self.change(&wanted.name, change, device);
            return;
        }
        self.fresh_overlay = true;
        if let Some(device) = existing {
            let found = Found::Different(kind_in_words(device.vxlan));
            self.push(Step::RemoveDevice(wanted.name.clone()), found);
        }
        let create = Step::CreateOverlay {
            name: wanted.name.clone(),
            port: wanted.port,
            mac: wanted.mac,
        };
        self.push(create, Found::Missing);
        let change = DeviceChange {
            mac: None,
            mtu: Some(wanted.mtu),
            arp: Some(false),
            makes_address: Some(false),
            up: true,
        };
        let step = Step::ChangeDevice(wanted.name.clone(), change);
        self.push(step, Found::WithDevice);
    }

    fn pods(&mut self) {
        for (name, wanted) in &self.desired.pods {
            match self.actual.devices.get(name) {
                Some(device) if device.ifindex == wanted.ifindex => {
                    let change = device_change(device, wanted.mac, wanted.mtu, true);
                    self.change(name, change, device);
                    self.limit(name, wanted.limit);
                }
                _ => self.plan.lost.push(name.clone()),
            }
        }
    }

    fn limit(&mut self, name: &str, wanted: Option<TokenBucket>) {
        let now = self.actual.limits.get(name);
        if let Some(wanted) = wanted.filter(|wanted| !wanted.is(now.copied())) {
            let found = match now {
                Some(_) => Found::Different("another limit".into()),
                None => Found::Missing,
            };
            self.push(Step::SetLimit(name.to_owned(), wanted), found);
        }
    }

    fn change(&mut self, name: &str, change: DeviceChange, now: &Device) {
        if change == DeviceChange::default() {
            return;
        }
        let found = Found::Different(differing(&change, now));
        self.push(Step::ChangeDevice(name.to_owned(), change), found);
    }

    fn sysctls(&mut self) {
        for wanted in &self.desired.sysctls {
            if wanted.device.as_ref().is_some_and(|d| self.is_lost(d)) {
                continue;
            }
            let now = self.actual.sysctls.get(&wanted.key);
            let overlay = wanted.device.as_ref() == Some(&self.desired.overlay.name);
            let now = now.filter(|_| !(overlay && self.fresh_overlay));
            if now.is_none_or(|v| v != wanted.value) {
                let found = match now {
                    Some(now) => Found::Different(now.clone()),
                    None if wanted.device.is_some() => Found::WithDevice,
                    None => Found::Missing,
                };
                self.push(Step::SetSysctl(wanted.clone()), found);
            }
        }
    }

    fn addresses(&mut self) {
        let missing = if self.fresh_overlay {
            Found::WithDevice
        } else {
            Found::Missing
        };
        for address in &self.desired.addresses {
            if self.fresh_overlay || !self.actual.addresses.contains(address) {
                let step = Step::AddAddress(self.desired.overlay.name.clone(), *address);
                self.push(step, missing.clone());
            }
        }
    }

    fn unwanted_addresses(&mut self) {
        if self.fresh_overlay {
            return;
        }
        for address in self.actual.addresses.difference(&self.desired.addresses) {
            let step = Step::RemoveAddress(self.desired.overlay.name.clone(), *address);
            self.push(step, Found::Unwanted);
        }
    }

    fn routes(&mut self) {
        for (key, wanted) in &self.desired.routes {
            let now = self.actual.routes.get(key);
            if self.is_gone(wanted) || now == Some(wanted) && !self.hangs_on_fresh(wanted) {
                continue;
            }
            let found = match now {
                Some(now) if !self.hangs_on_fresh(now) => Found::Different(now.to_string()),
                _ if self.hangs_on_fresh(wanted) => Found::WithDevice,
                _ => Found::Missing,
            };
            self.push(Step::SetRoute(key.0, key.1, wanted.clone()), found);
        }
        for (key, now) in &self.actual.routes {
            if !self.desired.routes.contains_key(key) && !self.hangs_on_fresh(now) {
                let step = Step::RemoveRoute(key.0, key.1, now.clone());
                self.push(step, Found::Unwanted);
            }
        }
    }

    fn neighbours(&mut self) {
        for ((device, address), mac) in &self.desired.neighbours {
            let now = self.actual.neighbours.get(&(device.clone(), *address));
            if self.is_lost(device) || now == Some(&(*mac, true)) {
                continue;
            }
            let found = match now {
                None => Found::Missing,
                Some((mac, true)) => Found::Different(mac.to_string()),
                Some((mac, false)) => Found::Different(format!("{mac}, not permanent")),
            };
            let step = Step::SetNeighbour(device.clone(), *address, *mac);
            self.push(step, found);
        }
    }

    fn is_lost(&self, device: &str) -> bool {
        let pod = self.desired.pods.get(device);
        pod.is_some_and(|pod| {
            let now = self.actual.devices.get(device);
            now.is_none_or(|d| d.ifindex != pod.ifindex)
        })
    }

    fn is_gone(&self, via: &Via) -> bool {
        via.device().is_some_and(|name| self.is_lost(name))
    }

    fn hangs_on_fresh(&self, via: &Via) -> bool {
        let overlay = &self.desired.overlay.name;
        self.fresh_overlay && via.device() == Some(overlay)
    }
}

fn device_change(now: &Device, mac: Mac, mtu: u32, arp: bool) -> DeviceChange {
    DeviceChange {
        mac: (now.mac != mac).then_some(mac),
        mtu: (now.mtu != mtu).then_some(mtu),
        arp: (now.arp != arp).then_some(arp),
        makes_address: now.makes_address.then_some(false),
        up: !now.up,
    }
}

#[cfg(test)]
mod tests;
