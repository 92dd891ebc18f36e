//! BIRD, the routing daemon, on a node.

use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::Netns;
use crate::scope::Scope;
use crate::underlay::{node_v4, node_v6};

/// What administrators are given.
const CONFIGURATION: &str = include_str!("../../deploy/bird.conf");

/// A running BIRD. Dropping it ends it.
#[derive(Debug)]
pub struct Bird(Child);

impl Bird {
    /// Starts BIRD with `deploy/bird.conf` and the node with the number `neighbour` as neighbour.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(scope: &Scope, netns: &Netns, neighbour: u8) -> Result<Self> {
        let base = scope.dir().join(format!("{}-bird", netns.name()));
        let file = base.with_extension("conf");
        let text = CONFIGURATION
            .replace("= 192.168.50.2;", &format!("= {};", node_v4(neighbour)))
            .replace("= fd00:50::2;", &format!("= {};", node_v6(neighbour)))
            .replace("log syslog all;", "log stderr all;");
        std::fs::write(&file, text)?;
        let log = std::fs::File::create(base.with_extension("log"))?;
        let mut command = netns.command("bird");
        command.arg("-f").arg("-c").arg(&file);
        command.arg("-s").arg(base.with_extension("ctl"));
        command.stdin(Stdio::null()).stderr(log);
        let child = command.spawn();
        child
            .map(Self)
            .with_context(|| format!("cannot run {command:?}"))
    }

    /// Ends it; it takes its routes out of the kernel's table.
    ///
    /// # Errors
    ///
    /// If it has ended already.
    pub fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.0.id().try_into()?), Signal::SIGTERM)?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        // One that has ended is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
