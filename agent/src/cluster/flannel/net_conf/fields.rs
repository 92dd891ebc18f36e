//! The fields of a JSON object, taken one by one; what is left at the end is unknown.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde_json::Value;

use crate::cluster::problem::{Problems, shortened};

/// What has not been taken yet.
pub(super) struct Fields {
    left: Vec<(String, Value)>,
    known: Vec<String>,
    /// Before each name in problems, as `Backend `.
    place: String,
}

impl Fields {
    /// The fields of an object; anything else is a problem.
    pub(super) fn of(value: Value, place: &str, problems: &mut Problems) -> Option<Self> {
        let Value::Object(fields) = value else {
            let wanted = "an object is wanted, as {\"Network\": \"10.244.0.0/16\", \"Backend\": {\"Type\": \"vxlan\"}}";
            problems.value("the text", shown(&value), wanted);
            return None;
        };
        Some(Self {
            left: fields.into_iter().collect(),
            known: Vec::new(),
            place: place.to_owned(),
        })
    }

    /// How a field is called in problems.
    pub(super) fn place(&self, name: &str) -> String {
        format!("{}{name}", self.place)
    }

    /// Takes a field. Go's reader, which Flannel uses, matches names in any case, and takes null for "not there".
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.known.push(name.to_owned());
        let found = self
            .left
            .iter()
            .position(|(n, _)| n.eq_ignore_ascii_case(name));
        let (_, value) = self.left.swap_remove(found?);
        Some(value).filter(|value| !value.is_null())
    }

    pub(super) fn flag(&mut self, name: &str, default: bool, problems: &mut Problems) -> bool {
        match self.take(name) {
            None => default,
            Some(Value::Bool(flag)) => flag,
            Some(other) => {
                problems.value(&self.place(name), shown(&other), "true or false is wanted");
                default
            }
        }
    }

    pub(super) fn number(
        &mut self,
        name: &str,
        allowed: RangeInclusive<u32>,
        problems: &mut Problems,
    ) -> Option<u32> {
        let value = self.take(name)?;
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
        let number = number.filter(|n| allowed.contains(n));
        if number.is_none() {
            let (first, last) = (allowed.start(), allowed.end());
            let wanted = format!("a whole number from {first} to {last} is wanted");
            problems.value(&self.place(name), shown(&value), wanted);
        }
        number
    }

    /// A text; `wanted` is what to say when it is none.
    pub(super) fn text(
        &mut self,
        name: &str,
        wanted: &str,
        problems: &mut Problems,
    ) -> Option<String> {
        let value = self.take(name)?;
        if !value.is_string() {
            problems.value(&self.place(name), shown(&value), wanted);
        }
        value.as_str().map(str::to_owned)
    }

    /// A prefix of one family; bits after it are cleared, as Flannel does.
    pub(super) fn prefix(
        &mut self,
        name: &str,
        is_v4: bool,
        required: bool,
        problems: &mut Problems,
    ) -> Option<IpNet> {
        let example = if is_v4 {
            "10.244.0.0/16"
        } else {
            "fd00:10:244::/48"
        };
        let wanted = format!(
            "an {} prefix is wanted, as \"{example}\"",
            family_name(is_v4)
        );
        let place = self.place(name);
        let Some(value) = self.take(name) else {
            if required {
                problems.place(&place, format!("this field is missing; {wanted}"));
            }
            return None;
        };
        let parsed = value.as_str().and_then(|text| text.parse::<IpNet>().ok());
        let parsed = parsed.filter(|p| matches!(p, IpNet::V4(_)) == is_v4);
        if parsed.is_none() {
            problems.value(&place, shown(&value), wanted);
        }
        parsed.map(|p| p.trunc())
    }

    pub(super) fn address(
        &mut self,
        name: &str,
        is_v4: bool,
        problems: &mut Problems,
    ) -> Option<IpAddr> {
        let value = self.take(name)?;
        let parsed = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
        let parsed = parsed.filter(|a| a.is_ipv4() == is_v4);
        if parsed.is_none() {
            let wanted = format!(
                "an {} address is wanted, the first of a subnet",
                family_name(is_v4)
            );
            problems.value(&self.place(name), shown(&value), wanted);
        }
        parsed
    }

    /// Notes what nobody took: it would silently not be done.
    pub(super) fn reject_others(&self, problems: &mut Problems) {
        for (name, value) in &self.left {
            let known = self.known.join(", ");
            problems.value(
                &self.place(&shortened(name)),
                shown(value),
                format!("Oxlan knows no such option; known are {known}"),
            );
        }
    }
}

/// A foreign value as it stands in a problem.
pub(super) fn shown(value: &Value) -> String {
    shortened(&value.to_string())
}

pub(super) fn family_name(is_v4: bool) -> &'static str {
    if is_v4 { "IPv4" } else { "IPv6" }
}
