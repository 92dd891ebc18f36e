//! The field `Backend`: how packets get from node to node.

use std::net::IpAddr;

use oxlan_common::addr::{Addr, Mac};
use oxlan_common::wire::{DEFAULT_PORT, DEFAULT_VNI, MAX_VNI};

use super::super::VXLAN;
use super::fields::Fields;
use crate::cluster::problem::Problems;
use crate::cluster::{Vni, derived_vtep_mac};

/// What Flannel's VXLAN backend is told (pkg/backend/vxlan/vxlan.go).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// VXLAN network identifier.
    pub vni: Vni,
    /// VXLAN port, UDP.
    pub port: u16,
    /// Whether nodes on one network reach each other without encapsulation.
    pub direct_routing: bool,
    /// First two bytes of every VTEP's MAC, if they are given.
    pub mac_prefix: Option<[u8; 2]>,
}

impl Backend {
    /// MAC of the own VTEP, for a node that has announced none yet.
    #[must_use]
    pub fn vtep_mac(&self, underlay: IpAddr) -> Mac {
        match self.mac_prefix {
            None => derived_vtep_mac(underlay),
            Some([first, second]) => {
                let [a, b, c, d] = Addr::from(underlay).low_bytes();
                Mac::new([first, second, a, b, c, d])
            }
        }
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            vni: Vni::DEFAULT,
            port: DEFAULT_PORT,
            direct_routing: false,
            mac_prefix: None,
        }
    }
}

const WANTED: &str = "{\"Type\": \"vxlan\"} is wanted";

/// What can be understood; whatever cannot is noted.
pub(super) fn read(fields: &mut Fields, problems: &mut Problems) -> Backend {
    let Some(value) = fields.take("Backend") else {
        let wanted = format!(
            "this field is missing, which is the backend \"udp\" to Flannel; Oxlan has only vxlan: {WANTED}"
        );
        problems.place("Backend", wanted);
        return Backend::default();
    };
    if !value.is_object() {
        problems.value("Backend", super::fields::shown(&value), WANTED);
        return Backend::default();
    }
    match Fields::of(value, "Backend ", problems) {
        Some(options) => read_options(options, problems),
        None => Backend::default(),
    }
}

fn read_options(mut options: Fields, problems: &mut Problems) -> Backend {
    if !is_vxlan(&mut options, problems) {
        // Options of another backend say nothing about this one.
        return Backend::default();
    }
    let vni = options.number("VNI", 0..=MAX_VNI, problems);
    let port = options.number("Port", 0..=u32::from(u16::MAX), problems);
    let port = port.and_then(|p| u16::try_from(p).ok());
    let backend = Backend {
        vni: Vni::new(vni.unwrap_or(DEFAULT_VNI)).unwrap_or(Vni::DEFAULT),
        port: port.filter(|p| *p > 0).unwrap_or(DEFAULT_PORT),
        direct_routing: options.flag("DirectRouting", false, problems),
        mac_prefix: mac_prefix(&mut options, problems),
    };
    must_be_off(&mut options, "GBP", "group policies", problems);
    must_be_off(
        &mut options,
        "Learning",
        "learning from packets, because every VTEP is known",
        problems,
    );
    if options.number("MTU", 0..=u32::from(u16::MAX), problems) > Some(0) {
        problems.place(
            "Backend MTU",
            "0 or no such field is wanted: the MTU follows the uplink's",
        );
    }
    options.reject_others(problems);
    backend
}

fn is_vxlan(options: &mut Fields, problems: &mut Problems) -> bool {
    let place = options.place("Type");
    let wanted = "\"vxlan\" is wanted, the only backend that Oxlan has";
    let Some(kind) = options.take("Type") else {
        problems.place(&place, format!("this field is missing; {wanted}"));
        return false;
    };
    let right = kind
        .as_str()
        .is_some_and(|kind| kind.eq_ignore_ascii_case(VXLAN));
    if !right {
        problems.value(&place, super::fields::shown(&kind), wanted);
    }
    right
}

fn must_be_off(options: &mut Fields, name: &str, what: &str, problems: &mut Problems) {
    if options.flag(name, false, problems) {
        let wanted = format!("false is wanted: Oxlan has no {what}");
        problems.value(&options.place(name), "true", wanted);
    }
}

/// Two bytes as `0E-2A`.
fn mac_prefix(options: &mut Fields, problems: &mut Problems) -> Option<[u8; 2]> {
    let wanted = "the first two bytes of a unicast MAC are wanted, as \"0E-2A\"";
    let text = options.text("MacPrefix", wanted, problems)?;
    let byte = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_hexdigit());
        u8::from_str_radix(text, 16).ok().filter(|_| digits)
    };
    let parsed = text.split_once('-');
    let parsed = parsed.and_then(|(first, second)| Some([byte(first)?, byte(second)?]));
    let parsed = parsed.filter(|[first, _]| first & 1 == 0);
    if parsed.is_none() {
        let text = super::fields::shown(&text.into());
        problems.value(&options.place("MacPrefix"), text, wanted);
    }
    parsed
}
