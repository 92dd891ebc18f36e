//! One subnet in etcd as Flannel writes it: the key names the subnet, the value the node that has it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Map, Value, json};

use crate::cluster::flannel::{BackendData, VXLAN};
use crate::cluster::problem::{Problems, shortened};
use crate::cluster::{Network, NodeSpec, Problem, Vni, Vtep};

/// Longer values than this are not looked at; Flannel's have some 200 bytes.
const LONGEST: usize = 4096;

/// The name of a key below `subnets/`: `10.244.1.0-24`, with IPv6 `10.244.1.0-24&fd00:10:244:1::-64`
/// (Flannel, pkg/subnet/subnet.go, `MakeSubnetKey`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// Its IPv4 part, which is always there.
    pub v4: Ipv4Net,
    /// Its IPv6 part.
    pub v6: Option<Ipv6Net>,
}

impl Subnet {
    /// The subnet of a key's name.
    ///
    /// # Errors
    /// When it names none.
    pub fn parse(name: &str) -> Result<Self, Problem> {
        let part = |text: &str| text.rsplit_once('-').map(|(a, len)| format!("{a}/{len}"));
        let (v4, v6) = match name.split_once('&') {
            Some((v4, v6)) => (v4, Some(v6)),
            None => (name, None),
        };
        let v4 = part(v4).and_then(|text| text.parse::<Ipv4Net>().ok());
        let v6 = v6.map(|v6| part(v6).and_then(|text| text.parse::<Ipv6Net>().ok()));
        match (v4, v6) {
            (Some(v4), None) => Ok(Self { v4, v6: None }),
            (Some(v4), Some(Some(v6))) => Ok(Self { v4, v6: Some(v6) }),
            _ => Err(Problem {
                place: format!("subnet {:?}", shortened(name)),
                value: None,
                wanted: "a name as 10.244.1.0-24 or 10.244.1.0-24&fd00:10:244:1::-64 is wanted"
                    .into(),
            }),
        }
    }

    /// From prefixes, one per family.
    #[must_use]
    pub fn of(prefixes: &[IpNet]) -> Option<Self> {
        let v4 = prefixes.iter().find_map(|p| match p {
            IpNet::V4(v4) => Some(*v4),
            IpNet::V6(_) => None,
        });
        let v6 = prefixes.iter().find_map(|p| match p {
            IpNet::V6(v6) => Some(*v6),
            IpNet::V4(_) => None,
        });
        v4.map(|v4| Self { v4, v6 })
    }

    /// The name of its key.
    #[must_use]
    pub fn name(&self) -> String {
        let v4 = format!("{}-{}", self.v4.addr(), self.v4.prefix_len());
        match self.v6 {
            None => v4,
            Some(v6) => format!("{v4}&{}-{}", v6.addr(), v6.prefix_len()),
        }
    }

    /// Its prefixes, IPv4 first.
    #[must_use]
    pub fn prefixes(&self) -> Vec<IpNet> {
        let v6 = self.v6.map(IpNet::V6);
        [IpNet::V4(self.v4)].into_iter().chain(v6).collect()
    }

    /// Whether it shares an address with another one.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let v4 = self.v4.contains(&other.v4) || other.v4.contains(&self.v4);
        let v6 = self.v6.zip(other.v6);
        v4 || v6.is_some_and(|(a, b)| a.contains(&b) || b.contains(&a))
    }
}

/// The value of a subnet's key (Flannel, pkg/lease/lease.go, `LeaseAttrs`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its IPv4 address on the underlay.
    pub public_v4: Option<Ipv4Addr>,
    /// Its IPv6 address on the underlay.
    pub public_v6: Option<Ipv6Addr>,
    /// Flannel's name of its backend; empty if it names none.
    pub backend: String,
    /// Its VTEP for IPv4.
    pub data_v4: Option<BackendData>,
    /// Its VTEP for IPv6.
    pub data_v6: Option<BackendData>,
}

