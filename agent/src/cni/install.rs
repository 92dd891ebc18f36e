//! Puts the plugin and its configuration where a container runtime looks for them, and takes them away.
//!
//! The plugin comes first and the configuration last, each replaced as a whole: a runtime that sees the
//! configuration can call the plugin. The agent's image has no shell that could copy files.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::DEFAULT_RUN_DIR;
use crate::host::files::{self, Durability};

/// The configuration, with the default run directory.
const SHIPPED: &str = include_str!("../../../deploy/10-oxlan.conflist");

/// Name of the configuration's file, if no other is wanted.
pub const CONF_NAME: &str = "10-oxlan.conflist";

/// Name of the plugin's file.
pub const PLUGIN: &str = "oxlan-cni";

/// What is installed, and where.
#[derive(Debug, Clone)]
pub struct Installation {
    /// The plugin to copy.
    pub plugin: PathBuf,
    /// Where the runtime looks for plugins, as `/opt/cni/bin`.
    pub bin_dir: PathBuf,
    /// The configuration, if it is not somebody else who writes it.
    pub conf: Option<Configuration>,
}

/// A network's configuration, by which a runtime knows that there is a network.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Where the runtime looks for configurations, as `/etc/cni/net.d`.
    pub dir: PathBuf,
    /// Name of the file: a runtime takes the first by name.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// Why it could not be installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A step that the system refuses.
    #[error("cannot {action} {path}: is the host's directory mounted there, and writable?")]
    System {
        /// What was to be done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The directory is not there: the runtime looks elsewhere, or the host's is not mounted.
    #[error(
        "{option} {path}: there is no such directory; name the one where the container runtime looks, or make it"
    )]
    NoDirectory {
        /// What names it.
        option: &'static str,
        /// The directory.
        path: PathBuf,
    },
    /// A name that no runtime would read.
    #[error(
        "the configuration's name {name}: a file name that ends in .conflist is wanted, as 10-oxlan.conflist"
    )]
    ConfName {
        /// The name.
        name: String,
    },
    /// A configuration by which no runtime would call the plugin.
    #[error("the CNI configuration {path} {problem}")]
    Conf {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is wanted.
        problem: String,
    },
}

impl Installation {
    /// Installs what is wanted. What is there already and the same is left alone. The files that were written.
    ///
    /// # Errors
    /// When a directory is missing, or the system refuses a step. The configuration is written last, or not at all.
    pub fn install(&self) -> Result<Vec<PathBuf>, InstallError> {
        require_directory("--bin-dir", &self.bin_dir)?;
        if let Some(conf) = &self.conf {
            conf.check()?;
        }
        let plugin = std::fs::read(&self.plugin).map_err(fault("read", &self.plugin))?;
        let path = self.bin_dir.join(PLUGIN);
        let mut written: Vec<_> = put(path, &plugin, 0o755)?.into_iter().collect();
        if let Some(conf) = &self.conf {
            written.extend(conf.install()?);
        }
        Ok(written)
    }

    /// Removes it, the configuration first. The files that were removed.
    ///
    /// # Errors
    /// When a name is none of ours, or the system refuses a step.
    pub fn remove(&self) -> Result<Vec<PathBuf>, InstallError> {
        let conf = self.conf.as_ref().map(Configuration::path).transpose()?;
        let mut removed = Vec::new();
        for path in conf.into_iter().chain([self.bin_dir.join(PLUGIN)]) {
            let there = path.exists();
            files::remove(&path).map_err(fault("remove", &path))?;
            removed.extend(there.then_some(path));
        }
        Ok(removed)
    }
}

impl Configuration {
    /// What is shipped for plain hosts, with the run directory of this one.
    #[must_use]
    pub fn shipped(run_dir: &Path) -> String {
        let run_dir = json!(run_dir).to_string();
        SHIPPED.replace(&json!(DEFAULT_RUN_DIR).to_string(), &run_dir)
    }

