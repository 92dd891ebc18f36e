//! Whether XDP runs on the uplinks, and why or why not.

use std::collections::BTreeMap;

use clap::ValueEnum;
use oxlan_common::maps::MAX_XDP_UPLINKS;

use super::pass::Reconciler;
use super::report::Report;
use crate::api::types::Xdp as XdpRow;
use crate::datapath::{DatapathError, Program, attached_xdp, brief};
use crate::host::device::Device;
use crate::host::nic::{self, Nic};

/// What the administrator wants (`--xdp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum XdpWish {
    /// Where it is likely to pay
    Auto,
    /// On every uplink, or not at all start
    On,
    /// Nowhere
    Off,
}

/// XDP on the uplinks.
pub(super) struct Xdp {
    pub(super) wish: XdpWish,
    /// What was chosen, by interface index.
    choices: BTreeMap<u32, Choice>,
    /// Why the kernel would not attach the program, by interface index.
    refused: BTreeMap<u32, Refusal>,
    /// Why the kernel would not load it.
    unloadable: Option<String>,
}

/// What was chosen for an uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Choice {
    used: bool,
    reason: String,
}

struct Refusal {
    /// Another program had the device; it may go.
    taken: bool,
    reason: String,
}

impl Xdp {
    pub(super) fn new(wish: XdpWish) -> Self {
        Self {
            wish,
            choices: BTreeMap::new(),
            refused: BTreeMap::new(),
            unloadable: None,
        }
    }

    /// Whether the program should run on this uplink.
    pub(super) fn is_used(&self, ifindex: u32) -> bool {
        self.choices.get(&ifindex).is_some_and(|choice| choice.used)
    }

    /// Whether the program should run anywhere.
    pub(super) fn is_used_somewhere(&self) -> bool {
        self.choices.values().any(|choice| choice.used)
    }

    /// Whether all devices may do without, and if so, notes why they do.
    fn does_without_any(&mut self, error: &DatapathError) -> bool {
        if self.wish == XdpWish::Auto {
            self.unloadable = Some(brief(error));
        }
        self.wish == XdpWish::Auto
    }

    /// Whether a device may do without, and if so, notes why it does.
    pub(super) fn does_without(&mut self, ifindex: u32, error: &DatapathError) -> bool {
        if self.wish != XdpWish::Auto {
            return false;
        }
        let refusal = Refusal {
            taken: matches!(error, DatapathError::XdpTaken),
            reason: brief(error),
        };
        self.refused.insert(ifindex, refusal);
        true
    }

    /// Whether a program of somebody else is in the way, which may go at any time.
    pub(super) fn waits(&self) -> bool {
        self.refused.values().any(|refusal| refusal.taken)
    }

    /// What the API tells of it.
    pub(super) fn rows(&self, uplinks: &[Device]) -> Vec<XdpRow> {
        let row = |device: &Device| {
            let choice = self.choices.get(&device.ifindex)?;
            Some(XdpRow {
                device: device.name.clone(),
                used: choice.used,
                reason: choice.reason.clone(),
            })
        };
        uplinks.iter().filter_map(row).collect()
    }

    /// Forgets refusals whose reason is gone, and those of devices that are.
    fn forget(&mut self, uplinks: &[Device]) {
        self.refused.retain(|ifindex, refusal| {
            let there = uplinks.iter().any(|u| u.ifindex == *ifindex);
            there && !(refusal.taken && attached_xdp(*ifindex).is_none())
        });
    }

    fn choice(&self, ifindex: u32, nic: &Nic) -> Choice {
        let not = |reason: String| Choice {
            used: false,
            reason,
        };
        if let (XdpWish::Auto, Some(reason)) = (self.wish, &self.unloadable) {
            return not(reason.clone());
        }
        match (self.wish, self.refused.get(&ifindex)) {
            (XdpWish::Off, _) => return not("--xdp off".into()),
            (_, Some(refusal)) => return not(refusal.reason.clone()),
            (XdpWish::Auto | XdpWish::On, None) => {}
        }
        let loss = loss(nic).filter(|_| self.wish == XdpWish::Auto);
        loss.or_else(|| obstacle(nic)).map_or_else(
            || Choice {
                used: true,
                reason: format!(
                    "native, driver {}",
                    nic.driver.as_deref().unwrap_or("unknown")
                ),
            },
            not,
        )
    }
}

