//! What kube-proxy writes with `mode: nftables`: tables, chains and maps of that shape, in our words.
//!
//! One table per family, `ip kube-proxy` and `ip6 kube-proxy`. A packet finds its service with one lookup
//! and is translated in the chain of an endpoint that is chosen at random; what has to come back through
//! the node is marked on the way and masqueraded at the end.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use crate::node::Node;

/// A port of a service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name, of letters, digits and minus signs.
    pub name: String,
    /// Its address.
    pub cluster_ip: IpAddr,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Its port.
    pub port: u16,
    /// A port of every node that leads to it, too.
    pub node_port: Option<(u16, TrafficPolicy)>,
    /// Who serves it, of the family of its address.
    pub endpoints: Vec<Endpoint>,
}

/// What happens to what comes to a port of a node (`externalTrafficPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// It goes to any endpoint, and comes from the node.
    Cluster,
    /// It goes to endpoints of this node, which see who sent it.
    Local,
}

/// A pod behind a service.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// Address of the pod.
    pub pod: IpAddr,
    /// Port of the pod.
    pub port: u16,
    /// Whether it is a pod of the node for which the rules are.
    pub local: bool,
}

/// Words of a family.
struct Family {
    /// The family of the table, and how addresses are matched.
    table: &'static str,
    kind: &'static str,
    cluster: &'static str,
    services: &'static str,
    loopback: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        table: "ip",
        kind: "ipv4_addr",
        cluster: "10.244.0.0/16",
        services: "10.96.0.0/16",
        loopback: "127.0.0.0/8",
    },
    Family {
        table: "ip6",
        kind: "ipv6_addr",
        cluster: "fd00:244::/48",
        services: "fd00:96::/112",
        loopback: "::1",
    },
];

/// Makes the tables of both families say this and nothing else.
///
/// # Errors
///
/// If `nft` refuses it.
pub fn install(node: &Node, services: &[Service]) -> Result<()> {
    let text: String = FAMILIES.iter().map(|f| f.ruleset(services)).collect();
    let file = node.dirs.log.with_extension("nft");
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let line = format!("nft -f {}", file.display());
    node.netns.run(&line).map(drop)
}

/// Checks that connection tracking has refused nothing on its way through a node.
///
/// # Errors
///
/// If it has, or there are no tables.
pub fn refused_nothing(node: &Node) -> Result<()> {
    for family in FAMILIES {
        let chain = format!("nft list chain {} kube-proxy filter-forward", family.table);
        let listed = node.netns.run(&chain)?;
        ensure!(listed.contains("invalid counter packets 0 "), "{listed}");
    }
    Ok(())
}

impl Family {
    fn ruleset(&self, services: &[Service]) -> String {
        let table = self.table;
        let of_us = |s: &&Service| s.cluster_ip.is_ipv4() == (table == "ip");
        let services: Vec<&Service> = services.iter().filter(of_us).collect();
        let mut text = format!(
            "table {table} kube-proxy\ndelete table {table} kube-proxy\ntable {table} kube-proxy {{\n"
        );
        text.push_str(MARKS);
        for service in &services {
            self.write_service(&mut text, service);
        }
        self.write_maps(&mut text, &services);
        self.write_chains(&mut text);
        text.push_str("}\n");
        text
    }

    /// Chains of a service: its endpoints, the way there from inside, and that by a port of the node.
    fn write_service(&self, text: &mut String, service: &Service) {
        let Self { table, cluster, .. } = self;
        let Service { protocol, port, .. } = service;
        let (id, address) = (service.id(), service.cluster_ip);
        for (number, endpoint) in service.endpoints.iter().enumerate() {
            let (pod, to) = (endpoint.pod, endpoint.port);
            let to = std::net::SocketAddr::new(pod, to);
            // Writing to a string cannot fail, here and below.
            let _ = write!(
                text,
                " chain endpoint-{id}/{number} {{\n  {table} saddr {pod} jump mark-for-masquerade\n  \
                  meta l4proto {protocol} dnat to {to}\n }}\n"
            );
        }
        let all = service.choice(|_| true);
        let _ = write!(
            text,
            " chain service-{id} {{\n  {table} daddr {address} {protocol} dport {port} \
              {table} saddr != {cluster} jump mark-for-masquerade\n  {all}\n }}\n"
        );
        match service.node_port {
            None => {}
            Some((_, TrafficPolicy::Cluster)) => {
                let _ = write!(
                    text,
                    " chain external-{id} {{\n  jump mark-for-masquerade\n  goto service-{id}\n }}\n"
                );
            }
            Some((_, TrafficPolicy::Local)) => {
                let local = service.choice(|e| e.local);
                let _ = write!(
                    text,
                    " chain external-{id} {{\n  {table} saddr {cluster} goto service-{id}\n  \
                      fib saddr type local jump mark-for-masquerade\n  \
                      fib saddr type local goto service-{id}\n  {local}\n }}\n"
                );
            }
        }
    }

