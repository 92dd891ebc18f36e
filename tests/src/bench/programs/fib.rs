//! Routes for `bpf_fib_lookup`, which the agent asks instead of the programs: what asking per packet would cost.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::SIZES;
use crate::netns::Netns;

/// What is in the kernel's tables when it is asked for the way to a pod of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Routes {
    /// One route for all pods.
    One,
    /// A route for each node.
    Many,
    /// One route with two equal next hops.
    EqualHops,
    /// One route, and two policy rules that do not match.
    Rules,
}

/// The next hops on the uplink, whose MACs are known.
const NEXT_HOPS: [&str; 2] = ["172.31.0.2", "172.31.0.3"];

impl Routes {
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::One => "bpf_fib_lookup, one route",
            Self::Many => "bpf_fib_lookup, a route for each of 5,000 nodes",
            Self::EqualHops => "bpf_fib_lookup, one route with two next hops",
            Self::Rules => "bpf_fib_lookup, one route, two more policy rules",
        }
    }

    /// In names of namespaces.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::One => "fib-one",
            Self::Many => "fib-many",
            Self::EqualHops => "fib-equal",
            Self::Rules => "fib-rules",
        }
    }

    /// Makes them in a namespace with the node's devices.
    pub(super) fn add(self, netns: &Netns, dir: &Path) -> Result<()> {
        netns.run_all(&[
            "sysctl -qw net.ipv4.ip_forward=1",
            "ip link set pod0 up",
            "ip link set eth0 up",
            "ip link set p-eth0 up",
            // The kernel asks no device without an address.
            "ip address add 169.254.1.1/32 dev pod0",
            "ip address add 172.31.0.1/24 dev eth0",
        ])?;
        for (last, address) in (2..).zip(NEXT_HOPS) {
            let mac = format!("02:00:00:00:00:{last:02x}");
            netns.run(&format!(
                "ip neighbour add {address} lladdr {mac} dev eth0 nud permanent"
            ))?;
        }
        let file = dir.join(format!("{}.routes", self.name()));
        std::fs::write(&file, self.lines()?)?;
        netns.run(&format!("ip -batch {}", file.display()))?;
        Ok(())
    }

    /// For `ip -batch`.
    fn lines(self) -> Result<String> {
        let [first, second] = NEXT_HOPS;
        let one = format!("route add 10.0.0.0/9 via {first}\n");
        Ok(match self {
            Self::One => one,
            Self::Many => {
                let [.., large] = SIZES;
                let mut lines = String::new();
                for node in 1..large.nodes {
                    let [_, _, high, low] = node.to_be_bytes();
                    writeln!(lines, "route add 10.{high}.{low}.0/24 via {first}")?;
                }
                lines
            }
            Self::EqualHops => {
                format!("route add 10.0.0.0/9 nexthop via {first} nexthop via {second}\n")
            }
            Self::Rules => {
                format!(
                    "{one}rule add from 192.0.2.1 table 100\nrule add from 192.0.2.2 table 100\n"
                )
            }
        })
    }
}