/// Why the program cannot do its work on a device, whatever the administrator wants.
pub(super) fn obstacle(nic: &Nic) -> Option<String> {
    let name = &nic.name;
    if nic.kind.as_deref() == Some("vlan") {
        return Some(format!(
            "{name} is a VLAN device, which has no driver: its frames meet the driver of the device below, which carries other traffic, too"
        ));
    }
    // A driver may keep the tag beside the frame, where XDP does not see it, so that frames of all
    // VLANs look alike. Without VLAN devices the filter lets no tagged frame in, unless all frames are wanted.
    let hides_tags = nic.has("rx-vlan-hw-parse");
    let lets_tags_in = nic.carries_vlans || nic.promiscuous || !nic.has("rx-vlan-filter");
    if hides_tags && lets_tags_in {
        return Some(format!(
            "{name} takes VLAN tags out of frames, so XDP could not tell VLANs apart: `ethtool -K {name} rxvlan off` ends that"
        ));
    }
    None
}

/// What a device would lose that is worth more than XDP.
fn loss(nic: &Nic) -> Option<String> {
    let name = &nic.name;
    if nic.kind.as_deref() == Some("veth") {
        return Some(format!(
            "{name} is a veth, where XDP is slower: its peer may no longer send aggregates, and every packet is copied into a frame and back"
        ));
    }
    if nic.bridge_port {
        return Some(format!("{name} is a port of a bridge"));
    }
    let merged = [
        ("rx-gro-hw", "rx-gro-hw"),
        ("rx-lro", "large-receive-offload"),
    ];
    let lost = merged.iter().find(|(feature, _)| nic.has(feature));
    lost.map(|(_, option)| {
        format!("{name} receives aggregates ({option}), which XDP would end: `ethtool -K {name} {option} off` if that is worth it")
    })
}

impl Reconciler {
    /// Chooses for each uplink. The agent does not start where the administrator's wish cannot be fulfilled; an
    /// uplink that comes later is a problem to tell, for the others go on.
    pub(super) fn choose_xdp(&mut self, first: bool, report: &mut Report) {
        self.xdp.forget(&self.uplinks);
        let ethernet = self.uplinks.iter().filter(|u| u.ethernet);
        let wanted: Vec<u32> = ethernet.map(|u| u.ifindex).collect();
        let nics = match nic::nics(&mut self.rtnl, &wanted) {
            Ok(nics) => nics,
            Err(error) => return report.failure("look at the uplinks' drivers", &error),
        };
        let mut choices = BTreeMap::new();
        let mut used = 0;
        for (ifindex, nic) in &nics {
            let mut choice = self.xdp.choice(*ifindex, nic);
            used += usize::from(choice.used);
            if choice.used && used > MAX_XDP_UPLINKS {
                choice.used = false;
                choice.reason = format!("{MAX_XDP_UPLINKS} other uplinks have it, which is all");
            }
            if self.xdp.choices.get(ifindex) != Some(&choice) {
                let (device, reason) = (&nic.name, &choice.reason);
                tracing::info!(%device, used = choice.used, reason, "XDP");
            }
            if !choice.used && self.xdp.wish == XdpWish::On {
                let problem = format!("no XDP in spite of --xdp on: {}", choice.reason);
                if first {
                    report.retry(problem);
                } else {
                    report.problem(problem);
                }
            }
            choices.insert(*ifindex, choice);
        }
        self.xdp.choices = choices;
    }

    /// Chooses, and loads the program where it is to run, before anything is changed for it: verification takes its
    /// time, and may end in a refusal.
    pub(super) fn prepare_xdp(&mut self, first: bool, report: &mut Report) {
        self.choose_xdp(first, report);
        if !self.xdp.is_used_somewhere() {
            return;
        }
        let Err(error) = self.datapath.load(Program::XdpUplink) else {
            return;
        };
        if self.xdp.does_without_any(&error) {
            self.choose_xdp(first, report);
        } else {
            report.failure("load the XDP program", &error);
        }
    }
}

