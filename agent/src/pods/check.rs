//! CHECK: whether an attachment is what it should be, and what the runtime believes it to be.
//! Also what follows from a change of the node's facts.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::PoisonError;

use oxlan_common::addr::{Addr, Mac};

use super::inner::{Inner, datapath, pair};
use super::{Attachment, Key, NodeFacts, Phase, PodError};
use crate::host::ethtool;
use crate::host::inspect;
use crate::host::link;
use crate::host::netns::Netns;
use crate::host::rtnl::{Rtnl, RtnlError};
use crate::host::shaper;
use crate::host::veth::{self, VethError};

/// What the runtime believes about an attachment: the result that ADD had given it.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Path of the container's network namespace.
    pub netns: String,
    /// Addresses of the interface.
    pub addresses: Vec<IpAddr>,
    /// MAC of the interface, when the result has one.
    pub mac: Option<Mac>,
}

impl Inner {
    /// Compares everything; all differences are reported together.
    pub(super) fn check(&self, key: &Key, expected: &Expected) -> Result<(), PodError> {
        let _turn = self.busy.turn(key);
        let Some(attachment) = self.find(key).filter(|a| a.phase == Phase::Ready) else {
            return Err(PodError::Unknown {
                container_id: key.container_id.clone(),
                ifname: key.ifname.clone(),
            });
        };
        let mut differences = expectation_differences(&attachment, expected);
        let netns = Netns::open(Path::new(&expected.netns))?;
        let pair = pair(&attachment);
        let mut rtnl = Rtnl::open()?;
        differences.extend(inspect::pod_side(&netns, &pair, &attachment.addresses)?);
        differences.extend(inspect::host_side(&mut rtnl, &pair, &attachment.addresses)?);
        differences.extend(self.datapath_differences(&attachment)?);
        if differences.is_empty() {
            Ok(())
        } else {
            Err(PodError::Differs(differences))
        }
    }

    fn datapath_differences(&self, attachment: &Attachment) -> Result<Vec<String>, PodError> {
        let mut differences = Vec::new();
        for address in &attachment.addresses {
            let entry = self.datapath.pod(Addr::from(*address));
            let entry = entry.map_err(datapath("read the table of pods"))?;
            if entry != Some(attachment.map_value()) {
                differences.push(format!(
                    "the datapath's entry of {address} is missing or wrong"
                ));
            }
        }
        let name = &attachment.host_ifname;
        let unattached = self.datapath.unattached(name, attachment.host_ifindex);
        let unattached = unattached.map_err(datapath("list its filters"))?;
        differences.extend(
            unattached
                .iter()
                .map(|p| format!("{p} is not attached to {name}")),
        );
        Ok(differences)
    }

    /// Takes over new facts; returns what could not be made to follow.
    pub(super) fn set_facts(&self, facts: NodeFacts) -> Vec<String> {
        let mtu = facts.mtu;
        *self.facts.write().unwrap_or_else(PoisonError::into_inner) = facts;
        let keys: Vec<Key> = self.records().attachments.keys().cloned().collect();
        let mut problems = Vec::new();
        for key in keys {
            let _turn = self.busy.turn(&key);
            let Some(attachment) = self.find(&key).filter(|a| a.phase == Phase::Ready) else {
                continue;
            };
            let mtu = attachment.mtu_limit.map_or(mtu, |limit| limit.min(mtu));
            if attachment.mtu != mtu {
                let changed = self.set_mtu(attachment, mtu);
                changed.unwrap_or_else(|e| problems.push(e.chain()));
            }
        }
        problems
    }

    /// The side that sends into the pair never has the larger MTU: the kernel drops what is too large
    /// for the other side without a word (drivers/net/veth.c, `veth_forward_skb`), while `from_pod`
    /// tells the pod. So does a pod whose side cannot be changed.
    fn set_mtu(&self, mut attachment: Attachment, mtu: u16) -> Result<(), PodError> {
        let lowered = mtu < attachment.mtu;
        attachment.mtu = mtu;
        let outside = || -> Result<(), RtnlError> {
            let limit = attachment.to_pod();
            veth::set_mtu(
                &mut Rtnl::open()?,
                &attachment.host_ifname,
                mtu,
                limit.as_ref(),
            )
        };
        if !lowered {
            outside()?;
        }
        let netns = Netns::open(Path::new(&attachment.netns))?;
        netns.run(|| -> Result<(), VethError> {
            let limit = attachment.from_pod();
            Ok(veth::set_mtu(
                &mut Rtnl::open()?,
                &attachment.ifname,
                mtu,
                limit.as_ref(),
            )?)
        })??;
        if lowered {
            outside()?;
        }
        self.save(&attachment)
    }
}

