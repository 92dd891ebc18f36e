//! The TOML form of a cluster. Read by hand rather than by derive, because the reader reports
//! every wrong field at once and says what it may be.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use oxlan_common::addr::Mac;
use oxlan_common::wire::{DEFAULT_PORT, MAX_VNI};
use toml::{Table, Value};

use super::problem::Problems;
use super::validate::validate;
use super::{
    ClusterConfig, Dscp, InvalidMode, Mode, Network, NodeSpec, Problem, Remarks, Vni, Vtep,
    derived_vtep_mac,
};

/// Why a text does not describe a cluster.
#[derive(Debug)]
pub enum ParseError {
    /// It is not TOML.
    Syntax(Box<toml::de::Error>),
    /// It says something that cannot be; everything that is wrong with it.
    Invalid(Vec<Problem>),
}

/// Reads and checks the whole description, as seen by the node `own`.
///
/// # Errors
/// When it is not TOML, or with everything that is wrong with it.
pub fn parse(text: &str, own: &str) -> Result<ClusterConfig, ParseError> {
    let table = Table::from_str(text).map_err(|e| ParseError::Syntax(Box::new(e)))?;
    let mut problems = Problems::default();
    let mut config = read(table, &mut problems);
    validate(&config, &mut problems);
    if !named(&config, &problems, own) {
        problems.place(&format!("node {own:?}"), missing_own(&config.nodes));
    }
    if let Some(own) = config.nodes.iter().find(|n| n.name == own) {
        check_own_mac(own, &mut problems);
    }
    let problems = problems.into_vec();
    if !problems.is_empty() {
        return Err(ParseError::Invalid(problems));
    }
    config.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(config)
}

/// A Flannel node may have a MAC per family, on two devices.
fn check_own_mac(own: &NodeSpec, problems: &mut Problems) {
    if own.vteps.iter().any(|v| v.mac != own.vtep_mac()) {
        let place = format!("{}vtep_mac", node_place(&own.name));
        let wanted = "this is the agent's own node, whose one overlay device has one MAC";
        problems.place(&place, wanted);
    }
}

/// Whether there is a node of this name, be it one whose other fields are wrong.
fn named(config: &ClusterConfig, problems: &Problems, own: &str) -> bool {
    config.nodes.iter().any(|n| n.name == own) || problems.concern(&node_place(own))
}

fn missing_own(nodes: &[NodeSpec]) -> String {
    const SHOWN: usize = 5;
    let names: Vec<&str> = nodes.iter().take(SHOWN).map(|n| n.name.as_str()).collect();
    let more = if nodes.len() > SHOWN { ", ..." } else { "" };
    let there = match names.as_slice() {
        [] => "there are no nodes at all".to_owned(),
        names => format!("there are {}{more}", names.join(", ")),
    };
    format!("this is the agent's own node (--node), and it is missing; {there}")
}

/// How problems with a node's fields begin.
fn node_place(name: &str) -> String {
    format!("node {name:?} ")
}

/// What can be understood; whatever cannot is noted and left out.
fn read(mut table: Table, problems: &mut Problems) -> ClusterConfig {
    let network = match table.remove("network") {
        Some(Value::Table(network)) => Some(read_network(network, problems)),
        Some(other) => {
            problems.value("network", other, "a table [network] is wanted");
            None
        }
        None => {
            problems.place(
                "[network]",
                "this table is missing; it names the pod_cidrs of the cluster",
            );
            None
        }
    };
    let nodes = match table.remove("node") {
        Some(Value::Array(nodes)) => nodes,
        Some(other) => {
            problems.value("node", other, "tables [[node]] are wanted, one per node");
            Vec::new()
        }
        None => Vec::new(),
    };
    reject_others(&table, "", &["network", "node"], problems);
    let read_one = |(i, node)| read_node(i, node, problems);
    ClusterConfig {
        nodes: nodes.into_iter().enumerate().filter_map(read_one).collect(),
        network: network.unwrap_or(Network {
            pod_cidrs: Vec::new(),
            vni: Vni::DEFAULT,
            port: DEFAULT_PORT,
            dscp: Dscp::default(),
            mode: Mode::default(),
        }),
        remarks: Remarks::default(),
    }
}

fn read_network(mut table: Table, problems: &mut Problems) -> Network {
    let place = "network ";
    let network = Network {
        pod_cidrs: prefixes(&mut table, place, problems),
        vni: vni(&mut table, problems),
        port: port(&mut table, problems),
        dscp: dscp(&mut table, problems),
        mode: mode(&mut table, problems),
    };
    let known = ["pod_cidrs", "vni", "port", "dscp", "mode"];
    reject_others(&table, place, &known, problems);
    network
}

