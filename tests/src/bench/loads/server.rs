//! A server process that ends with its value.

use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};

use crate::netns::Netns;
use crate::run::words;
use crate::wait::{SOON, until};

pub(super) struct Server(Child);

impl Server {
    /// Starts a command line in a namespace, and waits until it listens on a TCP port.
    pub(super) fn start(netns: &Netns, port: u16, line: &str) -> Result<Self> {
        let words = words(line);
        let (program, arguments) = words.split_first().context("an empty command line")?;
        let mut command = netns.command(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {line}"))?;
        let mut server = Self(child);
        until(SOON, "the server's port", || {
            if let Some(status) = server.0.try_wait()? {
                return Ok(Err(anyhow::anyhow!("`{line}` ended with {status}")));
            }
            listening(netns, port).map(Ok)
        })??;
        Ok(server)
    }
}

/// Asks the kernel, because a test connection would confuse the server.
fn listening(netns: &Netns, port: u16) -> Result<()> {
    let sockets = netns.run(&format!("ss -Hltn sport = :{port}"))?;
    ensure!(!sockets.trim().is_empty(), "nobody listens");
    Ok(())
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended by itself is as good as killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