impl Inner {
    /// Makes the interface of every pod poll; returns what could not be changed.
    pub(super) fn poll(&self) -> Vec<String> {
        let records = self.records().attachments.clone();
        let silent = records.into_values().filter(|a| !a.polls);
        let mut problems = Vec::new();
        for attachment in silent.filter(|a| a.phase == Phase::Ready) {
            match set_polling(&attachment) {
                Ok(()) => {
                    // Only its MTU may be too small.
                    let unfit = takes_frames(&attachment).is_ok_and(|is_fit| !is_fit);
                    let mut records = self.records();
                    let entry = records.attachments.get_mut(&Key::of(&attachment));
                    entry
                        .into_iter()
                        .for_each(|a| (a.polls, a.unfit) = (true, unfit));
                }
                Err(error) => problems.push(error.chain()),
            }
        }
        problems
    }
}

impl Inner {
    /// Looks at the interfaces inside whose other ends have these indices, all of them if none are named, and
    /// returns what has become of those that had been made fit for frames, in words.
    pub(super) fn look_inside(&self, ends: Option<&BTreeSet<u32>>) -> Vec<String> {
        let all = self.records().attachments.clone();
        let named = |a: &Attachment| ends.is_none_or(|ends| ends.contains(&a.host_ifindex));
        let keys = all.into_iter().filter(|(_, a)| a.polls && named(a));
        let mut found = Vec::new();
        for (key, _) in keys {
            // Whoever changes the MTU of both sides, changes the record, too.
            let _turn = self.busy.turn(&key);
            let Some(attachment) = self.find(&key).filter(|a| a.phase == Phase::Ready) else {
                continue;
            };
            // One that cannot be looked at has gone, or is going.
            let Ok(is_fit) = takes_frames(&attachment) else {
                continue;
            };
            if attachment.unfit != is_fit {
                continue;
            }
            if let Some(entry) = self.records().attachments.get_mut(&key) {
                entry.unfit = !is_fit;
            }
            let name = &attachment.host_ifname;
            found.push(if is_fit {
                format!("the pod behind {name} takes frames from XDP again")
            } else {
                format!(
                    "somebody has switched GRO off in the pod behind {name}, or set a smaller MTU: TC delivers to it, not XDP"
                )
            });
        }
        found
    }
}

/// Whether the interface inside polls, and takes everything that the node's pods do.
fn takes_frames(attachment: &Attachment) -> Result<bool, PodError> {
    let netns = Netns::open(Path::new(&attachment.netns))?;
    let ifname = &attachment.ifname;
    let polls = netns.run(|| ethtool::gro(ifname))??;
    let link =
        netns.run(|| -> Result<_, RtnlError> { link::find(&mut Rtnl::open()?, ifname) })??;
    Ok(polls && link.is_some_and(|link| link.mtu >= attachment.mtu.into()))
}

/// Limits again what a pod sends, where its limit is gone or another.
pub(super) fn limit(attachment: &Attachment) -> Result<(), PodError> {
    let Some(bucket) = attachment.from_pod() else {
        return Ok(());
    };
    let netns = Netns::open(Path::new(&attachment.netns))?;
    netns.run(|| -> Result<(), VethError> {
        let mut rtnl = Rtnl::open()?;
        let ifname = &attachment.ifname;
        let ifindex = link::required(&mut rtnl, ifname)?.ifindex;
        let present = shaper::present(&mut rtnl, &[ifindex])?;
        if !bucket.is(present.into_iter().next().flatten()) {
            shaper::set(&mut rtnl, ifname, ifindex, &bucket)?;
        }
        Ok(())
    })??;
    Ok(())
}

fn set_polling(attachment: &Attachment) -> Result<(), PodError> {
    let netns = Netns::open(Path::new(&attachment.netns))?;
    netns.run(|| ethtool::set_gro(&attachment.ifname))??;
    Ok(())
}

fn expectation_differences(attachment: &Attachment, expected: &Expected) -> Vec<String> {
    let ifname = &attachment.ifname;
    let mut differences = Vec::new();
    let mut wanted = expected.addresses.clone();
    wanted.sort();
    let mut ours = attachment.addresses.clone();
    ours.sort();
    if wanted != ours {
        differences.push(format!(
            "prevResult gives {ifname} the addresses {} but it was given {}",
            super::joined(&wanted),
            super::joined(&ours)
        ));
    }
    if let Some(mac) = expected.mac.filter(|mac| *mac != attachment.mac) {
        differences.push(format!(
            "prevResult gives {ifname} the MAC {mac} but it was given {}",
            attachment.mac
        ));
    }
    differences
}
