//! What must hold in the cluster: every pod reaches every pod, by XDP, before and after agents were killed and a
//! machine lost its power, and no kernel complains.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::channel::Channel;
use super::guest::Guest;
use super::succession;
use super::wire::Wire;

/// The machine that is switched off.
const VICTIM: usize = 2;

/// A machine that runs, and its pod.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) number: u8,
    pub(super) channel: Channel,
    /// The pod's addresses, IPv4 first.
    pub(super) pod: Vec<String>,
}

/// The checks, in their order; fails at the first that does not hold.
pub(super) fn run(guests: &mut [Guest<'_>], wire: &mut Wire, slowness: u32) -> Result<()> {
    let limit = Duration::from_secs(40) * slowness;
    let mut channels = Vec::new();
    for guest in guests.iter() {
        channels.push(guest.boot(wire, limit)?);
    }
    let mut nodes = Vec::new();
    for (guest, channel) in guests.iter().zip(channels) {
        nodes.push(Node::join(guest, channel, limit)?);
    }
    println!("\n==> who reaches whom, by small and large packets and by TCP, over IPv4 and IPv6");
    see_all(&mut nodes)?;
    see_xdp(&mut nodes)?;

    println!("\n==> agents are killed while pods talk");
    succession::see(&mut nodes, limit, slowness)?;
    see_kernels(&mut nodes)?;

    let (victim, number) = (VICTIM, nodes.get(VICTIM).context("no third node")?.number);
    println!("\n==> node-{number} loses its power");
    wire.cut_power(number)?;
    drop(nodes.remove(victim));
    see_all(&mut nodes)?;

    println!("\n==> node-{number} is switched on again");
    let guest = guests.get(victim).context("no third machine")?;
    let channel = guest.boot(wire, limit)?;
    nodes.push(Node::join(guest, channel, limit)?);
    see_all(&mut nodes)?;
    see_xdp(&mut nodes)?;
    see_kernels(&mut nodes)?;
    println!("\nall reach all, and no kernel complains");
    Ok(())
}

/// The last lines of what agents and machines have said.
pub(super) fn show_logs(guests: &[Guest<'_>]) {
    for guest in guests {
        let path = super::dir().join(guest.name()).join("console.log");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines
            .get(lines.len().saturating_sub(25)..)
            .unwrap_or_default();
        println!("\n==> console of {}\n{}", guest.name(), last.join("\n"));
    }
}

impl Node {
    /// Waits for a machine and its agent, and attaches a pod. What a lost life of the machine has left is gone by then.
    fn join(guest: &Guest<'_>, channel: Channel, limit: Duration) -> Result<Self> {
        let mut node = Self {
            name: guest.name(),
            number: guest.number,
            channel,
            pod: Vec::new(),
        };
        node.channel.greet()?;
        let status = node.wait_ready(limit)?;
        ensure!(
            status["pods"] == 0,
            "{} has pods of a former life: {status}",
            node.name
        );
        println!(
            "{}  Linux {}  {}, attached by {}",
            node.name,
            guest.release(),
            status["xdp"][0]["reason"].as_str().unwrap_or("no XDP"),
            status["attach"].as_str().unwrap_or("nothing")
        );
        let pod = format!("pod-{}", node.number);
        let result = node.channel.expect(&format!("attach {pod}"))?;
        node.pod = addresses(&result).with_context(|| format!("the plugin answered {result}"))?;
        Ok(node)
    }

    /// Waits until an agent is ready; returns its status.
    pub(super) fn wait_ready(&mut self, limit: Duration) -> Result<Value> {
        let began = Instant::now();
        loop {
            let (text, succeeded) = self.channel.run("oxlan status --output json")?;
            let status = serde_json::from_str::<Value>(&text).unwrap_or_default();
            if succeeded && status["health"]["state"] == "ready" {
                return Ok(status);
            }
            if began.elapsed() > limit {
                let log = self.channel.expect("tail -n 20 /run/agent.log")?;
                anyhow::bail!("the agent of {} is not ready: {text}\n{log}", self.name);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Which addresses its pod reaches, in their order.
    fn reached(&mut self, addresses: &[String]) -> Result<Vec<bool>> {
        let line = format!("reach pod-{} {}", self.number, addresses.join(" "));
        let answer = self.channel.expect(&line)?;
        let yes = |address: &String| answer.lines().any(|l| l == format!("{address} yes"));
        Ok(addresses.iter().map(yes).collect())
    }
}

/// The addresses in a result of the plugin.
fn addresses(result: &str) -> Result<Vec<String>> {
    let result: Value = serde_json::from_str(result)?;
    let ips = result["ips"].as_array().context("no addresses")?;
    let address = |ip: &Value| {
        let prefix = ip["address"].as_str().context("no address")?;
        let (address, _) = prefix.split_once('/').context("no prefix")?;
        Ok(address.to_owned())
    };
    ips.iter().map(address).collect()
}

/// Prints a table of which pod reaches which, and fails unless all do.
fn see_all(nodes: &mut [Node]) -> Result<()> {
    let pods: Vec<Vec<String>> = nodes.iter().map(|node| node.pod.clone()).collect();
    let heads: Vec<String> = nodes
        .iter()
        .map(|node| format!("{:<18}", node.name))
        .collect();
    println!("{:<10}{}", "FROM", heads.concat().trim_end());
    let mut lost = 0;
    for node in nodes {
        let mut cells = Vec::new();
        for pod in &pods {
            let reached = node.reached(pod)?;
            ensure!(reached.len() == 2, "a pod has not two addresses: {pod:?}");
            lost += reached.iter().filter(|yes| !**yes).count();
            let word = |yes: &bool| if *yes { "yes" } else { "NO" };
            let words: Vec<&str> = reached.iter().map(word).collect();
            cells.push(format!("{:<18}", words.join(", ")));
        }
        println!("{:<10}{}", node.name, cells.concat().trim_end());
    }
    ensure!(lost == 0, "{lost} addresses were not reached");
    Ok(())
}

/// XDP is on everywhere, and has delivered.
fn see_xdp(nodes: &mut [Node]) -> Result<()> {
    for node in nodes {
        let status: Value =
            serde_json::from_str(&node.channel.expect("oxlan status --output json")?)?;
        let drops: Value =
            serde_json::from_str(&node.channel.expect("oxlan drops --output json")?)?;
        let used = &status["xdp"][0]["used"];
        let verdicts = drops["verdicts"].as_array().context("no verdicts")?;
        let by_xdp = verdicts.iter().find(|row| row["name"] == "from-vtep-xdp");
        let packets = by_xdp.and_then(|row| row["packets"].as_u64());
        let packets = packets.context("no verdict `from-vtep-xdp`")?;
        println!("{}  {packets} packets delivered by XDP", node.name);
        ensure!(
            *used == true && packets > 0,
            "{} does without XDP: {status}",
            node.name
        );
    }
    Ok(())
}

/// No kernel has complained, by an oops or of too few queues for XDP.
fn see_kernels(nodes: &mut [Node]) -> Result<()> {
    for node in nodes {
        let (complaints, found) = node.channel.run("dmesg | grep -E \"$COMPLAINTS\"")?;
        ensure!(
            !found,
            "the kernel of {} complains: {complaints}",
            node.name
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_result() {
        let result = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.244.1.2/32"},{"address":"fd00::2/128"}]}"#;
        assert_eq!(addresses(result).unwrap(), ["10.244.1.2", "fd00::2"]);
        assert!(addresses("{}").is_err());
    }
}
