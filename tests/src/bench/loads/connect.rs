//! Connect, one request, one response, close: again and again by one client.
//!
//! redis-benchmark does that without keep-alive, against a server that answers from memory in one
//! thread; both are in Debian's redis-tools, which starts no service.

use std::os::unix::fs::symlink;
use std::path::Path as FilePath;

use anyhow::{Context, Result};

use super::new_port;
use super::server::Server;
use crate::bench::systems::Path;
use crate::run::host;
use crate::scope::Scope;

/// Connections per second, one after the other.
pub(super) fn rate(path: &Path, connections: u32) -> Result<f64> {
    let scope = Scope::for_test()?;
    let program = server_program(&scope.dir())?;
    let (address, port) = (path.address, new_port());
    let _server = Server::start(
        &path.server,
        port,
        &format!(
            "{program} --port {port} --bind {address} --protected-mode no --save --appendonly no"
        ),
    )?;
    let text = path.client.run(&format!(
        "redis-benchmark -h {address} -p {port} -k 0 -c 1 -n {connections} --csv ping"
    ))?;
    in_report(&text)
}

/// The server is the checker of dumps under another name (redis, src/server.c, `main`).
fn server_program(dir: &FilePath) -> Result<String> {
    let checker = host("which redis-check-rdb").context("is redis-tools installed?")?;
    let link = dir.join("redis-server");
    symlink(checker.trim(), &link)?;
    Ok(link.display().to_string())
}

/// The line of the command has the rate in its second field.
fn in_report(text: &str) -> Result<f64> {
    let line = text.lines().find(|line| line.starts_with("\"ping"));
    let field = line.and_then(|line| line.split(',').nth(1));
    field
        .and_then(|field| field.trim_matches('"').parse().ok())
        .with_context(|| format!("redis-benchmark printed no rate: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_found() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\"\n\"ping\",\"12345.68\",\"0.069\"\n";
        assert_eq!(in_report(text).unwrap(), 12345.68);
        in_report("Could not connect").unwrap_err();
    }
}