impl Holder {
    /// Reads a value; `place` says in problems where it stands.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(value: &[u8], place: &str) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::default();
        let wanted = "an object as {\"PublicIP\":\"192.168.50.1\",\"BackendType\":\"vxlan\",\"BackendData\":{...}} is wanted";
        let read = if value.len() > LONGEST {
            let length = format!("it has {} bytes: at most {LONGEST} are read", value.len());
            problems.place(place, length);
            None
        } else if let Ok(Value::Object(fields)) = serde_json::from_slice(value) {
            Some(read(&fields, place, &mut problems))
        } else {
            let text = String::from_utf8_lossy(value);
            problems.value(place, format_args!("{:?}", shortened(&text)), wanted);
            None
        };
        match (read, problems.into_vec()) {
            (Some(holder), problems) if problems.is_empty() => Ok(holder),
            (_, problems) => Err(problems),
        }
    }

    /// As Flannel writes it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let public_v4 = self.public_v4.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let mut value = json!({
            "PublicIP": public_v4.to_string(),
            "PublicIPv6": self.public_v6.map(|a| a.to_string()),
            "BackendType": self.backend,
        });
        let data = [
            ("BackendData", self.data_v4),
            ("BackendV6Data", self.data_v6),
        ];
        for (field, data) in data {
            if let Some(data) = data {
                value[field] = data.to_value();
            }
        }
        value.to_string()
    }

    /// Whether it has one of these addresses.
    #[must_use]
    pub fn is_at(&self, underlay: &[IpAddr]) -> bool {
        let here = |a: Option<IpAddr>| a.is_some_and(|a| underlay.contains(&a));
        here(self.public_v4.map(IpAddr::V4)) || here(self.public_v6.map(IpAddr::V6))
    }

    /// What people know it by.
    #[must_use]
    pub fn address(&self) -> String {
        let v4 = self.public_v4.map(IpAddr::V4);
        let address = v4.or(self.public_v6.map(IpAddr::V6));
        address.map_or_else(|| "nobody".to_owned(), |a| a.to_string())
    }

    /// As a node of the cluster, named by its address; `none` if it is one of another backend, which
    /// this one has nothing to do with.
    ///
    /// # Errors
    /// Everything that keeps packets from getting there.
    pub fn node(
        &self,
        subnet: &Subnet,
        network: &Network,
    ) -> Result<Option<NodeSpec>, Vec<Problem>> {
        if self.backend != VXLAN {
            return Ok(None);
        }
        let name = self.address();
        let mut problems = Problems::default();
        let mut vteps = Vec::new();
        let v4 = (
            self.public_v4.map(IpAddr::V4),
            self.data_v4.or(self.data_v6),
            "BackendData",
        );
        let v6 = (
            self.public_v6.map(IpAddr::V6),
            self.data_v6.or(self.data_v4),
            "BackendV6Data",
        );
        for (address, data, field) in [v4, v6] {
            let Some(underlay) = address else { continue };
            let place = format!("subnet {} of {name} {field}", subnet.name());
            match data {
                None => problems.place(&place, "this field is missing"),
                Some(data) if data.vni.is_some_and(|vni| vni != network.vni) => {
                    let vni = data.vni.map_or(0, Vni::get);
                    let wanted = format!("{} is wanted, the network's", network.vni);
                    problems.value(&format!("{place} VNI"), vni, wanted);
                }
                Some(data) => vteps.push(Vtep {
                    underlay,
                    mac: data.vtep_mac,
                }),
            }
        }
        match problems.into_vec() {
            none if none.is_empty() => Ok(Some(NodeSpec {
                // An IPv6 address has colons, which names have not.
                name: name.replace(':', "-"),
                pod_cidrs: subnet.prefixes(),
                vteps,
            })),
            problems => Err(problems),
        }
    }
}

fn read(fields: &Map<String, Value>, place: &str, problems: &mut Problems) -> Holder {
    let field = |name: &str| fields.get(name).filter(|v| !v.is_null());
    let mut address = |name: &str| -> Option<Value> {
        let value = field(name)?.clone();
        let parsed = value.as_str().and_then(|t| t.parse::<IpAddr>().ok());
        let right = parsed.is_some_and(|a| a.is_ipv4() == (name == "PublicIP"));
        if !right {
            let text = shortened(&value.to_string());
            problems.value(&format!("{place} {name}"), text, "an IP address is wanted");
        }
        Some(value).filter(|_| right)
    };
    let public_v4 = address("PublicIP").and_then(|v| v.as_str()?.parse().ok());
    let public_v6 = address("PublicIPv6").and_then(|v| v.as_str()?.parse().ok());
    // Flannel writes 0.0.0.0 where there is none.
    let public_v4 = public_v4.filter(|a: &Ipv4Addr| !a.is_unspecified());
    let public_v6 = public_v6.filter(|a: &Ipv6Addr| !a.is_unspecified());
    if problems.is_empty() && public_v4.is_none() && public_v6.is_none() {
        problems.place(&format!("{place} PublicIP"), "this field is missing");
    }
    let backend = field("BackendType").map_or(Some(""), Value::as_str);
    if backend.is_none() {
        problems.place(&format!("{place} BackendType"), "a text is wanted");
    }
    let backend = shortened(backend.unwrap_or_default());
    let mut data = |name: &str| {
        // Another backend's data has another form.
        let value = field(name).filter(|_| backend == VXLAN)?;
        match BackendData::read(value, &format!("{place} {name}")) {
            Ok(data) => Some(data),
            Err(wrong) => {
                problems.extend(wrong);
                None
            }
        }
    };
    Holder {
        public_v4,
        public_v6,
        data_v4: data("BackendData"),
        data_v6: data("BackendV6Data"),
        backend,
    }
}

#[cfg(test)]
mod tests;
