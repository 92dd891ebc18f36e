//! The network configuration on standard input (section 1).

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::request::require_version;
use super::{CniError, Verb, Version, code};
use crate::host::ports::Protocol;
use crate::pods::{Bandwidth, Key, PortMapping, Rate};

/// Where the agent's socket is when the configuration has no `runDir`.
pub const DEFAULT_RUN_DIR: &str = "/run/oxlan";

/// The smallest MTU that IPv6 can live with (RFC 8200, section 5).
const MIN_MTU: u64 = 1280;

/// Fields that a configuration may have. Any field with a `/` in its name is a runtime's own
/// affair (`cni.dev/...`) and is let through.
const KNOWN: &[&str] = &[
    "args",
    "capabilities",
    "cniVersion",
    "dns",
    "ipam",
    "mtu",
    "name",
    "prevResult",
    "runDir",
    "runtimeConfig",
    "type",
];

/// What a runtime may tell in `runtimeConfig`.
const CAPABILITIES: &[&str] = &["bandwidth", "dns", "portMappings"];

/// A configuration that has been checked for one verb.
#[derive(Debug, Clone, PartialEq)]
pub struct NetConf {
    /// Version of the specification that the answer has to follow.
    pub version: Version,
    /// Name of the network.
    pub name: String,
    /// Directory of the agent's socket.
    pub run_dir: PathBuf,
    /// MTU for the pod, at most the node's.
    pub mtu: Option<u16>,
    /// Ports of the host that are to lead to the pod.
    pub ports: Vec<PortMapping>,
    /// How much the pod may send and receive.
    pub bandwidth: Bandwidth,
    /// What the result says about DNS.
    pub dns: Option<Dns>,
    /// Result of the plugins before this one (ADD), or of the ADD (CHECK).
    pub prev_result: Option<Map<String, Value>>,
    /// `cni.dev/valid-attachments` of GC.
    pub valid_attachments: Vec<Key>,
}

/// DNS as configured; Oxlan only passes it on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Addresses of name servers.
    #[serde(default, alias = "servers", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<IpAddr>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Domains to search short names in.
    #[serde(default, alias = "searches", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of resolv.conf.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl NetConf {
    /// Checks a configuration as far as `verb` needs it. DEL needs little: a runtime must be able
    /// to get rid of a container even after its configuration has been spoilt.
    ///
    /// # Errors
    /// Which field is wrong, its value, and what is allowed.
    pub fn parse(config: &Value, verb: Verb) -> Result<Self, CniError> {
        let Some(fields) = config.as_object() else {
            let msg = "the network configuration is not a JSON object";
            return Err(CniError::new(code::DECODE, msg));
        };
        let version = version(fields)?;
        Self::parse_fields(fields, version, verb).map_err(|error| error.in_version(version))
    }

    fn parse_fields(
        fields: &Map<String, Value>,
        version: Version,
        verb: Verb,
    ) -> Result<Self, CniError> {
        require_version(verb, version)?;
        let mut conf = Self {
            version,
            name: name(fields)?,
            run_dir: run_dir(fields)?,
            mtu: None,
            ports: Vec::new(),
            bandwidth: Bandwidth::default(),
            dns: None,
            prev_result: None,
            valid_attachments: Vec::new(),
        };
        match verb {
            Verb::Del => {}
            Verb::Gc => conf.valid_attachments = valid_attachments(fields)?,
            Verb::Add | Verb::Check | Verb::Status => {
                conf.parse_own(&with_plain_names(fields), verb)?;
            }
        }
        Ok(conf)
    }

    fn parse_own(&mut self, fields: &Map<String, Value>, verb: Verb) -> Result<(), CniError> {
        refuse_unknown(fields)?;
        self.mtu = mtu(fields)?;
        self.ports = port_mappings(fields)?;
        self.bandwidth = bandwidth(fields)?;
        self.dns = dns(fields)?;
        self.prev_result = prev_result(fields)?;
        if verb == Verb::Check && self.prev_result.is_none() {
            let allowed = "the result of ADD, which CHECK compares with";
            return Err(CniError::config("prevResult", &Value::Null, allowed));
        }
        Ok(())
    }
}

