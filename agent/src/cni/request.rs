//! What the runtime says: a verb, environment variables, the configuration.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CniError, Version, code};
use crate::pods::Key;

/// What a runtime asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach a container.
    Add,
    /// Detach a container.
    Del,
    /// Is the attachment as it was made?
    Check,
    /// Detach everything that is not listed.
    Gc,
    /// Can containers be attached?
    Status,
}

impl Verb {
    /// Every verb that the agent answers. VERSION is answered by the plugin alone.
    pub const ALL: &[Self] = &[Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status];

    /// As it stands in `CNI_COMMAND`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }

    /// Where the agent answers it.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Add => "/v1/cni/add",
            Self::Del => "/v1/cni/del",
            Self::Check => "/v1/cni/check",
            Self::Gc => "/v1/cni/gc",
            Self::Status => "/v1/cni/status",
        }
    }

    /// The version that brought it.
    #[must_use]
    pub const fn since(self) -> Version {
        match self {
            Self::Add | Self::Del => Version::V0_3_1,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }

    /// Whether it is about one container.
    const fn has_container(self) -> bool {
        match self {
            Self::Add | Self::Del | Self::Check => true,
            Self::Gc | Self::Status => false,
        }
    }
}

/// Body of a POST to `/v1/cni/`. Absent strings are empty, as unset variables are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// `CNI_CONTAINERID`
    #[serde(default)]
    pub container_id: String,
    /// `CNI_NETNS`; may be empty for DEL.
    #[serde(default)]
    pub netns: String,
    /// `CNI_IFNAME`
    #[serde(default)]
    pub ifname: String,
    /// `CNI_ARGS`
    #[serde(default)]
    pub args: String,
    /// The network configuration, as it came on standard input.
    pub config: Value,
}

impl Request {
    /// Checks the variables that `verb` needs (section 2, "Parameters").
    ///
    /// # Errors
    /// [`code::INVALID_ENVIRONMENT`], naming the variable.
    pub fn validate(&self, verb: Verb) -> Result<(), CniError> {
        if !verb.has_container() {
            return Ok(());
        }
        if !is_container_id(&self.container_id) {
            return Err(CniError::environment(
                "CNI_CONTAINERID",
                &self.container_id,
                "a letter or digit, then up to 199 letters, digits, and _ . -",
            ));
        }
        if !is_ifname(&self.ifname) {
            return Err(CniError::environment(
                "CNI_IFNAME",
                &self.ifname,
                "1 to 15 characters, no space, / or :, neither . nor ..",
            ));
        }
        if verb != Verb::Del && self.netns.is_empty() {
            let allowed = "path of the container's network namespace";
            return Err(CniError::environment("CNI_NETNS", "", allowed));
        }
        Ok(())
    }

    /// What identifies the attachment.
    #[must_use]
    pub fn key(&self) -> Key {
        Key {
            container_id: self.container_id.clone(),
            ifname: self.ifname.clone(),
        }
    }
}

/// Whether a verb exists in the version of the configuration.
pub(super) fn require_version(verb: Verb, version: Version) -> Result<(), CniError> {
    if version >= verb.since() {
        return Ok(());
    }
    let msg = format!(
        "{} exists since CNI {}, but the network configuration's cniVersion is {version}",
        verb.name(),
        verb.since()
    );
    Err(CniError::new(code::INCOMPATIBLE_VERSION, msg))
}

/// The specification's form, and short enough for a file name.
fn is_container_id(id: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    id.len() <= 200 && id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.chars().all(inner)
}

/// The kernel's rules (`dev_valid_name` in net/core/dev.c).
fn is_ifname(name: &str) -> bool {
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':');
    !name.is_empty() && name.len() < 16 && !matches!(name, "." | "..") && !name.contains(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            container_id: "c1".into(),
            netns: "/run/netns/c1".into(),
            ifname: "eth0".into(),
            ..Request::default()
        }
    }

    #[test]
    fn each_variable_is_named_when_it_is_wrong() {
        let change = |change: fn(&mut Request)| {
            let mut request = request();
            change(&mut request);
            request
        };
        for (variable, request) in [
            ("CNI_CONTAINERID", change(|r| r.container_id.clear())),
            (
                "CNI_CONTAINERID",
                change(|r| r.container_id = "../x".into()),
            ),
            ("CNI_CONTAINERID", change(|r| r.container_id = "a@b".into())),
            (
                "CNI_CONTAINERID",
                change(|r| r.container_id = "a".repeat(201)),
            ),
            ("CNI_IFNAME", change(|r| r.ifname.clear())),
            (
                "CNI_IFNAME",
                change(|r| r.ifname = "sixteen-letters-".into()),
            ),
            ("CNI_IFNAME", change(|r| r.ifname = "..".into())),
            ("CNI_IFNAME", change(|r| r.ifname = "a/b".into())),
            ("CNI_NETNS", change(|r| r.netns.clear())),
        ] {
            let error = request.validate(Verb::Add).unwrap_err();
            assert_eq!(error.code, code::INVALID_ENVIRONMENT);
            assert!(error.msg.starts_with(variable), "{error}");
        }
        assert_eq!(request().validate(Verb::Add), Ok(()));
        assert_eq!(change(|r| r.netns.clear()).validate(Verb::Del), Ok(()));
        assert_eq!(Request::default().validate(Verb::Gc), Ok(()));
    }

    #[test]
    fn a_verb_needs_its_version() {
        for verb in Verb::ALL {
            for version in Version::ALL {
                let allowed = require_version(*verb, *version).is_ok();
                assert_eq!(allowed, *version >= verb.since(), "{verb:?} {version}");
            }
        }
    }
}
