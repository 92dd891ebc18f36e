//! A connection to one member. Which one is the caller's choice: it goes to the next when one fails.

use std::path::Path;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

use super::{EtcdError, Options};

/// A member that takes longer to accept a connection is as good as down.
const CONNECT: Duration = Duration::from_secs(2);

/// A member that takes longer to answer is as good as down: it has lost the leader, or hangs.
const ANSWER: Duration = Duration::from_secs(5);

/// A connection on which nothing is heard for so long is asked for a sign of life, and given up without one.
const QUIET: Duration = Duration::from_secs(10);

/// Connects to a member. Certificates and passwords are read anew each time, because they are replaced.
///
/// # Errors
/// When a file cannot be read, or the member refuses.
pub async fn connect(options: &Options, endpoint: &str) -> Result<Client, EtcdError> {
    let mut how = ConnectOptions::new()
        .with_connect_timeout(CONNECT)
        .with_timeout(ANSWER)
        .with_keep_alive(QUIET, ANSWER)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    let fault = |wanted| EtcdError::Endpoint {
        endpoint: endpoint.to_owned(),
        wanted,
    };
    if endpoint.starts_with("https://") {
        how = how.with_tls(tls(options, endpoint)?);
    } else if !endpoint.starts_with("http://") {
        return Err(fault("http://HOST:PORT or https://HOST:PORT is wanted"));
    } else if options.ca.is_some() || options.identity.is_some() {
        // Not silently without what was asked for.
        return Err(fault("https:// is wanted, for certificates are given"));
    }
    if let Some((name, file)) = &options.user {
        let password = read("--etcd-password-file", file)?;
        let password = String::from_utf8_lossy(&password);
        how = how
            .with_user(name, password.trim_end_matches(['\r', '\n']))
            .with_auto_token_refresh(true);
    }
    let client = Client::connect([endpoint], Some(how));
    match tokio::time::timeout(ANSWER, client).await {
        Ok(client) => client.map_err(EtcdError::client(endpoint)),
        Err(_) => Err(EtcdError::Silent {
            endpoint: endpoint.to_owned(),
        }),
    }
}

fn tls(options: &Options, endpoint: &str) -> Result<TlsOptions, EtcdError> {
    let Some(ca) = &options.ca else {
        return Err(EtcdError::Endpoint {
            endpoint: endpoint.to_owned(),
            wanted: "--etcd-cafile is wanted for https://, with the certificate of who has signed etcd's",
        });
    };
    let ca = Certificate::from_pem(read("--etcd-cafile", ca)?);
    let mut tls = TlsOptions::new().ca_certificate(ca);
    if let Some((certificate, key)) = &options.identity {
        let certificate = read("--etcd-certfile", certificate)?;
        tls = tls.identity(Identity::from_pem(
            certificate,
            read("--etcd-keyfile", key)?,
        ));
    }
    Ok(tls)
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, EtcdError> {
    std::fs::read(path).map_err(|source| EtcdError::File {
        option,
        path: path.to_owned(),
        source,
    })
}
