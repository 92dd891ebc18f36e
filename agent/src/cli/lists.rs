//! `oxlan pods`, `oxlan nodes` and `oxlan routes`: one row each.

use serde::de::DeserializeOwned;

use super::Ask;
use super::ask::ask;
use super::output::{self, Format, duration, joined};
use crate::api::types::{NextHopRow, NodeRow, PodRow, RouteRow, VtepRow};

/// Something that has a row in a table.
trait Row: DeserializeOwned {
    const PATH: &str;
    const HEADINGS: &[&str];
    /// The column that is wrapped when a row is too long.
    const FLEXIBLE: usize;
    /// What is printed instead of an empty table.
    const NONE: &str;
    fn cells(&self) -> Vec<String>;
}

/// Prints the attachments.
pub(super) fn pods(options: &Ask) -> anyhow::Result<()> {
    list::<PodRow>(options)
}

/// Prints the nodes.
pub(super) fn nodes(options: &Ask) -> anyhow::Result<()> {
    list::<NodeRow>(options)
}

/// Prints the datapath's routes.
pub(super) fn routes(options: &Ask) -> anyhow::Result<()> {
    list::<RouteRow>(options)
}

fn list<T: Row>(options: &Ask) -> anyhow::Result<()> {
    let answered = ask::<Vec<T>>(options, T::PATH)?;
    output::print(&match options.output {
        Format::Json => output::pretty(&answered.json),
        Format::Table => render(&answered.value),
    })
}

fn render<T: Row>(rows: &[T]) -> String {
    if rows.is_empty() {
        return format!("{}\n", T::NONE);
    }
    let mut table = output::table(T::HEADINGS, T::FLEXIBLE);
    table.add_rows(rows.iter().map(Row::cells));
    output::render(&table)
}

impl Row for PodRow {
    const PATH: &str = "/v1/pods";
    const HEADINGS: &[&str] = &["POD", "CONTAINER", "ADDRESSES", "INTERFACE", "STATE", "AGE"];
    const FLEXIBLE: usize = 0;
    const NONE: &str = "no pods are attached on this node";

    fn cells(&self) -> Vec<String> {
        let name = [&self.namespace, &self.name].map(|part| part.as_deref().unwrap_or_default());
        let name = match name {
            ["", ""] => "-".to_owned(),
            ["", name] => name.to_owned(),
            [namespace, name] => format!("{namespace}/{name}"),
        };
        vec![
            name,
            self.container_id.chars().take(12).collect(),
            joined(&self.addresses, "\n"),
            format!("{}\n{}", self.ifname, self.host.name),
            self.phase.clone(),
            duration(self.age),
        ]
    }
}

impl Row for NodeRow {
    const PATH: &str = "/v1/nodes";
    const HEADINGS: &[&str] = &["NODE", "UNDERLAY", "MTU", "POD CIDRS", "VTEP MAC", "STATE"];
    const FLEXIBLE: usize = 0;
    const NONE: &str = "the cluster has no nodes";

    fn cells(&self) -> Vec<String> {
        // One MAC for both addresses is shown once.
        let column = |part: fn(&VtepRow) -> String| {
            let mut parts: Vec<String> = self.vteps.iter().map(part).collect();
            parts.dedup();
            parts.join("\n")
        };
        vec![
            self.name.clone(),
            column(|v| v.underlay.to_string()),
            column(|v| v.path_mtu.map_or_else(|| "-".into(), |mtu| mtu.to_string())),
            joined(&self.pod_cidrs, "\n"),
            column(|v| v.mac.clone()),
            state(self.own, self.reachable, self.direct).into(),
        ]
    }
}

impl Row for RouteRow {
    const PATH: &str = "/v1/routes";
    const HEADINGS: &[&str] = &["PREFIX", "NODE", "VTEP", "NEXT HOP", "MTU", "VNI", "STATE"];
    const FLEXIBLE: usize = 1;
    const NONE: &str = "the datapath has no routes";

    fn cells(&self) -> Vec<String> {
        let next_hop = if self.local {
            "-".to_owned()
        } else if self.next_hops.is_empty() {
            format!("{}\n{}", self.next_hop, self.device)
        } else {
            let word = |hop: &NextHopRow| format!("{} {} {}%", hop.address, hop.device, hop.share);
            joined(&self.next_hops.iter().map(word).collect::<Vec<_>>(), "\n")
        };
        vec![
            self.prefix.to_string(),
            self.node.clone().unwrap_or_else(|| "-".into()),
            format!("{}\n{}", self.underlay, self.vtep_mac),
            next_hop,
            if self.local {
                "-".into()
            } else {
                self.mtu.to_string()
            },
            self.vni.to_string(),
            state(self.local, self.reachable, self.direct).into(),
        ]
    }
}

fn state(own: bool, reachable: bool, direct: bool) -> &'static str {
    match (own, reachable, direct) {
        (true, _, _) => "this node",
        (false, true, false) => "reachable",
        (false, true, true) => "direct",
        (false, false, _) => "no route",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::Device;

    #[test]
    fn long_names_and_both_families_fit() {
        let pod = PodRow {
            namespace: Some("a-namespace-of-some-length".into()),
            name: Some("a-deployment-with-a-long-name-7d4b9c6f5d-x2x9z".into()),
            container_id: "0123456789abcdef".repeat(4),
            ifname: "eth0".into(),
            network: "oxlan".into(),
            netns: "/run/netns/x".into(),
            phase: "removing".into(),
            addresses: vec![
                "10.244.101.254".parse().unwrap(),
                "fd00:1111:2222:3333:4444:5555:6666:7777".parse().unwrap(),
            ],
            mac: "0a:58:0a:f4:01:02".into(),
            host: Device {
                name: "oxl0123456789a".into(),
                ifindex: 7,
                mtu: 1450,
            },
            age: 86400,
        };
        let text = render(&[pod]);
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
        assert!(
            text.contains("fd00:1111:2222:3333:4444:5555:6666:7777"),
            "{text}"
        );
        assert_eq!(render::<NodeRow>(&[]), "the cluster has no nodes\n");
    }

    #[test]
    fn a_local_route_has_no_next_hop() {
        let route = RouteRow {
            prefix: "10.244.1.0/24".parse().unwrap(),
            node: Some("node-a".into()),
            local: true,
            underlay: "192.168.50.1".parse().unwrap(),
            next_hop: "192.168.50.1".parse().unwrap(),
            device: "eth0".into(),
            next_hops: Vec::new(),
            mtu: 1450,
            vni: 1,
            vtep_mac: "0e:00:c0:a8:32:01".into(),
            reachable: true,
            direct: false,
        };
        let text = render(&[route]);
        assert!(
            text.contains("this node") && !text.contains("eth0"),
            "{text}"
        );
    }
}