fn mode(table: &mut Table, problems: &mut Problems) -> Mode {
    let Some(value) = table.remove("mode") else {
        return Mode::default();
    };
    let mode = value.as_str().ok_or(InvalidMode).and_then(str::parse);
    mode.unwrap_or_else(|invalid| {
        problems.value("network mode", &value, invalid.to_string());
        Mode::default()
    })
}

fn dscp(table: &mut Table, problems: &mut Problems) -> Dscp {
    let Some(value) = table.remove("dscp") else {
        return Dscp::default();
    };
    if value.as_str() == Some("copy") {
        return Dscp::Copy;
    }
    let number = value.as_integer().and_then(|n| u8::try_from(n).ok());
    let Some(number) = number.filter(|n| *n <= Dscp::MAX) else {
        let wanted = format!(
            "a whole number from 0 to {} or \"copy\" is wanted",
            Dscp::MAX
        );
        problems.value("network dscp", &value, wanted);
        return Dscp::default();
    };
    Dscp::Fixed(number)
}

fn vni(table: &mut Table, problems: &mut Problems) -> Vni {
    let Some(value) = table.remove("vni") else {
        return Vni::DEFAULT;
    };
    let number = value.as_integer().and_then(|n| u32::try_from(n).ok());
    number.and_then(|n| Vni::new(n).ok()).unwrap_or_else(|| {
        let wanted = format!("a whole number from 0 to {MAX_VNI} is wanted");
        problems.value("network vni", &value, wanted);
        Vni::DEFAULT
    })
}

fn port(table: &mut Table, problems: &mut Problems) -> u16 {
    let Some(value) = table.remove("port") else {
        return DEFAULT_PORT;
    };
    let number = value.as_integer().and_then(|n| u16::try_from(n).ok());
    number.filter(|n| *n > 0).unwrap_or_else(|| {
        problems.value(
            "network port",
            &value,
            "a UDP port from 1 to 65535 is wanted",
        );
        DEFAULT_PORT
    })
}

/// One `[[node]]`; none if a field that everything else hangs on is missing or unreadable.
fn read_node(index: usize, value: Value, problems: &mut Problems) -> Option<NodeSpec> {
    let number = index + 1;
    let Value::Table(mut table) = value else {
        problems.value(
            &format!("node number {number}"),
            value,
            "a table [[node]] is wanted",
        );
        return None;
    };
    let name = match table.remove("name") {
        Some(Value::String(name)) => Some(name),
        Some(other) => {
            problems.value(
                &format!("node number {number} name"),
                other,
                "a text is wanted",
            );
            None
        }
        None => {
            problems.place(
                &format!("node number {number} name"),
                "this field is missing",
            );
            None
        }
    };
    let place = match &name {
        Some(name) => node_place(name),
        None => format!("node number {number} "),
    };
    let pod_cidrs = prefixes(&mut table, &place, problems);
    let underlay = underlay(&mut table, &place, problems);
    let macs = macs(&mut table, &place, problems);
    reject_others(
        &table,
        &place,
        &["name", "pod_cidrs", "underlay", "vtep_mac"],
        problems,
    );
    let vteps = vteps(underlay, &macs, &place, problems);
    Some(NodeSpec {
        name: name?,
        pod_cidrs,
        vteps,
    })
}

fn prefixes(table: &mut Table, place: &str, problems: &mut Problems) -> Vec<IpNet> {
    let place = format!("{place}pod_cidrs");
    let wanted = "a list of prefixes is wanted, one per family, as [\"10.244.0.0/16\"]";
    match table.remove("pod_cidrs") {
        Some(Value::Array(values)) if values.is_empty() => {
            problems.value(&place, "[]", wanted);
            Vec::new()
        }
        Some(Value::Array(values)) => {
            let one =
                |(i, value): (usize, &Value)| prefix(&format!("{place}[{i}]"), value, problems);
            let mut all: Vec<IpNet> = values.iter().enumerate().filter_map(one).collect();
            all.sort_by_key(|p| matches!(p, IpNet::V6(_)));
            all
        }
        Some(other) => {
            problems.value(&place, other, wanted);
            Vec::new()
        }
        None => {
            problems.place(&place, format!("this field is missing; {wanted}"));
            Vec::new()
        }
    }
}

