//! Puts the plugin and its configuration where a container runtime looks for them, and takes them away.
//!
//! The plugin comes first and the configuration last, each replaced as a whole: a runtime that sees the
//! configuration can call the plugin. The agent's image has no shell that could copy files.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::DEFAULT_RUN_DIR;
use crate::host::files::{self, Durability};

/// The configuration, with the default run directory.
const SHIPPED: &str = include_str!("../../../deploy/10-oxlan.conflist");

/// Name of the plugin's file.
pub const PLUGIN: &str = "oxlan-cni";

/// What is installed, and where.
#[derive(Debug, Clone)]
pub struct Installation {
    /// The plugin to copy.
    pub plugin: PathBuf,
    /// Where the runtime looks for plugins, as `/opt/cni/bin`.
    pub bin_dir: PathBuf,
    /// Where the runtime looks for configurations, as `/etc/cni/net.d`.
    pub conf_dir: PathBuf,
    /// Name of the configuration's file: a runtime takes the first by name.
    pub conf_name: String,
    /// Where the agent's socket is, as the host sees it.
    pub run_dir: PathBuf,
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
        /// The option that names it.
        option: &'static str,
        /// The directory.
        path: PathBuf,
    },
    /// A name that no runtime would read.
    #[error(
        "--conf-name {name}: a file name that ends in .conflist is wanted, as 10-oxlan.conflist"
    )]
    ConfName {
        /// The name.
        name: String,
    },
}

impl Installation {
    /// Installs both. What is there already and the same is left alone. The files that were written.
    ///
    /// # Errors
    /// When a directory is missing, or the system refuses a step. The configuration is written last, or not at all.
    pub fn install(&self) -> Result<Vec<PathBuf>, InstallError> {
        self.check()?;
        let plugin = std::fs::read(&self.plugin).map_err(fault("read", &self.plugin))?;
        let conf = self.configuration();
        let mut written = Vec::new();
        for (path, contents, mode) in [
            (self.bin_dir.join(PLUGIN), plugin, 0o755),
            (
                self.conf_dir.join(&self.conf_name),
                conf.into_bytes(),
                0o644,
            ),
        ] {
            if !is(&path, &contents, mode) {
                files::replace(&path, &contents, mode, Durability::Power)
                    .map_err(fault("write", &path))?;
                written.push(path);
            }
        }
        Ok(written)
    }

    /// Removes both, the configuration first. The files that were removed.
    ///
    /// # Errors
    /// When the system refuses a step.
    pub fn remove(&self) -> Result<Vec<PathBuf>, InstallError> {
        let mut removed = Vec::new();
        for path in [
            self.conf_dir.join(&self.conf_name),
            self.bin_dir.join(PLUGIN),
        ] {
            let there = path.exists();
            files::remove(&path).map_err(fault("remove", &path))?;
            removed.extend(there.then_some(path));
        }
        Ok(removed)
    }

    fn check(&self) -> Result<(), InstallError> {
        let name = &self.conf_name;
        if name.contains('/') || name.starts_with('.') || !name.ends_with(".conflist") {
            return Err(InstallError::ConfName { name: name.clone() });
        }
        for (option, path) in [("--bin-dir", &self.bin_dir), ("--conf-dir", &self.conf_dir)] {
            if !path.is_dir() {
                return Err(InstallError::NoDirectory {
                    option,
                    path: path.clone(),
                });
            }
        }
        Ok(())
    }

    /// What is shipped for plain hosts, with the run directory of this one.
    fn configuration(&self) -> String {
        let run_dir = json!(self.run_dir).to_string();
        SHIPPED.replace(&json!(DEFAULT_RUN_DIR).to_string(), &run_dir)
    }
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
            conf_dir: root.join("net.d"),
            conf_name: "10-oxlan.conflist".into(),
            run_dir: "/run/oxlan".into(),
        };
        for directory in [&root.join("image"), &made.bin_dir, &made.conf_dir] {
            std::fs::create_dir(directory).unwrap();
        }
        std::fs::write(&made.plugin, "the plugin").unwrap();
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
        let elsewhere = Installation {
            run_dir: "/run/\"other\"".into(),
            ..installation.clone()
        };
        let only_conf = std::slice::from_ref(&conf);
        assert_eq!(elsewhere.install().unwrap(), only_conf);
        let written = std::fs::read(&conf).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
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
        assert_eq!(
            std::fs::read_dir(&installation.conf_dir).unwrap().count(),
            0
        );
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
        let nowhere = Installation {
            conf_dir: root.path().join("nowhere"),
            ..good.clone()
        };
        let said = nowhere.install().unwrap_err().to_string();
        assert!(
            said.starts_with("--conf-dir ") && said.contains("nowhere"),
            "{said}"
        );
        for name in ["oxlan.conf", "../x.conflist", ".conflist", ""] {
            let bad = Installation {
                conf_name: name.into(),
                ..good.clone()
            };
            let said = bad.install().unwrap_err().to_string();
            assert!(said.contains(".conflist is wanted"), "{said}");
        }
        assert_eq!(std::fs::read_dir(&good.bin_dir).unwrap().count(), 0);
    }
}
