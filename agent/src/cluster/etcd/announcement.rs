//! What a node says of itself in the value of its key. Pure.

use std::net::IpAddr;

use oxlan_common::addr::Mac;

use super::record::Holder;
use crate::cluster::flannel::{BackendData, NetConf, VXLAN};

/// What the node with these underlay addresses says. It keeps the MAC that it has said before: while
/// others still send to the old one, a node with a new one drops their packets.
pub(super) fn announcement(underlay: &[IpAddr], conf: &NetConf, before: Option<&Holder>) -> Holder {
    let said = before.and_then(|h| h.data_v4.or(h.data_v6));
    let fresh = || {
        let first = underlay.first();
        first.map_or(Mac::ZERO, |first| conf.backend.vtep_mac(*first))
    };
    let data = BackendData {
        vni: Some(conf.backend.vni),
        vtep_mac: said.map_or_else(fresh, |data| data.vtep_mac),
    };
    let mut holder = Holder {
        public_v4: None,
        public_v6: None,
        backend: VXLAN.to_owned(),
        data_v4: None,
        data_v6: None,
    };
    for address in underlay {
        match address {
            IpAddr::V4(v4) => {
                holder.public_v4 = Some(*v4);
                holder.data_v4 = Some(data);
            }
            IpAddr::V6(v6) => {
                holder.public_v6 = Some(*v6);
                holder.data_v6 = Some(data);
            }
        }
    }
    holder
}
