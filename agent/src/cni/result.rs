//! The result of ADD (section 5, "Success"), in the form of each version.

use std::net::IpAddr;

use oxlan_common::addr::Mac;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{CniError, NetConf, Version};
use crate::host::veth::gateway_for;
use crate::pods::{Attachment, Expected};

#[derive(Debug, Serialize)]
struct Interface<'a> {
    name: &'a str,
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Ip {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    address: String,
    gateway: IpAddr,
    interface: usize,
}

/// The result for the runtime. What plugins before this one had made stays in front.
pub(super) fn of_attachment(attachment: &Attachment, conf: &NetConf) -> Result<Value, CniError> {
    let mut result = conf.prev_result.clone().unwrap_or_default();
    result.insert("cniVersion".into(), conf.version.name().into());
    // Since 1.1.0 an interface has its MTU; before 1.0.0 an address had its family.
    let mtu = (conf.version >= Version::V1_1_0).then_some(attachment.mtu);
    let host = Interface {
        name: &attachment.host_ifname,
        mac: attachment.host_mac.to_string(),
        mtu,
        sandbox: None,
    };
    let pod = Interface {
        name: &attachment.ifname,
        mac: attachment.mac.to_string(),
        mtu,
        sandbox: Some(&attachment.netns),
    };
    let interfaces = list(&mut result, "interfaces")?;
    interfaces.push(json!(host));
    let index = interfaces.len();
    interfaces.push(json!(pod));
    for address in &attachment.addresses {
        let ip = ip(*address, index, conf.version);
        list(&mut result, "ips")?.push(json!(ip));
        let route = json!({"dst": everything(*address), "gw": gateway_for(*address)});
        list(&mut result, "routes")?.push(route);
    }
    if let Some(dns) = &conf.dns {
        result.insert("dns".into(), json!(dns));
    }
    result.entry("dns").or_insert_with(|| json!({}));
    Ok(Value::Object(result))
}

/// What a previous result says about the interface `ifname` in the namespace.
pub(super) fn expected(
    result: &Map<String, Value>,
    ifname: &str,
    netns: &str,
) -> Result<Expected, CniError> {
    let mut result = result.clone();
    let mut expected = Expected {
        netns: netns.to_owned(),
        ..Expected::default()
    };
    let interfaces = list(&mut result, "interfaces")?;
    let ours = |interface: &Value| {
        let inside = interface["sandbox"]
            .as_str()
            .is_some_and(|sandbox| !sandbox.is_empty());
        inside && interface["name"] == ifname
    };
    let Some(position) = interfaces.iter().position(ours) else {
        return Ok(expected);
    };
    let mac = interfaces
        .get(position)
        .and_then(|interface| interface["mac"].as_str());
    expected.mac = mac.and_then(|mac| mac.parse::<Mac>().ok());
    for ip in list(&mut result, "ips")? {
        if ip["interface"].as_u64() == Some(position as u64) {
            expected.addresses.push(address(ip)?);
        }
    }
    Ok(expected)
}

fn address(ip: &Value) -> Result<IpAddr, CniError> {
    let text = ip["address"].as_str().and_then(|a| a.split('/').next());
    let address = text.and_then(|a| a.parse().ok());
    let wrong = || CniError::config("prevResult.ips.address", &ip["address"], "ADDRESS/LENGTH");
    address.ok_or_else(wrong)
}

fn ip(address: IpAddr, interface: usize, version: Version) -> Ip {
    let (family, length) = match address {
        IpAddr::V4(_) => ("4", 32),
        IpAddr::V6(_) => ("6", 128),
    };
    Ip {
        version: (version < Version::V1_0_0).then_some(family),
        address: format!("{address}/{length}"),
        gateway: gateway_for(address),
        interface,
    }
}

fn everything(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "0.0.0.0/0",
        IpAddr::V6(_) => "::/0",
    }
}

/// A list of the result, which may be absent or null in what another plugin made.
fn list<'a>(
    result: &'a mut Map<String, Value>,
    name: &str,
) -> Result<&'a mut Vec<Value>, CniError> {
    let value = result.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    let shown = value.clone();
    let wrong = || CniError::config(&format!("prevResult.{name}"), &shown, "a list");
    value.as_array_mut().ok_or_else(wrong)
}
