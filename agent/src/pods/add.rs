//! ADD: everything or nothing.

use std::path::Path;
use std::time::Duration;

use oxlan_common::addr::Addr;
use oxlan_common::wire::MIN_MTU_V6;

use super::crash::Step;
use super::inner::{Inner, datapath, pair};
use super::{AddRequest, Attachment, NodeFacts, Phase, PodError};
use crate::host::link;
use crate::host::netns::Netns;
use crate::host::rtnl::Rtnl;
use crate::host::veth::{self, HostRoute};

/// How long an ADD waits for the kernel to send to the pod, usually less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);

impl Inner {
    /// Attaches a container. What a failure leaves is taken away before this returns.
    pub(super) fn add(&self, request: &AddRequest) -> Result<Attachment, PodError> {
        let _turn = self.busy.turn(&request.key);
        let facts = self.facts();
        let mtu = usable_mtu(request.mtu, &facts)?;
        let netns = Netns::open(Path::new(&request.netns))?;
        self.clear_the_way(request)?;
        let reserved = self.reserve(request, &facts, mtu)?;
        self.steps.reached(Step::AddReserved);
        if let Err(error) = self.store.save(&reserved) {
            // Nothing has been made yet, so there is nothing to undo but the reservation.
            self.forget(&reserved)?;
            return Err(error);
        }
        self.steps.reached(Step::AddRecorded);
        let built = self.build(reserved.clone(), &netns, &facts);
        if built.is_err() {
            self.undo(&reserved);
        }
        built
    }

    /// Takes away what a failed ADD had made. What cannot be is tried again at the next start,
    /// and by the DEL with which a runtime follows a failed ADD.
    fn undo(&self, reserved: &Attachment) {
        if let Err(left) = self.take_down(reserved) {
            let container = &reserved.container_id;
            tracing::error!(%container, "a failed ADD left something behind: {}", left.chain());
        }
    }

    /// A live attachment is an error: by the specification a runtime calls DEL before it adds the
    /// same interface again. What a crash, or a lost DEL of an ended container, left is undone.
    fn clear_the_way(&self, request: &AddRequest) -> Result<(), PodError> {
        let Some(present) = self.find(&request.key) else {
            return self.drop_unreadable(&request.key);
        };
        if present.phase == Phase::Ready && self.is_alive(&present)? {
            return Err(PodError::Duplicate {
                addresses: super::joined(&present.addresses),
                container_id: present.container_id,
                ifname: present.ifname,
            });
        }
        self.take_down(&present)
    }

    /// The order leaves no moment in which a packet could pass unchecked or to the wrong pod:
    /// the filter is attached while the pair is down, and the pod is told its address last.
    fn build(
        &self,
        mut attachment: Attachment,
        netns: &Netns,
        facts: &NodeFacts,
    ) -> Result<Attachment, PodError> {
        let mut rtnl = Rtnl::open()?;
        let host_side = veth::create(&mut rtnl, netns, &pair(&attachment))?;
        let ifindex = host_side.ifindex;
        attachment.host_ifindex = ifindex;
        attachment.netns_id = host_side.peer_netns;
        self.steps.reached(Step::AddLinked);
        let attached = self.datapath.attach(&attachment.host_ifname, ifindex);
        attached.map_err(datapath("attach from_pod"))?;
        self.steps.reached(Step::AddAttached);
        for address in &attachment.addresses {
            let set = self
                .datapath
                .set_pod(Addr::from(*address), attachment.map_value());
            set.map_err(datapath("write the pod's address to its table"))?;
        }
        self.steps.reached(Step::AddMapped);
        let routes = host_routes(&attachment, facts);
        veth::connect_host(&mut rtnl, &pair(&attachment), ifindex, &routes)?;
        self.steps.reached(Step::AddConnected);
        let (pair, addresses) = (pair(&attachment), &attachment.addresses);
        let takes = veth::configure_pod(netns, &pair, addresses, PATIENCE)?;
        self.steps.reached(Step::AddConfigured);
        let device = &attachment.host_ifname;
        if !(link::wait_until_running(&mut rtnl, device, PATIENCE)? && takes) {
            tracing::warn!(%device, "the kernel does not send to a new pod yet: is the machine overloaded?");
        }
        self.publish(&attachment)?;
        self.steps.reached(Step::AddPublished);
        attachment.phase = Phase::Ready;
        self.save(&attachment)?;
        self.steps.reached(Step::AddReady);
        Ok(attachment)
    }
}

/// The routes that the host has to a pod.
pub(super) fn host_routes(attachment: &Attachment, facts: &NodeFacts) -> Vec<HostRoute> {
    let route = |pod| HostRoute {
        pod,
        source: facts.overlay_address_for(pod),
    };
    attachment.addresses.iter().copied().map(route).collect()
}

/// The network configuration can ask for less than the node's MTU, not for more.
fn usable_mtu(wanted: Option<u16>, facts: &NodeFacts) -> Result<u16, PodError> {
    let limit = facts.mtu;
    let mtu = wanted.unwrap_or(limit);
    let has_ipv6 = facts.pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv6());
    if mtu > limit {
        Err(PodError::MtuTooLarge { wanted: mtu, limit })
    } else if has_ipv6 && mtu < MIN_MTU_V6 {
        Err(PodError::MtuTooSmall { mtu })
    } else {
        Ok(mtu)
    }
}
