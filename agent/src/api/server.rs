//! The listener on the unix socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use super::{ApiState, routes};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "agent.sock";

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The socket cannot be made.
    #[error("cannot listen on {path}: is the run directory writable?")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The port for probes cannot be had.
    #[error(
        "cannot listen on {address} (--health-addr): is it an address of this machine, and its port free?"
    )]
    Health {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system answered.
        source: io::Error,
    },
    /// The socket failed while serving.
    #[error("the API's socket failed")]
    Serve(#[source] io::Error),
}

/// Listens on `agent.sock` in the run directory, for root alone, in place of a predecessor's.
///
/// The caller holds the run directory's lock, so nobody else is listening.
///
/// # Errors
/// When the socket cannot be made.
pub fn bind(run_dir: &Path) -> Result<UnixListener, ApiError> {
    let path = run_dir.join(SOCKET);
    let listen = || -> io::Result<UnixListener> {
        // Under another name first: at no time is there a socket that others may open, or none.
        let fresh = run_dir.join(format!(".{SOCKET}.{}", std::process::id()));
        remove_if_there(&fresh)?;
        let listener = UnixListener::bind(&fresh)?;
        std::fs::set_permissions(&fresh, PermissionsExt::from_mode(0o600))?;
        std::fs::rename(&fresh, &path)?;
        Ok(listener)
    };
    listen().map_err(|source| ApiError::Bind {
        path: path.clone(),
        source,
    })
}

/// Answers requests until `shutdown` completes, then finishes those that have begun.
///
/// # Errors
/// When the socket fails.
pub async fn serve(
    listener: UnixListener,
    state: ApiState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ApiError> {
    axum::serve(listener, routes::router(state))
        .with_graceful_shutdown(shutdown)
        .await
        .map_err(ApiError::Serve)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
