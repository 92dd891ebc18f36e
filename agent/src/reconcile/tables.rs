//! The maps of the datapath: which entries to write and which to remove.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use oxlan_common::addr::{Addr, V4_PREFIX_BITS};
use oxlan_common::maps::{
    Config, HopsValue, PodValue, RouteKey, RouteValue, VtepValue, pod_flags, route_flags,
};

use super::hops::Unspread;
use super::{Found, Planned};

/// What should be in the maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// `PODS`.
    pub pods: BTreeMap<Addr, PodValue>,
    /// `ROUTES`.
    pub routes: BTreeMap<RouteKey, RouteValue>,
    /// `HOPS`.
    pub hops: BTreeMap<u32, HopsValue>,
    /// Prefixes whose next hops are not all in `HOPS`.
    pub unspread: Unspread,
    /// `VTEPS`.
    pub vteps: BTreeMap<Addr, VtepValue>,
    /// `CONFIG`.
    pub config: Config,
}

impl Desired {
    /// The maps as they are when this is in them, but for `PODS`.
    #[must_use]
    pub fn except_pods(self, pods: Option<BTreeMap<Addr, PodValue>>) -> Actual {
        Actual {
            pods,
            routes: Some(self.routes),
            hops: Some(self.hops),
            vteps: Some(self.vteps),
            config: Some(self.config),
        }
    }
}

/// What is in the maps; none of what was not looked at because nothing can have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// `PODS`.
    pub pods: Option<BTreeMap<Addr, PodValue>>,
    /// `ROUTES`.
    pub routes: Option<BTreeMap<RouteKey, RouteValue>>,
    /// `HOPS`.
    pub hops: Option<BTreeMap<u32, HopsValue>>,
    /// `VTEPS`.
    pub vteps: Option<BTreeMap<Addr, VtepValue>>,
    /// `CONFIG`.
    pub config: Option<Config>,
}

/// One change of a map. It displays as what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Write an entry of `PODS`.
    SetPod(Addr, PodValue),
    /// Remove an entry of `PODS`.
    RemovePod(Addr),
    /// Write an entry of `ROUTES`.
    SetRoute(RouteKey, RouteValue),
    /// Remove an entry of `ROUTES`.
    RemoveRoute(RouteKey),
    /// Write an entry of `HOPS`.
    SetHops(u32, HopsValue),
    /// Remove an entry of `HOPS`.
    RemoveHops(u32),
    /// Write an entry of `VTEPS`.
    SetVtep(Addr, VtepValue),
    /// Remove an entry of `VTEPS`.
    RemoveVtep(Addr),
    /// Write `CONFIG`.
    SetConfig(Config),
}

/// The steps from `actual` to `desired`.
///
/// In this order no packet meets a half-filled map: a node is known before packets go to it, a set of
/// next hops before a route refers to it and until none does, a prefix length is announced after the
/// first route that needs it, and removals come last.
#[must_use]
pub fn plan(desired: &Desired, actual: &Actual) -> Vec<Planned<Step>> {
    let mut steps = Vec::new();
    let mut removals = Vec::new();
    if let Some(now) = &actual.vteps {
        let (set, remove) = diff(&desired.vteps, now, Step::SetVtep, Step::RemoveVtep);
        steps.extend(set);
        removals.extend(remove);
    }
    if let Some(now) = &actual.pods {
        let (set, remove) = diff(&desired.pods, now, Step::SetPod, Step::RemovePod);
        steps.extend(set);
        removals.extend(remove);
    }
    if let Some(now) = &actual.hops {
        let (set, remove) = diff(&desired.hops, now, Step::SetHops, Step::RemoveHops);
        steps.extend(set);
        removals.extend(remove);
    }
    if let Some(now) = &actual.routes {
        let (set, remove) = diff(&desired.routes, now, Step::SetRoute, Step::RemoveRoute);
        steps.extend(set);
        removals.splice(0..0, remove);
    }
    if let Some(now) = &actual.config {
        steps.extend(config(&desired.config, now));
    }
    steps.extend(removals);
    steps
}

type Steps = Vec<Planned<Step>>;

/// What to write and what to remove.
fn diff<K: Ord + Copy, V: PartialEq + Copy>(
    desired: &BTreeMap<K, V>,
    actual: &BTreeMap<K, V>,
    set: impl Fn(K, V) -> Step,
    remove: impl Fn(K) -> Step,
) -> (Steps, Steps) {
    // Nearly always, and one walk instead of thousands of searches.
    if desired == actual {
        return (Steps::new(), Steps::new());
    }
    let wrong = desired.iter().filter_map(|(key, value)| {
        let found = match actual.get(key) {
            Some(now) if now == value => return None,
            Some(now) => Found::Different(value_in_words(set(*key, *now))),
            None => Found::Missing,
        };
        let step = set(*key, *value);
        Some(Planned { step, found })
    });
    let unwanted = actual.keys().filter(|key| !desired.contains_key(key));
    let removals = unwanted.map(|key| Planned {
        step: remove(*key),
        found: Found::Unwanted,
    });
    (wrong.collect(), removals.collect())
}

