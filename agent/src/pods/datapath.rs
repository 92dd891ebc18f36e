//! What the pods room needs of the datapath, so that it can be tested without a kernel.

use oxlan_common::addr::Addr;
use oxlan_common::maps::PodValue;

/// Whatever the datapath answers when it cannot.
pub type DatapathFault = Box<dyn std::error::Error + Send + Sync>;

/// The part of the datapath that an attachment consists of. Every removal is idempotent.
pub trait PodDatapath: Send + Sync + 'static {
    /// Attaches `from_pod` to the ingress of a host side.
    ///
    /// # Errors
    /// What the kernel refused.
    fn attach(&self, ifname: &str, ifindex: u32) -> Result<(), DatapathFault>;

    /// Removes every trace of `from_pod` on interfaces of this name, whatever their index was.
    ///
    /// # Errors
    /// What the kernel refused.
    fn detach(&self, ifname: &str) -> Result<(), DatapathFault>;

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