/// The same, with what a runtime tells under the names of the specification. containerd's library gives its fields
/// no names for JSON, so they come as `HostPort`, and empty lists as null; plugins in Go do not notice.
fn with_plain_names(fields: &Map<String, Value>) -> Map<String, Value> {
    let mut fields = fields.clone();
    let told = fields
        .get_mut("runtimeConfig")
        .and_then(Value::as_object_mut);
    for capability in told.into_iter().flat_map(Map::values_mut) {
        match capability.as_array_mut() {
            Some(entries) => entries.iter_mut().for_each(rename),
            None => rename(capability),
        }
    }
    fields
}

fn rename(entry: &mut Value) {
    if let Value::Object(fields) = entry {
        let plain = |(mut name, value): (String, Value)| {
            if let Some(first) = name.get_mut(..1) {
                first.make_ascii_lowercase();
            }
            (name, value)
        };
        let told = std::mem::take(fields).into_iter();
        *fields = told.filter(|(_, v)| !v.is_null()).map(plain).collect();
    }
}

/// The version, also of a configuration that is wrong otherwise.
fn version(fields: &Map<String, Value>) -> Result<Version, CniError> {
    let value = field(fields, "cniVersion");
    let version = value.as_str().and_then(|text| text.parse().ok());
    version.ok_or_else(|| {
        let names = Version::names().join(", ");
        let msg = format!("network configuration: cniVersion is {value}; allowed: {names}");
        CniError::new(code::INCOMPATIBLE_VERSION, msg)
    })
}

fn name(fields: &Map<String, Value>) -> Result<String, CniError> {
    let value = field(fields, "name");
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let good =
        |n: &&str| n.starts_with(|c: char| c.is_ascii_alphanumeric()) && n.chars().all(inner);
    let name = value.as_str().filter(good).map(String::from);
    let allowed = "a letter or digit, then letters, digits, and _ . -";
    name.ok_or_else(|| CniError::config("name", value, allowed))
}

fn run_dir(fields: &Map<String, Value>) -> Result<PathBuf, CniError> {
    let value = field(fields, "runDir");
    let path = value.as_str().filter(|path| path.starts_with('/'));
    match path {
        Some(path) => Ok(path.into()),
        None if value.is_null() => Ok(DEFAULT_RUN_DIR.into()),
        None => {
            let allowed = "an absolute path, the agent's --run-dir";
            Err(CniError::config("runDir", value, allowed))
        }
    }
}

fn mtu(fields: &Map<String, Value>) -> Result<Option<u16>, CniError> {
    let value = field(fields, "mtu");
    // 0 means the plugin's own choice, as for the reference plugins.
    if value.is_null() || value.as_u64() == Some(0) {
        return Ok(None);
    }
    let number = value.as_u64().filter(|mtu| *mtu >= MIN_MTU);
    match number.and_then(|mtu| u16::try_from(mtu).ok()) {
        Some(mtu) => Ok(Some(mtu)),
        None => Err(CniError::config("mtu", value, "1280 to the node's pod MTU")),
    }
}

/// The capability `portMappings`, as the plugin `portmap` has it: entries whose `hostPort` is 0 ask for nothing.
fn port_mappings(fields: &Map<String, Value>) -> Result<Vec<PortMapping>, CniError> {
    const FIELD: &str = "runtimeConfig.portMappings";
    let value = fields
        .get("runtimeConfig")
        .and_then(|c| c.get("portMappings"));
    let value = value.unwrap_or(&Value::Null);
    let allowed = "a list of {hostPort, containerPort, protocol, hostIP}";
    let wrong = |_| CniError::config(FIELD, value, allowed);
    let listed = Option::<Vec<Map<String, Value>>>::deserialize(value).map_err(wrong)?;
    let mut mappings = Vec::new();
    for (at, entry) in listed.unwrap_or_default().iter().enumerate() {
        mappings.extend(port_mapping(&format!("{FIELD}[{at}]"), entry)?);
    }
    Ok(mappings)
}

