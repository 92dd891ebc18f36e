//! The server's Nodes, their history, and those who watch it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;

use serde_json::{Value, json};
use tokio::sync::mpsc;

/// A line of a watch, or its sudden end.
pub(super) type Line = Result<String, io::Error>;

/// See the module's comment.
#[derive(Default)]
pub(super) struct Nodes {
    version: u64,
    nodes: BTreeMap<String, Value>,
    /// Events with the version that they led to.
    history: Vec<(u64, String)>,
    /// Versions before this one are forgotten.
    oldest: u64,
    watches: Vec<mpsc::UnboundedSender<Line>>,
}

/// A page of a list.
pub(super) struct Page {
    pub(super) items: Vec<Value>,
    /// Where the next page goes on.
    pub(super) next: Option<String>,
    pub(super) version: u64,
}

impl Nodes {
    pub(super) fn get(&self, name: &str) -> Option<Value> {
        self.nodes.get(name).cloned()
    }

    pub(super) fn put(&mut self, mut node: Value) {
        let name = node["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        self.version += 1;
        let metadata = &mut node["metadata"];
        metadata["resourceVersion"] = self.version.to_string().into();
        if metadata["creationTimestamp"].is_null() {
            // Each one a second younger than the one before.
            let (hours, rest) = (self.version / 3600, self.version % 3600);
            let time = format!("2026-01-01T{hours:02}:{:02}:{:02}Z", rest / 60, rest % 60);
            metadata["creationTimestamp"] = time.into();
        }
        let known = self.nodes.insert(name, node.clone()).is_some();
        self.happened(if known { "MODIFIED" } else { "ADDED" }, &node);
    }

    pub(super) fn delete(&mut self, name: &str) {
        if let Some(mut node) = self.nodes.remove(name) {
            self.version += 1;
            node["metadata"]["resourceVersion"] = self.version.to_string().into();
            self.happened("DELETED", &node);
        }
    }

    fn happened(&mut self, kind: &str, node: &Value) {
        self.history.push((self.version, line(kind, node)));
        self.send(kind, node);
    }

    pub(super) fn send(&mut self, kind: &str, object: &Value) {
        let line = line(kind, object);
        self.watches.retain(|w| w.send(Ok(line.clone())).is_ok());
    }

    /// Up to `limit` Nodes after the one that is named.
    pub(super) fn page(&self, limit: usize, after: Option<&str>) -> Page {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.nodes.range::<str, _>((from, Bound::Unbounded));
        let chosen: Vec<(&String, &Value)> = rest.by_ref().take(limit).collect();
        let last = chosen.last().map(|(name, _)| (*name).clone());
        Page {
            items: chosen.into_iter().map(|(_, node)| node.clone()).collect(),
            next: rest.next().and(last),
            version: self.version,
        }
    }

    /// What happens after a version.
    pub(super) fn watch(&mut self, version: u64) -> mpsc::UnboundedReceiver<Line> {
        let (sender, receiver) = mpsc::unbounded_channel();
        if version < self.oldest {
            let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410,
                "reason": "Expired", "message": "too old resource version"});
            let _ = sender.send(Ok(line("ERROR", &gone)));
            return receiver;
        }
        let start = self.history.partition_point(|(at, _)| *at <= version);
        for (_, line) in self.history.get(start..).unwrap_or_default() {
            let _ = sender.send(Ok(line.clone()));
        }
        self.watches.push(sender);
        receiver
    }

    pub(super) fn watches(&mut self) -> usize {
        self.watches.retain(|w| !w.is_closed());
        self.watches.len()
    }

    pub(super) fn end_watches(&mut self) {
        self.watches.clear();
    }

    pub(super) fn break_watches(&mut self) {
        for watch in self.watches.drain(..) {
            let _ = watch.send(Err(io::ErrorKind::ConnectionReset.into()));
        }
    }

    pub(super) fn compact(&mut self) {
        self.version += 1;
        self.oldest = self.version;
        self.history.clear();
    }

    /// A strategic merge patch of annotations and conditions.
    pub(super) fn patch(&mut self, name: &str, patch: &Value) -> Option<Value> {
        let mut node = self.nodes.get(name)?.clone();
        if let Some(changes) = patch["metadata"]["annotations"].as_object() {
            if !node["metadata"]["annotations"].is_object() {
                node["metadata"]["annotations"] = json!({});
            }
            let annotations = node["metadata"]["annotations"].as_object_mut()?;
            for (key, value) in changes {
                if value.is_null() {
                    annotations.remove(key);
                } else {
                    annotations.insert(key.clone(), value.clone());
                }
            }
        }
        for change in patch["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
        {
            if !node["status"]["conditions"].is_array() {
                node["status"]["conditions"] = json!([]);
            }
            let conditions = node["status"]["conditions"].as_array_mut()?;
            conditions.retain(|c| c["type"] != change["type"]);
            conditions.push(change.clone());
        }
        self.put(node);
        self.get(name)
    }
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}
