//! The part of a Kubernetes Node that matters here. What else a Node has (managed fields, images)
//! is skipped as it is read, so that a page of the list stays small.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::core::ClusterResourceScope;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A Node. Fields that others fill are as they stand there, right or wrong.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    /// Its name and version, which the client asks for.
    meta: ObjectMeta,
    /// Order of its versions; none if the server's are no numbers.
    pub(super) version: Option<u64>,
    /// When it was made, by the API server's clock, seconds since 1970; the far future when it does not say.
    pub(super) made: i64,
    /// `metadata.annotations`.
    pub(super) annotations: Value,
    /// `spec.podCIDRs`, else the one `spec.podCIDR`.
    pub(super) pod_cidrs: Value,
    /// `status.addresses`.
    pub(super) addresses: Value,
    /// `status.conditions`.
    pub(super) conditions: Value,
}

impl Node {
    /// `metadata.name`.
    pub(super) fn name(&self) -> &str {
        self.meta.name.as_deref().unwrap_or_default()
    }

    /// An annotation.
    pub(super) fn annotation(&self, key: &str) -> Option<&Value> {
        self.annotations.get(key)
    }

    /// Whether a list of `status` has an entry whose fields say this.
    pub(super) fn has_condition(&self, fields: &[(&str, &str)]) -> bool {
        let all = self.conditions.as_array().into_iter().flatten();
        all.into_iter().any(|condition| {
            let says = |(key, text): &(&str, &str)| {
                condition.get(key).and_then(Value::as_str) == Some(*text)
            };
            fields.iter().all(says)
        })
    }
}

#[derive(Deserialize)]
struct Raw {
    metadata: RawMetadata,
    #[serde(default)]
    spec: Option<RawSpec>,
    #[serde(default)]
    status: Option<RawStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMetadata {
    name: String,
    #[serde(default)]
    resource_version: Value,
    #[serde(default)]
    creation_timestamp: Value,
    #[serde(default)]
    annotations: Value,
}

#[derive(Deserialize)]
struct RawSpec {
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Value,
    #[serde(default, rename = "podCIDR")]
    pod_cidr: Value,
}

#[derive(Deserialize)]
struct RawStatus {
    #[serde(default)]
    addresses: Value,
    #[serde(default)]
    conditions: Value,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Raw::deserialize(deserializer)?;
        let version = raw.metadata.resource_version.as_str();
        let made = raw.metadata.creation_timestamp.as_str();
        let made = made.and_then(|text| text.parse::<Timestamp>().ok());
        let spec = raw.spec.map(|spec| match (spec.pod_cidrs, spec.pod_cidr) {
            (Value::Null, Value::Null) => Value::Null,
            (Value::Null, one) => Value::Array(vec![one]),
            (all, _) => all,
        });
        let (addresses, conditions) = match raw.status {
            Some(status) => (status.addresses, status.conditions),
            None => (Value::Null, Value::Null),
        };
        Ok(Self {
            version: version.and_then(|text| text.parse().ok()),
            made: made.map_or(i64::MAX, |t| t.as_second()),
            meta: ObjectMeta {
                name: Some(raw.metadata.name),
                resource_version: version.map(str::to_owned),
                ..ObjectMeta::default()
            },
            annotations: raw.metadata.annotations,
            pod_cidrs: spec.unwrap_or_default(),
            addresses,
            conditions,
        })
    }
}

impl Resource for Node {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Node".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "nodes".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_read_and_the_rest_skipped() {
        let node: Node = serde_json::from_str(
            r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"a","resourceVersion":"42",
                "creationTimestamp":"1970-01-01T00:01:00Z","annotations":{"k":"v"},
                "managedFields":[{"fieldsV1":{"f:x":{}}}],"labels":null},
                "spec":{"podCIDR":"10.0.0.0/24","podCIDRs":["10.0.0.0/24","fd00::/64"],"taints":[]},
                "status":{"images":[{"names":["x"]}],"conditions":[{"type":"Ready","status":"True"}]}}"#,
        )
        .unwrap();
        assert_eq!((node.name(), node.version, node.made), ("a", Some(42), 60));
        assert_eq!(node.annotation("k"), Some(&Value::from("v")));
        assert_eq!(node.pod_cidrs.as_array().map(Vec::len), Some(2));
        assert!(node.has_condition(&[("type", "Ready"), ("status", "True")]));
        assert!(!node.has_condition(&[("type", "Ready"), ("status", "False")]));
    }

    #[test]
    fn a_node_with_odd_fields_is_still_a_node() {
        for (text, cidrs) in [
            (r#"{"metadata":{"name":"a"}}"#, Value::Null),
            (
                r#"{"metadata":{"name":"a","annotations":7},"spec":null,"status":null}"#,
                Value::Null,
            ),
            (
                r#"{"metadata":{"name":"a"},"spec":{"podCIDR":"x"}}"#,
                serde_json::json!(["x"]),
            ),
            (
                r#"{"metadata":{"name":"a","resourceVersion":[]},"spec":{"podCIDRs":7}}"#,
                Value::from(7),
            ),
        ] {
            let node: Node = serde_json::from_str(text).unwrap();
            assert_eq!((node.name(), node.version), ("a", None), "{text}");
            assert_eq!(node.pod_cidrs, cidrs, "{text}");
            assert_eq!(node.annotation("k"), None, "{text}");
        }
    }
}