    fn write_maps(&self, text: &mut String, services: &[&Service]) {
        let Self { table, kind, .. } = self;
        let addresses = services.iter().map(|s| s.cluster_ip.to_string());
        let by_address = services.iter().map(|s| {
            let Service { protocol, port, .. } = s;
            let id = s.id();
            format!("{} . {protocol} . {port} : goto service-{id}", s.cluster_ip)
        });
        let by_port = services.iter().filter_map(|s| {
            let (port, _) = s.node_port?;
            Some(format!(
                "{} . {port} : goto external-{}",
                s.protocol,
                s.id()
            ))
        });
        let _ = write!(
            text,
            " set cluster-ips {{ type {kind}; {} }}\n \
              map service-ips {{ type {kind} . inet_proto . inet_service : verdict; {} }}\n \
              map service-nodeports {{ type inet_proto . inet_service : verdict; {} }}\n \
              chain services {{\n  {table} daddr . meta l4proto . th dport vmap @service-ips\n  \
              fib daddr type local {table} daddr != {} meta l4proto . th dport vmap @service-nodeports\n }}\n",
            elements(addresses),
            elements(by_address),
            elements(by_port),
            self.loopback,
        );
    }

    /// The chains that the kernel calls.
    fn write_chains(&self, text: &mut String) {
        let Self {
            table, services, ..
        } = self;
        let _ = write!(
            text,
            " chain cluster-ips-check {{\n  {table} daddr @cluster-ips reject\n  \
              {table} daddr {services} drop\n }}\n"
        );
        text.push_str(HOOKS);
    }
}

impl Service {
    /// What its chains are named after.
    fn id(&self) -> String {
        format!("{}/{}", self.name, self.protocol)
    }

    /// The rule that takes one of some endpoints at random; without any, what comes is dropped.
    fn choice(&self, wanted: impl Fn(&Endpoint) -> bool) -> String {
        let id = self.id();
        let endpoints = self.endpoints.iter().enumerate();
        let chains: Vec<String> = endpoints
            .filter(|(_, endpoint)| wanted(endpoint))
            .map(|(number, _)| format!("goto endpoint-{id}/{number}"))
            .collect();
        if chains.is_empty() {
            return "drop".to_owned();
        }
        let chosen = chains.iter().enumerate();
        let chosen: Vec<String> = chosen
            .map(|(at, chain)| format!("{at} : {chain}"))
            .collect();
        format!(
            "numgen random mod {} vmap {{ {} }}",
            chains.len(),
            chosen.join(", ")
        )
    }
}

/// The mark is taken off again, so that a packet that passes twice is not masqueraded twice.
const MARKS: &str = "\
 chain mark-for-masquerade {
  meta mark set meta mark or 0x4000
 }
 chain masquerading {
  meta mark and 0x4000 == 0 return
  meta mark set meta mark xor 0x4000
  masquerade fully-random
 }
";

const HOOKS: &str = "\
 chain filter-forward {
  type filter hook forward priority -110; policy accept;
  ct state invalid counter drop
  ct state new jump cluster-ips-check
 }
 chain filter-output {
  type filter hook output priority -90; policy accept;
  ct state new jump cluster-ips-check
 }
 chain nat-prerouting {
  type nat hook prerouting priority dstnat; policy accept;
  jump services
 }
 chain nat-output {
  type nat hook output priority -100; policy accept;
  jump services
 }
 chain nat-postrouting {
  type nat hook postrouting priority srcnat; policy accept;
  jump masquerading
 }
";

fn elements(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() {
        String::new()
    } else {
        format!("elements = {{ {} }};", items.join(", "))
    }
}