    /// Somebody's own, from a file.
    ///
    /// # Errors
    /// When it cannot be read, or no runtime would call the plugin by it.
    pub fn read(path: &Path) -> Result<String, InstallError> {
        let text = std::fs::read_to_string(path).map_err(fault("read", path))?;
        let wrong = |problem: String| InstallError::Conf {
            path: path.to_owned(),
            problem,
        };
        let conf: Value =
            serde_json::from_str(&text).map_err(|error| wrong(format!("is not JSON: {error}")))?;
        for field in ["cniVersion", "name"] {
            if conf[field].as_str().is_none_or(str::is_empty) {
                let problem = format!("has no {field}: a text is wanted");
                return Err(wrong(problem));
            }
        }
        let plugins = conf["plugins"].as_array().map_or(&[][..], Vec::as_slice);
        if plugins.iter().all(|plugin| plugin["type"] != PLUGIN) {
            let problem = format!("has no plugin of the type {PLUGIN} in its list `plugins`");
            return Err(wrong(problem));
        }
        Ok(text)
    }

    /// Whether it can be written, as far as that is known without trying.
    ///
    /// # Errors
    /// When the name is one that no runtime reads, or there is no such directory.
    pub fn check(&self) -> Result<(), InstallError> {
        self.path()?;
        require_directory("the configuration's directory", &self.dir)
    }

    /// Writes it, unless it is there already and the same; the file, if it was written.
    ///
    /// # Errors
    /// As [`Self::check`], and when the system refuses.
    pub fn install(&self) -> Result<Option<PathBuf>, InstallError> {
        self.check()?;
        put(self.path()?, self.text.as_bytes(), 0o644)
    }

    fn path(&self) -> Result<PathBuf, InstallError> {
        let name = &self.name;
        if name.contains('/') || name.starts_with('.') || !name.ends_with(".conflist") {
            return Err(InstallError::ConfName { name: name.clone() });
        }
        Ok(self.dir.join(name))
    }
}

fn require_directory(option: &'static str, path: &Path) -> Result<(), InstallError> {
    if path.is_dir() {
        return Ok(());
    }
    Err(InstallError::NoDirectory {
        option,
        path: path.to_owned(),
    })
}

/// Replaces a file as a whole, if it says something else; its path, if it was written.
fn put(path: PathBuf, contents: &[u8], mode: u32) -> Result<Option<PathBuf>, InstallError> {
    if is(&path, contents, mode) {
        return Ok(None);
    }
    files::replace(&path, contents, mode, Durability::Power).map_err(fault("write", &path))?;
    Ok(Some(path))
}

/// Whether a file says this already, with this mode.
fn is(path: &Path, contents: &[u8], mode: u32) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let right = |m: std::fs::Metadata| m.is_file() && m.permissions().mode() & 0o7777 == mode;
    std::fs::symlink_metadata(path).is_ok_and(right)
        && std::fs::read(path).is_ok_and(|there| there == contents)
}