#[cfg(test)]
mod tests {
    use aya::programs::ProgramError;

    use super::*;

    fn nic(kind: Option<&str>, features: &[&str]) -> Nic {
        Nic {
            name: "eth0".into(),
            kind: kind.map(Into::into),
            driver: Some("ice".into()),
            features: features.iter().map(|f| (*f).to_owned()).collect(),
            ..Nic::default()
        }
    }

    fn chosen(wish: XdpWish, nic: &Nic) -> (bool, String) {
        let choice = Xdp::new(wish).choice(2, nic);
        (choice.used, choice.reason)
    }

    #[test]
    fn what_stands_in_the_way_is_said() {
        let plain = nic(None, &["rx-gro"]);
        let port = Nic {
            bridge_port: true,
            ..plain.clone()
        };
        let filtered = nic(None, &["rx-vlan-hw-parse", "rx-vlan-filter"]);
        let tagged = Nic {
            carries_vlans: true,
            ..filtered.clone()
        };
        let listening = Nic {
            promiscuous: true,
            ..filtered.clone()
        };
        let listening_plainly = Nic {
            promiscuous: true,
            ..plain.clone()
        };
        for (nic, auto, on, said) in [
            (&listening, false, false, "ethtool -K eth0 rxvlan off"),
            (&listening_plainly, true, true, "native, driver ice"),
            (&plain, true, true, "native, driver ice"),
            (&filtered, true, true, "native, driver ice"),
            (&tagged, false, false, "ethtool -K eth0 rxvlan off"),
            (
                &nic(None, &["rx-vlan-hw-parse"]),
                false,
                false,
                "rxvlan off",
            ),
            (&nic(Some("vlan"), &[]), false, false, "is a VLAN device"),
            (&nic(Some("veth"), &[]), false, true, "is a veth"),
            (&port, false, true, "is a port of a bridge"),
            (&nic(None, &["rx-gro-hw"]), false, true, "rx-gro-hw off"),
            (
                &nic(None, &["rx-lro"]),
                false,
                true,
                "large-receive-offload",
            ),
        ] {
            let (used, reason) = chosen(XdpWish::Auto, nic);
            assert!(used == auto && reason.contains(said), "{nic:?}: {reason}");
            assert_eq!(chosen(XdpWish::On, nic).0, on, "{nic:?}");
            assert_eq!(chosen(XdpWish::Off, nic), (false, "--xdp off".into()));
        }
    }

    #[test]
    fn a_program_that_the_kernel_refuses_runs_nowhere() {
        let refused = || {
            let error = ProgramError::LoadError {
                io_error: std::io::Error::from(nix::errno::Errno::EACCES),
                verifier_log: aya_obj::VerifierLog::new("0: R1=ctx()\n1: exit".into()),
            };
            DatapathError::program("xdp_uplink", "loading")(error)
        };
        let mut auto = Xdp::new(XdpWish::Auto);
        assert!(auto.does_without_any(&refused()));
        let choice = auto.choice(2, &nic(None, &[]));
        assert!(!choice.used && choice.reason.contains("Permission denied"));
        assert!(!choice.reason.contains('\n'), "{}", choice.reason);
        assert!(!Xdp::new(XdpWish::On).does_without_any(&refused()));
    }

    #[test]
    fn a_refusal_counts_until_its_reason_is_gone() {
        let mut auto = Xdp::new(XdpWish::Auto);
        let plain = nic(None, &[]);
        assert!(auto.does_without(2, &DatapathError::XdpUnsupported));
        let choice = auto.choice(2, &plain);
        assert!(!choice.used && choice.reason.contains("no native XDP"));
        assert!(auto.choice(3, &plain).used, "another device");
        auto.forget(&[]);
        assert!(auto.choice(2, &plain).used, "the device was another");
        let mut on = Xdp::new(XdpWish::On);
        assert!(!on.does_without(2, &DatapathError::XdpTaken));
    }
}
