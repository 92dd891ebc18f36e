//! What the pods room needs of the datapath, so that it can be tested without a kernel.

use oxlan_common::addr::Addr;
use oxlan_common::maps::PodValue;

use crate::datapath::{Attachment, Datapath, Program};

/// The programs on the host side of each pod's veth.
pub const POD_PROGRAMS: [Program; 2] = [Program::ToPod, Program::FromPod];

/// Whatever the datapath answers when it cannot.
pub type DatapathFault = Box<dyn std::error::Error + Send + Sync>;

/// The part of the datapath that an attachment consists of. Every removal is idempotent.
pub trait PodDatapath: Send + Sync + 'static {
    /// Attaches `from_pod` to the ingress and `to_pod` to the egress of a host side.
    ///
    /// # Errors
    /// What the kernel refused.
    fn attach(&self, ifname: &str, ifindex: u32) -> Result<(), DatapathFault>;

    /// Removes every trace of these programs on this interface; on all of this name, also on former
    /// ones, when the index is 0 because nobody had come to write it down.
    ///
    /// # Errors
    /// What the kernel refused.
    fn detach(&self, ifname: &str, ifindex: u32) -> Result<(), DatapathFault>;

    /// Names of the programs that should be attached to this interface and are not.
    ///
    /// # Errors
    /// What the kernel refused.
    fn unattached(&self, ifname: &str, ifindex: u32) -> Result<Vec<&'static str>, DatapathFault>;

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
        // What a pod gets is seen before it can answer.
        for program in POD_PROGRAMS {
            Self::attach(self, program, ifname, ifindex)?;
        }
        Ok(())
    }

    fn detach(&self, ifname: &str, ifindex: u32) -> Result<(), DatapathFault> {
        if ifindex != 0 {
            for program in POD_PROGRAMS {
                Self::detach(self, program, ifname, ifindex)?;
            }
            return Ok(());
        }
        for a in self.attachments()?.into_iter().filter(is_pod(ifname)) {
            Self::detach(self, a.program, ifname, a.ifindex)?;
        }
        Ok(())
    }

    fn unattached(&self, ifname: &str, ifindex: u32) -> Result<Vec<&'static str>, DatapathFault> {
        let attached = self.attachments()?.into_iter().filter(is_pod(ifname));
        let alive: Vec<Program> = attached
            .filter(|a| a.ifindex == ifindex && a.alive)
            .map(|a| a.program)
            .collect();
        let missing = POD_PROGRAMS.into_iter().filter(|p| !alive.contains(p));
        Ok(missing.map(Program::name).collect())
    }

    fn set_pod(&self, address: Addr, value: PodValue) -> Result<(), DatapathFault> {
        Ok(self.write_pod(&address, value)?)
    }

    fn remove_pod(&self, address: Addr) -> Result<(), DatapathFault> {
        Ok(self.pods().remove(&address)?)
    }

    fn pod(&self, address: Addr) -> Result<Option<PodValue>, DatapathFault> {
        Ok(self.pods().get(&address)?.map(PodValue::without_marks))
    }
}

fn is_pod(ifname: &str) -> impl Fn(&Attachment) -> bool {
    move |attachment| POD_PROGRAMS.contains(&attachment.program) && attachment.ifname == ifname
}
