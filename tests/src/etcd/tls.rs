//! Certificates for a test, made by `openssl`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::run::host;

/// An authority, and what it has signed.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// A server's.
    pub server_certificate: PathBuf,
    /// Its key.
    pub server_key: PathBuf,
    /// A client's.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes an authority, a server at this address, and a client.
    ///
    /// # Errors
    ///
    /// If `openssl` fails.
    pub fn make(dir: &Path, server: impl Into<IpAddr>) -> Result<Self> {
        let server: IpAddr = server.into();
        let at = |name: &str| dir.join(name);
        let key = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
        let (ca, ca_key) = (at("ca.pem"), at("ca.key"));
        host(&format!(
            "openssl {key} -subj /CN=authority -keyout {} -out {}",
            ca_key.display(),
            ca.display()
        ))?;
        let made = Self {
            server_certificate: at("server.pem"),
            server_key: at("server.key"),
            certificate: at("client.pem"),
            key: at("client.key"),
            ca,
        };
        let signed = |name: &str, use_for: &str, key_file: &Path, file: &Path| {
            host(&format!(
                "openssl {key} -subj /CN={name} -CA {} -CAkey {} -addext basicConstraints=critical,CA:FALSE \
                 -addext subjectAltName=IP:{server} -addext extendedKeyUsage={use_for} -keyout {} -out {}",
                made.ca.display(),
                ca_key.display(),
                key_file.display(),
                file.display()
            ))
        };
        // etcd's own gateway is a client of its server, with the server's certificate.
        let server_uses = "serverAuth,clientAuth";
        signed(
            "server",
            server_uses,
            &made.server_key,
            &made.server_certificate,
        )?;
        signed("client", "clientAuth", &made.key, &made.certificate)?;
        Ok(made)
    }
}