fn port_mapping(place: &str, entry: &Map<String, Value>) -> Result<Option<PortMapping>, CniError> {
    let wrong = |name: &str, allowed: &str| {
        CniError::config(&format!("{place}.{name}"), field(entry, name), allowed)
    };
    let port = |name: &str| {
        let number = field(entry, name).as_u64();
        number
            .and_then(|n| u16::try_from(n).ok())
            .ok_or_else(|| wrong(name, "1 to 65535"))
    };
    let host_port = port("hostPort")?;
    if host_port == 0 {
        return Ok(None);
    }
    let container_port = port("containerPort")?;
    if container_port == 0 {
        return Err(wrong("containerPort", "1 to 65535"));
    }
    let protocol = match field(entry, "protocol")
        .as_str()
        .map(str::to_ascii_lowercase)
    {
        None if field(entry, "protocol").is_null() => Protocol::Tcp,
        Some(name) if name.is_empty() || name == "tcp" => Protocol::Tcp,
        Some(name) if name == "udp" => Protocol::Udp,
        Some(name) if name == "sctp" => Protocol::Sctp,
        _ => return Err(wrong("protocol", "tcp, udp or sctp")),
    };
    let host_ip = match field(entry, "hostIP").as_str() {
        None if field(entry, "hostIP").is_null() => None,
        Some("") => None,
        text => match text.and_then(|text| text.parse().ok()) {
            Some(ip) => Some(ip),
            None => return Err(wrong("hostIP", "an IP address of the host")),
        },
    };
    Ok(Some(PortMapping {
        host_ip,
        host_port,
        container_port,
        protocol,
    }))
}

/// The capability `bandwidth`, as the plugin of that name has it: `ingress` is what the pod receives, and a
/// direction whose rate and burst are 0 or absent is not limited.
fn bandwidth(fields: &Map<String, Value>) -> Result<Bandwidth, CniError> {
    const FIELD: &str = "runtimeConfig.bandwidth";
    const NAMES: [&str; 4] = ["ingressRate", "ingressBurst", "egressRate", "egressBurst"];
    let value = fields.get("runtimeConfig").and_then(|c| c.get("bandwidth"));
    let limits = match value {
        None | Some(Value::Null) => return Ok(Bandwidth::default()),
        Some(Value::Object(limits)) => limits,
        Some(other) => {
            let allowed = format!("an object with {}", NAMES.join(", "));
            return Err(CniError::config(FIELD, other, &allowed));
        }
    };
    if let Some((key, value)) = limits
        .iter()
        .find(|(key, _)| !NAMES.contains(&key.as_str()))
    {
        let advice = format!("the fields are {}", NAMES.join(", "));
        return Err(CniError::unsupported(
            &format!("{FIELD}.{key}"),
            value,
            &advice,
        ));
    }
    let [ingress_rate, ingress_burst, egress_rate, egress_burst] = NAMES;
    Ok(Bandwidth {
        to_pod: rate(FIELD, limits, ingress_rate, ingress_burst)?,
        from_pod: rate(FIELD, limits, egress_rate, egress_burst)?,
    })
}

fn rate(
    place: &str,
    limits: &Map<String, Value>,
    rate_name: &str,
    burst_name: &str,
) -> Result<Option<Rate>, CniError> {
    /// One byte per second, and the reference plugin's 4 GiB.
    const LEAST_RATE: u64 = 8;
    const MOST_BURST: u64 = u32::MAX as u64 * 8;
    let wrong = |name: &str, allowed: &str| {
        CniError::config(&format!("{place}.{name}"), field(limits, name), allowed)
    };
    let number = |name: &str| {
        let value = field(limits, name);
        let number = if value.is_null() {
            Some(0)
        } else {
            value.as_u64()
        };
        number.ok_or_else(|| wrong(name, "a whole number of bits, 0 to 18446744073709551615"))
    };
    let (rate, burst) = (number(rate_name)?, number(burst_name)?);
    match (rate, burst) {
        (0, 0) => Ok(None),
        (0, _) => Err(wrong(rate_name, "with a burst: 8 bits per second or more")),
        (_, 0) => Err(wrong(burst_name, "with a rate: 1 to 34359738360 bits")),
        (1..LEAST_RATE, _) => Err(wrong(rate_name, "8 bits per second or more")),
        (_, burst) if burst > MOST_BURST => Err(wrong(burst_name, "1 to 34359738360 bits")),
        (rate, burst) => Ok(Some(Rate { rate, burst })),
    }
}