fn config(desired: &Config, actual: &Config) -> Option<Planned<Step>> {
    let found = if actual.abi == 0 {
        Found::Missing
    } else {
        Found::Different(config_in_words(actual))
    };
    (desired != actual).then_some(Planned {
        step: Step::SetConfig(*desired),
        found,
    })
}

/// The prefix of a key of `ROUTES` as people write it.
#[must_use]
pub fn prefix_in_words(key: &RouteKey) -> String {
    let address = IpAddr::from(key.prefix);
    let bits = match address {
        IpAddr::V4(_) => u32::from(V4_PREFIX_BITS),
        IpAddr::V6(_) => 0,
    };
    format!("{address}/{}", key.prefix_len.saturating_sub(bits))
}

fn config_in_words(c: &Config) -> String {
    format!(
        "vni {} port {} mtu {} uplink {} overlay {} underlay {} {} mac {} dscp {} flags {}",
        c.vni,
        c.port,
        c.mtu,
        c.uplink,
        c.overlay,
        c.underlay_v4,
        c.underlay_v6,
        c.vtep_mac,
        c.dscp,
        c.flags
    )
}

/// What is in a map entry, for whoever reads that it was wrong.
fn value_in_words(step: Step) -> String {
    match step {
        Step::SetPod(_, v) => format!("ifindex {} mac {} flags {}", v.ifindex, v.mac, v.flags),
        Step::SetRoute(_, v) => format!(
            "underlay {} next hop {} ifindex {} vni {} mac {} flags {} mtu {} hops {}",
            v.underlay, v.next_hop, v.ifindex, v.vni, v.mac, v.flags, v.mtu, v.hops
        ),
        Step::SetHops(_, v) => hops_in_words(&v),
        Step::SetVtep(_, v) => format!("mac {} flags {}", v.mac, v.flags),
        Step::RemovePod(_)
        | Step::RemoveRoute(_)
        | Step::RemoveHops(_)
        | Step::RemoveVtep(_)
        | Step::SetConfig(_) => "something else".to_owned(),
    }
}

fn hops_in_words(set: &HopsValue) -> String {
    let used = set.hops.iter().filter(|hop| hop.ifindex != 0);
    let words = used.map(|hop| format!("{} ifindex {}", hop.address, hop.ifindex));
    words.collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetPod(address, v) if v.flags & pod_flags::HOST != 0 => {
                write!(f, "the own overlay address {address} in PODS")
            }
            Self::SetPod(address, v) => {
                write!(f, "the pod {address} behind ifindex {} in PODS", v.ifindex)
            }
            Self::RemovePod(address) => write!(f, "the entry {address} of PODS"),
            Self::SetRoute(key, v) if v.flags & route_flags::LOCAL != 0 => {
                write!(f, "the own prefix {} in ROUTES", prefix_in_words(key))
            }
            Self::SetRoute(key, v) if v.flags & route_flags::UNREACHABLE != 0 => {
                let prefix = prefix_in_words(key);
                write!(
                    f,
                    "the prefix {prefix} of {}, unreachable, in ROUTES",
                    v.underlay
                )
            }
            Self::SetRoute(key, v) if v.flags & route_flags::DIRECT != 0 => {
                let prefix = prefix_in_words(key);
                write!(
                    f,
                    "the prefix {prefix} of {}, direct, in ROUTES",
                    v.underlay
                )
            }
            Self::SetRoute(key, v) => {
                let prefix = prefix_in_words(key);
                write!(f, "the prefix {prefix} of {} in ROUTES", v.underlay)
            }
            Self::RemoveRoute(key) => write!(f, "the entry {} of ROUTES", prefix_in_words(key)),
            Self::SetHops(key, v) => {
                write!(f, "the next hops {key:#x} ({}) in HOPS", hops_in_words(v))
            }
            Self::RemoveHops(key) => write!(f, "the next hops {key:#x} of HOPS"),
            Self::SetVtep(address, v) => write!(f, "the node {address}, {}, in VTEPS", v.mac),
            Self::RemoveVtep(address) => write!(f, "the entry {address} of VTEPS"),
            Self::SetConfig(_) => f.write_str("the configuration in CONFIG"),
        }
    }
}

#[cfg(test)]
mod tests;
