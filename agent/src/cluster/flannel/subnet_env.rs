//! `/run/flannel/subnet.env`, by which Flannel tells other programs of the node's subnet.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::host::files::{self, Durability};

/// What the file says (Flannel, pkg/subnet/subnet.go, `WriteSubnetFile`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetEnv {
    /// Prefixes that all pods of the cluster come from: at most one per family.
    pub network: Vec<IpNet>,
    /// Prefixes of this node's pods: at most one per family.
    pub own: Vec<IpNet>,
    /// MTU of the pods, bytes.
    pub mtu: u16,
    /// Whether traffic that leaves the cluster is masqueraded, which it always is here.
    pub ip_masq: bool,
}

/// The file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: may the agent write there?")]
pub struct SubnetEnvError {
    path: PathBuf,
    source: io::Error,
}

impl SubnetEnv {
    /// The lines of the file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (family, is_v4) in [("", true), ("IPV6_", false)] {
            let mine = |p: &&IpNet| matches!(p, IpNet::V4(_)) == is_v4;
            if let Some(network) = self.network.iter().find(mine) {
                text += &format!("FLANNEL_{family}NETWORK={network}\n");
            }
            if let Some(own) = self.own.iter().find(mine) {
                text += &format!("FLANNEL_{family}SUBNET={}\n", with_gateway(own));
            }
        }
        text += &format!("FLANNEL_MTU={}\n", self.mtu);
        text += &format!("FLANNEL_IPMASQ={}\n", self.ip_masq);
        text
    }

    /// Whether the file says this.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        std::fs::read(path).is_ok_and(|there| there == self.to_text().as_bytes())
    }

    /// Writes the file unless it says the same already: a reader finds the old one or the new one, never a part.
    /// Whether it was written.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn write(&self, path: &Path) -> Result<bool, SubnetEnvError> {
        if self.is_at(path) {
            return Ok(false);
        }
        let text = self.to_text();
        let fault = |source| SubnetEnvError {
            path: path.to_owned(),
            source,
        };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(fault)?;
        }
        files::replace(path, text.as_bytes(), 0o644, Durability::Process).map_err(fault)?;
        Ok(true)
    }
}

/// Flannel names the subnet by its first usable address, which its bridge has.
fn with_gateway(subnet: &IpNet) -> String {
    let first: IpAddr = match subnet {
        IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()) | 1).into(),
        IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()) | 1).into(),
    };
    format!("{first}/{}", subnet.prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dual() -> SubnetEnv {
        SubnetEnv {
            network: ["10.244.0.0/16", "fd00:10:244::/48"]
                .map(|p| p.parse().unwrap())
                .into(),
            own: ["10.244.3.0/24", "fd00:10:244:3::/64"]
                .map(|p| p.parse().unwrap())
                .into(),
            mtu: 1450,
            ip_masq: true,
        }
    }

    #[test]
    fn the_text_is_flannels() {
        assert_eq!(
            dual().to_text(),
            "FLANNEL_NETWORK=10.244.0.0/16\n\
             FLANNEL_SUBNET=10.244.3.1/24\n\
             FLANNEL_IPV6_NETWORK=fd00:10:244::/48\n\
             FLANNEL_IPV6_SUBNET=fd00:10:244:3::1/64\n\
             FLANNEL_MTU=1450\n\
             FLANNEL_IPMASQ=true\n"
        );
        let mut single = dual();
        single.network.truncate(1);
        single.own.truncate(1);
        assert!(!single.to_text().contains("IPV6"), "{}", single.to_text());
    }

    #[test]
    fn it_is_written_when_it_differs_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flannel/subnet.env");
        assert!(dual().write(&path).unwrap());
        assert!(!dual().write(&path).unwrap(), "it says the same");
        let larger = SubnetEnv {
            mtu: 8950,
            ..dual()
        };
        assert!(larger.write(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), larger.to_text());
        let names = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "no temporary file is left");
    }

    #[test]
    fn a_failure_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file/subnet.env");
        std::fs::write(directory.path().join("file"), "in the way").unwrap();
        let error = dual().write(&path).unwrap_err().to_string();
        assert!(error.contains("file/subnet.env"), "{error}");
    }
}
