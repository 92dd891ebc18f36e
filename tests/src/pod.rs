//! A pod: a network namespace with one Oxlan interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::netns::Netns;

/// Name of the interface inside, as Kubernetes has it.
pub const IFNAME: &str = "eth0";

/// A pod that a node attached.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its namespace.
    pub netns: Netns,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// Its IPv4 address, if the cluster has that family.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address, likewise.
    pub v6: Option<Ipv6Addr>,
    /// The plugin's whole answer.
    pub result: Value,
}

impl Pod {
    /// A pod as the answer of ADD describes it.
    ///
    /// # Errors
    ///
    /// If the answer names no address, or one that cannot be read.
    pub fn from_result(netns: Netns, container: &str, result: Value) -> Result<Self> {
        let mut pod = Self {
            netns,
            container: container.to_owned(),
            v4: None,
            v6: None,
            result,
        };
        let ips = pod.result["ips"]
            .as_array()
            .context("the answer has no ips")?;
        for ip in ips {
            let text = ip["address"]
                .as_str()
                .context("an address that is no text")?;
            let address = text.split('/').next().unwrap_or_default();
            match address
                .parse()
                .with_context(|| format!("not an address: {text}"))?
            {
                IpAddr::V4(v4) => pod.v4 = Some(v4),
                IpAddr::V6(v6) => pod.v6 = Some(v6),
            }
        }
        anyhow::ensure!(
            pod.addresses().next().is_some(),
            "the answer has no address"
        );
        Ok(pod)
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.v6.map(IpAddr::V6))
    }

    /// Its IPv4 address.
    ///
    /// # Errors
    ///
    /// If it has none.
    pub fn ipv4(&self) -> Result<Ipv4Addr> {
        self.v4.context("the pod has no IPv4 address")
    }

    /// Its IPv6 address.
    ///
    /// # Errors
    ///
    /// If it has none.
    pub fn ipv6(&self) -> Result<Ipv6Addr> {
        self.v6.context("the pod has no IPv6 address")
    }

    /// Name of the host side of its veth pair, from the plugin's answer.
    ///
    /// # Errors
    ///
    /// If the answer names none.
    pub fn host_ifname(&self) -> Result<String> {
        let interfaces = self.result["interfaces"]
            .as_array()
            .context("no interfaces")?;
        let host = interfaces
            .iter()
            .find(|interface| interface["sandbox"].as_str().unwrap_or_default().is_empty())
            .context("the answer has no interface on the host")?;
        Ok(host["name"]
            .as_str()
            .context("an interface without a name")?
            .to_owned())
    }

    /// Sends echo requests and expects every answer.
    ///
    /// # Errors
    ///
    /// If one is missing.
    pub fn ping(&self, to: IpAddr) -> Result<()> {
        self.netns
            .run(&format!("ping -n -q -c 2 -i 0.05 -W 2 {to}"))
            .map(drop)
    }
}
