//! The table `inet oxlan_ports`: ports of the host that lead to pods.
//!
//! For each family there are two maps: `one_*` for ports of one address of the host, `all_*` for ports of all of them.
//! So a packet costs two lookups at most, however many ports there are. The table is replaced in one transaction;
//! what connection tracking knows of running connections stays.
//!
//! It is written as text: `nft` 1.0.6 (Debian 12) does not read maps to an address and a port as JSON.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use nftables::helper::NftablesError;
use serde::{Deserialize, Serialize};

use super::nftables::{Listing, NftError, failed, list, remove};

/// Name of the table.
pub const TABLE: &str = "oxlan_ports";

/// The program, looked for in `PATH`.
const NFT_EXECUTABLE: &str = "nft";

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its name, as `nft` and runtimes write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of the host that leads to a port of one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    /// Address of the host; none for all of them.
    pub host: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// Port of the host, 1 to 65535.
    pub host_port: u16,
    /// The pod; `host` is of the same family.
    pub pod: IpAddr,
    /// Port of the pod, 1 to 65535.
    pub pod_port: u16,
}

/// Makes the table say this and nothing else; without ports there is none. Returns it as the kernel has it.
///
/// # Errors
/// When `nft` is missing or the kernel refuses.
pub fn replace(ports: &BTreeSet<Published>) -> Result<Option<Listing>, NftError> {
    if ports.is_empty() {
        return remove(TABLE).map(|_| None);
    }
    apply(&ruleset(ports)).map_err(failed("write", TABLE))?;
    list(TABLE)
}

/// Has `nft` read a text, as a transaction.
fn apply(text: &str) -> Result<(), NftablesError> {
    let run = || {
        let mut nft = Command::new(NFT_EXECUTABLE);
        nft.args(["-f", "-"]).stdin(Stdio::piped());
        let mut nft = nft.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        // It ends early only with an error, which its exit status tells.
        let _ = nft
            .stdin
            .take()
            .map(|mut pipe| pipe.write_all(text.as_bytes()));
        nft.wait_with_output()
    };
    let output = run().map_err(|inner| NftablesError::NftExecution {
        program: NFT_EXECUTABLE.into(),
        inner,
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(NftablesError::NftFailed {
        program: NFT_EXECUTABLE.into(),
        hint: "applying ruleset".into(),
        stdout: String::new(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Adding first makes deleting succeed when there is none.
fn ruleset(ports: &BTreeSet<Published>) -> String {
    let mut text =
        format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    for family in [Family::V4, Family::V6] {
        family.write(&mut text, ports);
    }
    text.push_str(CHAINS);
    text.push_str("}\n");
    text
}

/// What every such table has. Ports are looked for in packets to the host's own addresses only, from
/// outside, from pods and from the host itself.
///
/// `route_localnet` of pods' devices lets the host answer itself by them; no pod may use it the other way,
/// to reach what listens on the host's 127.0.0.1 alone. Before translation, answers have another destination.
///
/// Who reaches himself, or reaches a pod from an address that means "myself" everywhere, gets the host's address.
const CHAINS: &str = "\
 chain ports {
  dnat ip to ip daddr . meta l4proto . th dport map @one_v4
  dnat ip6 to ip6 daddr . meta l4proto . th dport map @one_v6
  dnat ip to meta l4proto . th dport map @all_v4
  dnat ip6 to meta l4proto . th dport map @all_v6
 }
 chain guard {
  type filter hook prerouting priority -150; policy accept;
  iifname \"oxl*\" ip daddr 127.0.0.0/8 drop
 }
 chain prerouting {
  type nat hook prerouting priority dstnat; policy accept;
  fib daddr type local jump ports
 }
 chain output {
  type nat hook output priority -100; policy accept;
  fib daddr type local jump ports
 }
 chain postrouting {
  type nat hook postrouting priority srcnat; policy accept;
  ct status dnat ip saddr . ip daddr @self_v4 masquerade
  ct status dnat ip6 saddr . ip6 daddr @self_v6 masquerade
  ct status dnat ip saddr 127.0.0.0/8 fib saddr type local masquerade
 }
";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }

    /// The maps by port, and by address and port, and the set of the pods.
    fn write(self, text: &mut String, ports: &BTreeSet<Published>) {
        let (name, kind) = match self {
            Self::V4 => ("v4", "ipv4_addr"),
            Self::V6 => ("v6", "ipv6_addr"),
        };
        let ours = || ports.iter().filter(|p| self.has(p.pod));
        let to = |p: &Published| format!("{} . {}", p.pod, p.pod_port);
        let port = |p: &Published| format!("{} . {}", p.protocol.name(), p.host_port);
        let all = ours().filter(|p| p.host.is_none());
        let all = all.map(|p| format!("{} : {}", port(p), to(p)));
        let one = ours().filter_map(|p| Some((p.host?, p)));
        let one = one.map(|(host, p)| format!("{host} . {} : {}", port(p), to(p)));
        let pods: BTreeSet<IpAddr> = ours().map(|p| p.pod).collect();
        let pods = pods.iter().map(|pod| format!("{pod} . {pod}"));
        let value = format!("{kind} . inet_service");
        let (all, one) = (elements(all), elements(one));
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            " map all_{name} {{ type inet_proto . inet_service : {value}; {all}}}\n \
              map one_{name} {{ type {kind} . inet_proto . inet_service : {value}; {one}}}\n \
              set self_{name} {{ type {kind} . {kind}; {}}}\n",
            elements(pods)
        );
    }
}

fn elements(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() {
        String::new()
    } else {
        format!("elements = {{ {} }}; ", items.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_an_element_of_a_map() {
        let port = |host: Option<&str>, pod: &str| Published {
            host: host.map(|h| h.parse().unwrap()),
            protocol: Protocol::Udp,
            host_port: 53,
            pod: pod.parse().unwrap(),
            pod_port: 5353,
        };
        let ports = [
            port(None, "10.244.1.2"),
            port(Some("192.0.2.1"), "10.244.1.3"),
            port(None, "fd00::2"),
        ];
        let text = ruleset(&BTreeSet::from(ports));
        for piece in [
            "map all_v4 { type inet_proto . inet_service : ipv4_addr . inet_service; elements = { udp . 53 : 10.244.1.2 . 5353 }; }",
            "elements = { 192.0.2.1 . udp . 53 : 10.244.1.3 . 5353 }",
            "set self_v4 { type ipv4_addr . ipv4_addr; elements = { 10.244.1.2 . 10.244.1.2, 10.244.1.3 . 10.244.1.3 }; }",
            "elements = { udp . 53 : fd00::2 . 5353 }",
            "iifname \"oxl*\" ip daddr 127.0.0.0/8 drop",
            "map one_v6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }",
        ] {
            assert!(text.contains(piece), "{piece} is not in {text}");
        }
    }
}
