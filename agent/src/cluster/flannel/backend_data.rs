//! What a node with Flannel's VXLAN backend announces of its VTEP: the annotations `backend-data`
//! and `backend-v6-data` of a Kubernetes Node, and the like fields of a lease in etcd.

use oxlan_common::addr::Mac;
use oxlan_common::wire::MAX_VNI;
use serde_json::{Map, Value};

use crate::cluster::problem::{Problems, shortened};
use crate::cluster::{Problem, Vni};

/// The VTEP of one family: `{"VNI":1,"VtepMAC":"0e:00:c0:a8:32:01"}`
/// (Flannel, pkg/backend/vxlan/vxlan.go, `vxlanLeaseAttrs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendData {
    /// Its VNI; none where an old Flannel wrote none.
    pub vni: Option<Vni>,
    /// Its MAC.
    pub vtep_mac: Mac,
}

impl BackendData {
    /// Reads a text; `place` says in problems where it stands. Unknown fields are a later Flannel's, and ignored.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, place: &str) -> Result<Self, Vec<Problem>> {
        match serde_json::from_str(text) {
            Ok(value) => Self::read(&value, place),
            Err(error) => {
                let mut problems = Problems::default();
                problems.value(place, shortened(text), format!("{WANTED}: {error}"));
                Err(problems.into_vec())
            }
        }
    }

    /// The same for what is JSON already.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(value: &Value, place: &str) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::default();
        let read = match value.as_object() {
            Some(fields) => read(fields, place, &mut problems),
            None => {
                problems.value(place, shortened(&value.to_string()), WANTED);
                None
            }
        };
        read.ok_or_else(|| problems.into_vec())
    }

    /// As Flannel writes it.
    #[must_use]
    pub fn to_value(self) -> Value {
        serde_json::json!({
            "VNI": self.vni.unwrap_or(Vni::DEFAULT).get(),
            "VtepMAC": self.vtep_mac.to_string(),
        })
    }

    /// The same as a text.
    #[must_use]
    pub fn to_text(self) -> String {
        self.to_value().to_string()
    }
}

const WANTED: &str = "an object as {\"VNI\":1,\"VtepMAC\":\"0e:00:c0:a8:32:01\"} is wanted";

fn read(fields: &Map<String, Value>, place: &str, problems: &mut Problems) -> Option<BackendData> {
    let vni = match fields.get("VNI") {
        None => Some(None),
        Some(value) => {
            let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
            let vni = number.and_then(|n| Vni::new(n).ok());
            if vni.is_none() {
                let wanted = format!("a whole number from 0 to {MAX_VNI} is wanted");
                problems.value(
                    &format!("{place} VNI"),
                    shortened(&value.to_string()),
                    wanted,
                );
            }
            vni.map(Some)
        }
    };
    let mac = mac(fields.get("VtepMAC"), &format!("{place} VtepMAC"), problems);
    Some(BackendData {
        vni: vni?,
        vtep_mac: mac?,
    })
}

fn mac(value: Option<&Value>, place: &str, problems: &mut Problems) -> Option<Mac> {
    let Some(value) = value else {
        problems.place(place, "this field is missing");
        return None;
    };
    let wanted = match value.as_str().map(str::parse::<Mac>) {
        Some(Ok(mac)) if mac.is_multicast() || mac == Mac::ZERO => {
            "a unicast MAC is wanted".to_owned()
        }
        Some(Ok(mac)) => return Some(mac),
        Some(Err(invalid)) => invalid.to_string(),
        None => oxlan_common::addr::InvalidMac.to_string(),
    };
    problems.value(place, shortened(&value.to_string()), wanted);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flannels_own_text_is_read_and_written() {
        let text = r#"{"VNI":1,"VtepMAC":"02:0a:00:00:00:01"}"#;
        let data = BackendData::parse(text, "backend-data").unwrap();
        assert_eq!(data.vni, Some(Vni::DEFAULT));
        assert_eq!(data.to_text(), text);
        let old = BackendData::parse(r#"{"VtepMAC":"02:0a:00:00:00:01","Later":[]}"#, "x").unwrap();
        assert_eq!((old.vni, old.vtep_mac), (None, data.vtep_mac));
    }

    #[test]
    fn each_wrong_field_is_named() {
        let long = format!("\"{}\"", "x".repeat(1 << 20));
        for (text, expected) in [
            ("", "backend-data = : an object"),
            ("null", "backend-data = null: an object"),
            ("[1]", "backend-data = [1]: an object"),
            ("{\"VNI\":1}", "backend-data VtepMAC: this field is missing"),
            (
                r#"{"VtepMAC":"02:0a"}"#,
                "backend-data VtepMAC = \"02:0a\": ",
            ),
            (r#"{"VtepMAC":7}"#, "backend-data VtepMAC = 7: "),
            (
                r#"{"VtepMAC":"00:00:00:00:00:00"}"#,
                "a unicast MAC is wanted",
            ),
            (
                r#"{"VtepMAC":"01:00:5e:00:00:01"}"#,
                "a unicast MAC is wanted",
            ),
            (
                r#"{"VNI":16777216,"VtepMAC":"02:0a:00:00:00:01"}"#,
                "backend-data VNI = 16777216: a whole number from 0 to 16777215 is wanted",
            ),
            (
                r#"{"VNI":-1,"VtepMAC":"02:0a:00:00:00:01"}"#,
                "backend-data VNI = -1: ",
            ),
            (
                r#"{"VNI":"1","VtepMAC":"02:0a:00:00:00:01"}"#,
                "backend-data VNI = \"1\": ",
            ),
            (&long, "...: an object"),
        ] {
            let problems = BackendData::parse(text, "backend-data").unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            let said = problems[0].to_string();
            assert!(said.contains(expected), "{said}");
            assert!(said.len() < 400, "{} bytes", said.len());
        }
    }
}
