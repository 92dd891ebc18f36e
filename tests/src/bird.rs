//! BIRD, the routing daemon, on a node.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::Netns;
use crate::scope::Scope;

/// What administrators are given.
const CONFIGURATION: &str = include_str!("../../deploy/bird.conf");

/// What the routing daemon of a node is told: `deploy/bird.conf` with these neighbours.
///
/// # Panics
///
/// If that file has no neighbours that could be named.
#[must_use]
#[expect(clippy::expect_used, reason = "a file in the repository is as it is")]
pub fn node(neighbours: &[(Ipv4Addr, Ipv6Addr)]) -> String {
    let start = CONFIGURATION.find("protocol bgp").expect("neighbours");
    let (head, protocols) = CONFIGURATION.split_at(start);
    let mut text = head.replace("log syslog all;", "log stderr all;");
    for (at, (v4, v6)) in neighbours.iter().enumerate() {
        let named = protocols
            .replace("NEIGHBOUR_V4", &v4.to_string())
            .replace("NEIGHBOUR_V6", &v6.to_string())
            .replace("bgp node_v", &format!("bgp node{at}_v"));
        text.push_str(&named);
    }
    text
}

/// What the routing daemon of a router between nodes is told: it passes on what one tells to the others.
#[must_use]
pub fn reflector(clients: &[(Ipv4Addr, Ipv6Addr)]) -> String {
    let mut text = "log stderr all;\nprotocol device { }\n".to_owned();
    for family in ["ipv4", "ipv6"] {
        text.push_str(&format!(
            "protocol kernel {{ {family} {{ import none; export all; }}; }}\n"
        ));
    }
    for (at, (v4, v6)) in clients.iter().enumerate() {
        for (family, client) in [("ipv4", v4.to_string()), ("ipv6", v6.to_string())] {
            text.push_str(&format!(
                "protocol bgp client{at}_{family} {{ local as 64512; neighbor {client} as 64512; direct; rr client; \
                 connect delay time 1; {family} {{ import all; export all; next hop self; }}; }}\n"
            ));
        }
    }
    text
}

/// A running BIRD. Dropping it ends it.
#[derive(Debug)]
pub struct Bird(Child);

impl Bird {
    /// Starts BIRD with a configuration.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(scope: &Scope, netns: &Netns, configuration: &str) -> Result<Self> {
        let base = scope.dir().join(format!("{}-bird", netns.name()));
        let file = base.with_extension("conf");
        std::fs::write(&file, configuration)?;
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
