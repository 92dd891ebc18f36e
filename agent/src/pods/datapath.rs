//! What the pods room needs of the datapath, so that it can be tested without a kernel.

use oxlan_common::addr::Addr;
use oxlan_common::maps::PodValue;

use crate::datapath::{Attachment, Datapath, Program};

/// Whatever the datapath answers when it cannot.
pub type DatapathFault = Box<dyn std::error::Error + Send + Sync>;

/// The part of the datapath that an attachment consists of. Every removal is idempotent.
pub trait PodDatapath: Send + Sync + 'static {
    /// Attaches `from_pod` to the ingress of a host side.
    ///
    /// # Errors
    /// What the kernel refused.
    fn attach(&self, ifname: &str, ifindex: u32) -> Result<(), DatapathFault>;

    /// Removes every trace of `from_pod` on this interface; on all of this name, also on former
    /// ones, when the index is 0 because nobody had come to write it down.
    ///
    /// # Errors
    /// What the kernel refused.
    fn detach(&self, ifname: &str, ifindex: u32) -> Result<(), DatapathFault>;

    /// Whether `from_pod` is attached to this interface.
    ///
    /// # Errors
    /// What the kernel refused.
    fn is_attached(&self, ifname: &str, ifindex: u32) -> Result<bool, DatapathFault>;

    /// Writes an entry of `PODS`.
    ///
    /// # Errors
    /// What the kernel refused; a full map names the option that makes it larger.
    fn set_pod(&self, address: Addr, value: PodValue) -> Result<(), DatapathFault>;

    /// Removes an entry of `PODS`.
    ///
    /// # Errors
    /// What the kernel refused.
    fn remove_pod(&self, address: Addr) -> Result<(), DatapathFault>;

    /// Reads an entry of `PODS`.
    ///
    /// # Errors
    /// What the kernel refused.
    fn pod(&self, address: Addr) -> Result<Option<PodValue>, DatapathFault>;
}

impl PodDatapath for Datapath {
    fn attach(&self, ifname: &str, ifindex: u32) -> Result<(), DatapathFault> {
        Self::attach(self, Program::FromPod, ifname, ifindex)?;
        Ok(())
    }

    fn detach(&self, ifname: &str, ifindex: u32) -> Result<(), DatapathFault> {
        if ifindex != 0 {
            return Ok(Self::detach(self, Program::FromPod, ifname, ifindex)?);
        }
        for Attachment { ifindex, .. } in self.attachments()?.into_iter().filter(is_pod(ifname)) {
            Self::detach(self, Program::FromPod, ifname, ifindex)?;
        }
        Ok(())
    }

    fn is_attached(&self, ifname: &str, ifindex: u32) -> Result<bool, DatapathFault> {
        let mut attached = self.attachments()?.into_iter().filter(is_pod(ifname));
        Ok(attached.any(|a| a.ifindex == ifindex && a.alive))
    }

    fn set_pod(&self, address: Addr, value: PodValue) -> Result<(), DatapathFault> {
        Ok(self.pods().set(&address, &value)?)
    }

    fn remove_pod(&self, address: Addr) -> Result<(), DatapathFault> {
        Ok(self.pods().remove(&address)?)
    }

    fn pod(&self, address: Addr) -> Result<Option<PodValue>, DatapathFault> {
        Ok(self.pods().get(&address)?)
    }
}

fn is_pod(ifname: &str) -> impl Fn(&Attachment) -> bool {
    move |attachment| attachment.program == Program::FromPod && attachment.ifname == ifname
}
