//! The connection to the API server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::sync::watch;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};

use super::heard::{Account, Heard};

/// A connection that says nothing for this long is tried by TCP, again and again; without an
/// answer it is given up. A watch can be silent for minutes, so nothing else would notice.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// What was sent is acknowledged within this time, or the connection is given up: TCP alone would
/// send it again for a quarter of an hour.
const UNACKNOWLEDGED: Duration = Duration::from_secs(35);

/// A TCP and TLS connection is there within this time, or not at all.
const CONNECT: Duration = Duration::from_secs(10);

/// An answer begins within this time. The API server gives its own work 60 seconds.
const ANSWER: Duration = Duration::from_secs(65);

/// A watch that is idle ends after 290 seconds by the server's clock.
const SILENCE: Duration = Duration::from_secs(300);

/// At most this many requests in this time, however a server misbehaves: a list of 5,000 nodes
/// takes fifty.
const REQUESTS: (u64, Duration) = (150, Duration::from_secs(10));

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The agent does not run in a Pod.
    #[error(
        "there is no API server to ask: outside of a Pod with a service account, name a kubeconfig file with --kubeconfig"
    )]
    NotInCluster(#[source] InClusterError),
    /// The kubeconfig file cannot be used.
    #[error("the kubeconfig file {path} cannot be used")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<KubeconfigError>,
    },
    /// The certificates or tokens that are named cannot be used.
    #[error("the way to the API server {url} cannot be used")]
    Way {
        /// The server.
        url: String,
        /// What is wrong.
        source: Box<kube::Error>,
    },
}

/// A client, and what it sees of the server.
pub(super) struct Connection {
    pub(super) client: Client,
    /// What is heard of the answers.
    pub(super) heard: watch::Receiver<Heard>,
    /// How many answers were taken notice of.
    noticed: u64,
}

impl Connection {
    /// Whether there was an answer since this was asked last.
    pub(super) fn has_answered(&mut self) -> bool {
        let answers = self.heard.borrow_and_update().answers;
        answers != std::mem::replace(&mut self.noticed, answers)
    }
}

/// Where the API server is and how it is asked: read anew for each connection, for tokens and
/// certificates change.
pub(super) async fn config(kubeconfig: Option<&Path>) -> Result<Config, ClientError> {
    let mut config = match kubeconfig {
        None => Config::incluster().map_err(ClientError::NotInCluster)?,
        Some(path) => {
            let wrong = |source| ClientError::Kubeconfig {
                path: path.to_owned(),
                source: Box::new(source),
            };
            let file = Kubeconfig::read_from(path).map_err(wrong)?;
            let chosen = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            chosen.map_err(wrong)?
        }
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    Ok(config)
}

/// The server's address, for people.
pub(super) fn url(config: &Config) -> String {
    config
        .cluster_url
        .to_string()
        .trim_end_matches('/')
        .to_owned()
}

/// A client. It connects when it is asked for something.
pub(super) fn connect(config: &Config) -> Result<Connection, ClientError> {
    let wrong = |source| ClientError::Way {
        url: url(config),
        source: Box::new(source),
    };
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let tls = config.rustls_https_connector_with_connector(tcp);
    let mut connector = TimeoutConnector::new(tls.map_err(wrong)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    let http = hyper_util::client::legacy::Builder::new(TokioExecutor::new()).build(connector);
    let (account, heard) = Account::open();
    let listened = service_fn(move |request: http::Request<Body>| {
        let asked = account.asks(&request);
        let answer = http.request(request);
        async move { Ok::<_, BoxError>(asked.answered(answer.await?)) }
    });
    let (requests, period) = REQUESTS;
    let service = ServiceBuilder::new()
        .rate_limit(requests, period)
        .timeout(ANSWER)
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(wrong)?)
        .layer(config.extra_headers_layer().map_err(wrong)?)
        .service(listened);
    Ok(Connection {
        client: Client::new(service.boxed(), config.default_namespace.clone()),
        heard,
        noticed: 0,
    })
}