fn fault(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::System {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation(root: &Path) -> Installation {
        let made = Installation {
            plugin: root.join("image/oxlan-cni"),
            bin_dir: root.join("bin"),
            conf: Some(Configuration {
                dir: root.join("net.d"),
                name: CONF_NAME.into(),
                text: Configuration::shipped(Path::new(DEFAULT_RUN_DIR)),
            }),
        };
        for directory in [&root.join("image"), &made.bin_dir, &root.join("net.d")] {
            std::fs::create_dir(directory).unwrap();
        }
        std::fs::write(&made.plugin, "the plugin").unwrap();
        made
    }

    fn with_conf(of: &Installation, change: impl FnOnce(&mut Configuration)) -> Installation {
        let mut made = of.clone();
        change(made.conf.as_mut().unwrap());
        made
    }

    #[test]
    fn both_are_installed_once_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let installation = installation(root.path());
        assert_eq!(installation.install().unwrap().len(), 2);
        assert!(
            installation.install().unwrap().is_empty(),
            "nothing changed"
        );
        let conf = root.path().join("net.d/10-oxlan.conflist");
        assert_eq!(std::fs::read_to_string(&conf).unwrap(), SHIPPED);
        let elsewhere = with_conf(&installation, |conf| {
            conf.text = Configuration::shipped(Path::new("/run/\"other\""));
        });
        let only_conf = std::slice::from_ref(&conf);
        assert_eq!(elsewhere.install().unwrap(), only_conf);
        let written = std::fs::read(&conf).unwrap();
        let written: Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(written["plugins"][0]["runDir"], "/run/\"other\"");
        assert_eq!(installation.install().unwrap(), only_conf);
        std::fs::write(&installation.plugin, "a newer one").unwrap();
        assert_eq!(
            installation.install().unwrap(),
            [root.path().join("bin/oxlan-cni")]
        );
        std::fs::write(root.path().join("bin/other"), "not ours").unwrap();
        assert_eq!(installation.remove().unwrap().len(), 2);
        assert!(installation.remove().unwrap().is_empty());
        assert!(!conf.exists() && root.path().join("bin/other").exists());
    }

    /// A runtime must not be told of a plugin that is not there.
    #[test]
    fn without_the_plugin_there_is_no_configuration() {
        let root = tempfile::tempdir().unwrap();
        let installation = installation(root.path());
        std::fs::create_dir(installation.bin_dir.join("oxlan-cni")).unwrap();
        let error = installation.install().unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
        let conf_dir = root.path().join("net.d");
        assert_eq!(std::fs::read_dir(conf_dir).unwrap().count(), 0);
        std::fs::remove_file(&installation.plugin).unwrap();
        assert!(
            installation
                .install()
                .unwrap_err()
                .to_string()
                .contains("cannot read")
        );
    }

    #[test]
    fn wrong_options_are_named() {
        let root = tempfile::tempdir().unwrap();
        let good = installation(root.path());
        let nowhere = with_conf(&good, |conf| conf.dir = root.path().join("nowhere"));
        let said = nowhere.install().unwrap_err().to_string();
        assert!(
            said.starts_with("the configuration's directory ") && said.contains("nowhere"),
            "{said}"
        );
        for name in ["oxlan.conf", "../x.conflist", ".conflist", ""] {
            let bad = with_conf(&good, |conf| conf.name = name.into());
            for refused in [bad.install(), bad.remove()] {
                let said = refused.unwrap_err().to_string();
                assert!(said.contains(".conflist is wanted"), "{said}");
            }
        }
        assert_eq!(std::fs::read_dir(&good.bin_dir).unwrap().count(), 0);
    }

    #[test]
    fn the_plugin_can_be_installed_alone() {
        let root = tempfile::tempdir().unwrap();
        let plugin_only = Installation {
            conf: None,
            ..installation(root.path())
        };
        let plugin = root.path().join("bin/oxlan-cni");
        assert_eq!(plugin_only.install().unwrap(), [plugin]);
        let conf_dir = root.path().join("net.d");
        assert_eq!(std::fs::read_dir(conf_dir).unwrap().count(), 0);
    }

    #[test]
    fn a_configuration_that_would_not_call_the_plugin_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("conf.json");
        std::fs::write(&file, SHIPPED).unwrap();
        assert_eq!(Configuration::read(&file).unwrap(), SHIPPED);
        for (text, part) in [
            ("", "is not JSON"),
            ("{}", "has no cniVersion"),
            (r#"{"cniVersion": "1.0.0", "name": 5}"#, "has no name"),
            (
                r#"{"cniVersion": "1.0.0", "name": "x", "type": "oxlan-cni"}"#,
                "in its list `plugins`",
            ),
            (
                r#"{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "bridge"}, 7]}"#,
                "has no plugin of the type oxlan-cni",
            ),
        ] {
            std::fs::write(&file, text).unwrap();
            let said = Configuration::read(&file).unwrap_err().to_string();
            assert!(said.contains(part) && said.contains("conf.json"), "{said}");
        }
        let gone = Configuration::read(&root.path().join("gone")).unwrap_err();
        assert!(gone.to_string().contains("cannot read"), "{gone}");
    }
}