/// The capability `dns` comes before the configuration's own field.
fn dns(fields: &Map<String, Value>) -> Result<Option<Dns>, CniError> {
    let allowed = "nameservers (IP addresses), domain, search, options";
    let capability = fields.get("runtimeConfig").and_then(|c| c.get("dns"));
    for (name, value) in [
        ("runtimeConfig.dns", capability.unwrap_or(&Value::Null)),
        ("dns", field(fields, "dns")),
    ] {
        if !value.is_null() {
            let dns = Dns::deserialize(value);
            return dns
                .map(Some)
                .map_err(|e| CniError::config(name, value, allowed).with_details(e.to_string()));
        }
    }
    Ok(None)
}

fn prev_result(fields: &Map<String, Value>) -> Result<Option<Map<String, Value>>, CniError> {
    let value = field(fields, "prevResult");
    match value.as_object() {
        Some(result) => Ok(Some(result.clone())),
        None if value.is_null() => Ok(None),
        None => Err(CniError::config("prevResult", value, "a CNI result")),
    }
}

/// That the list is absent is an error, because taking it for an empty one would detach every
/// container. A runtime without containers sends an empty list, or null.
fn valid_attachments(fields: &Map<String, Value>) -> Result<Vec<Key>, CniError> {
    #[derive(Deserialize)]
    struct Valid {
        #[serde(rename = "containerID")]
        container_id: String,
        ifname: String,
    }
    const FIELD: &str = "cni.dev/valid-attachments";
    let allowed = r#"a list of {"containerID": ..., "ifname": ...}"#;
    let Some(value) = fields.get(FIELD) else {
        return Err(CniError::config(FIELD, &Value::Null, allowed));
    };
    let listed = Option::<Vec<Valid>>::deserialize(value);
    let listed =
        listed.map_err(|e| CniError::config(FIELD, value, allowed).with_details(e.to_string()))?;
    let key = |valid: Valid| Key {
        container_id: valid.container_id,
        ifname: valid.ifname,
    };
    Ok(listed.unwrap_or_default().into_iter().map(key).collect())
}

/// A field that would be ignored is refused: who writes it believes that it does something.
fn refuse_unknown(fields: &Map<String, Value>) -> Result<(), CniError> {
    for (key, value) in fields {
        if !KNOWN.contains(&key.as_str()) && !key.contains('/') {
            let advice = format!("the fields are {}", KNOWN.join(", "));
            return Err(CniError::unsupported(key, value, &advice));
        }
    }
    let ipam = field(fields, "ipam");
    if !ipam.is_null() && ipam.as_object().is_none_or(|ipam| !ipam.is_empty()) {
        let advice = "Oxlan numbers pods from the node's pod CIDR itself, leave it out";
        return Err(CniError::unsupported("ipam", ipam, advice));
    }
    let capabilities = field(fields, "runtimeConfig").as_object();
    for (key, value) in capabilities.into_iter().flatten() {
        if !CAPABILITIES.contains(&key.as_str()) && !key.starts_with("io.kubernetes.") {
            let advice =
                "the capabilities are bandwidth, dns and portMappings; chain a plugin for others";
            let field = format!("runtimeConfig.{key}");
            return Err(CniError::unsupported(&field, value, advice));
        }
    }
    Ok(())
}

fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> &'a Value {
    fields.get(name).unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests;