fn prefix(place: &str, value: &Value, problems: &mut Problems) -> Option<IpNet> {
    let parsed = value.as_str().and_then(|text| text.parse::<IpNet>().ok());
    let Some(prefix) = parsed else {
        problems.value(
            place,
            value,
            "a prefix is wanted, as \"10.244.1.0/24\" or \"fd00:10:244:1::/64\"",
        );
        return None;
    };
    if prefix.addr() != prefix.network() {
        let network = prefix.trunc();
        problems.value(
            place,
            value,
            format!("bits after the prefix are set; the network is \"{network}\""),
        );
        return None;
    }
    Some(prefix)
}

/// One address, or a list with one per family. Empty if there is none that can be read.
fn underlay(table: &mut Table, place: &str, problems: &mut Problems) -> Vec<IpAddr> {
    let place = format!("{place}underlay");
    match table.remove("underlay") {
        Some(Value::Array(values)) if values.is_empty() => {
            let wanted = "at least one address is wanted, as [\"192.168.50.1\", \"fd00:50::1\"]";
            problems.value(&place, "[]", wanted);
            Vec::new()
        }
        Some(Value::Array(values)) => {
            let one = |(i, value)| underlay_address(&format!("{place}[{i}]"), value, problems);
            values.iter().enumerate().filter_map(one).collect()
        }
        Some(value) => Vec::from_iter(underlay_address(&place, &value, problems)),
        None => {
            problems.place(
                &place,
                "this field is missing; it is the node's address on the network that joins the nodes",
            );
            Vec::new()
        }
    }
}

/// Addresses and MACs together: one MAC for all, or one for each, or none, for which one is derived.
/// IPv4 first.
fn vteps(underlay: Vec<IpAddr>, macs: &[Mac], place: &str, problems: &mut Problems) -> Vec<Vtep> {
    let first = underlay.iter().min_by_key(|a| a.is_ipv6());
    let derived: Vec<Mac> = first.map(|a| derived_vtep_mac(*a)).into_iter().collect();
    let macs = if macs.is_empty() { &derived } else { macs };
    let Some(last) = macs.last() else {
        return Vec::new();
    };
    if macs.len() > 1 && macs.len() != underlay.len() && !underlay.is_empty() {
        let wanted = "one MAC is wanted, or a list with one for each underlay address";
        problems.place(&format!("{place}vtep_mac"), wanted);
    }
    let macs = macs.iter().chain(std::iter::repeat(last));
    let vtep = |(underlay, mac): (IpAddr, &Mac)| Vtep {
        underlay,
        mac: *mac,
    };
    let mut vteps: Vec<Vtep> = underlay.into_iter().zip(macs).map(vtep).collect();
    vteps.sort_by_key(|v| v.underlay.is_ipv6());
    vteps
}

fn underlay_address(place: &str, value: &Value, problems: &mut Problems) -> Option<IpAddr> {
    let parsed = value.as_str().and_then(|text| text.parse().ok());
    if parsed.is_none() {
        let wanted = "an IP address is wanted, as \"192.168.50.1\" or \"fd00:50::1\"";
        problems.value(place, value, wanted);
    }
    parsed
}

/// One MAC, or a list of them; none if the field is absent or cannot be read.
fn macs(table: &mut Table, place: &str, problems: &mut Problems) -> Vec<Mac> {
    let place = format!("{place}vtep_mac");
    match table.remove("vtep_mac") {
        Some(Value::Array(values)) => {
            let one = |(i, value)| mac(&format!("{place}[{i}]"), value, problems);
            values.iter().enumerate().filter_map(one).collect()
        }
        Some(value) => Vec::from_iter(mac(&place, &value, problems)),
        None => Vec::new(),
    }
}

fn mac(place: &str, value: &Value, problems: &mut Problems) -> Option<Mac> {
    let parsed = value.as_str().map(Mac::from_str);
    let wanted = match parsed {
        Some(Ok(mac)) if mac.is_multicast() => {
            "this is a group address; a unicast MAC is wanted".to_owned()
        }
        Some(Ok(Mac::ZERO)) => "this means \"no address\"; a unicast MAC is wanted".to_owned(),
        Some(Ok(mac)) => return Some(mac),
        Some(Err(invalid)) => invalid.to_string(),
        None => oxlan_common::addr::InvalidMac.to_string(),
    };
    problems.value(place, value, wanted);
    None
}

/// Notes every field that is still in `table`: a misspelt name must not be silently ignored.
fn reject_others(table: &Table, place: &str, known: &[&str], problems: &mut Problems) {
    for key in table.keys() {
        let wanted = format!("there is no such field; known are {}", known.join(", "));
        problems.place(&format!("{place}{key}"), wanted);
    }
}

#[cfg(test)]
mod tests;
