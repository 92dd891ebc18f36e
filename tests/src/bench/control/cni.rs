//! ADD and DEL, beside the reference plugins bridge and host-local, called as a runtime calls them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{OXLAN, REFERENCE};
use crate::bench::figures::{Figures, Measure};
use crate::bench::systems::{Cable, MTU, POD_MTU};
use crate::bench::{Effort, Progress};
use crate::binaries::{binary, unpacked};
use crate::cluster::node_entry;
use crate::cni::ask;
use crate::netns::Netns;
use crate::node::Node;
use crate::pod::IFNAME;

pub(super) fn measure(
    effort: Effort,
    figures: &mut Figures,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let cable = Cable::create(MTU)?;
    let agent = start_agent(&cable)?;
    let [ours, reference] = plugins(&cable, &agent)?;
    for round in 1..=effort.control_rounds() {
        one_by_one(&cable, &[&ours, &reference], effort.pods(), figures)?;
        for plugin in [&ours, &reference] {
            at_once(&cable, plugin, effort.at_once(), figures)?;
        }
        let rounds = effort.control_rounds();
        let shown = |measure, name| figures.median(measure, name).unwrap_or_default();
        for name in [OXLAN, REFERENCE] {
            progress(&format!(
                "round {round}/{rounds}: {name}: ADD {:.1} ms, DEL {:.1} ms, {} at once: {:.0} and {:.0} ms",
                shown(Measure::Add, name),
                shown(Measure::Delete, name),
                effort.at_once(),
                shown(Measure::AddAtOnce, name),
                shown(Measure::DeleteAtOnce, name),
            ));
        }
    }
    Ok(())
}

/// A plugin with its configuration, on a node.
struct Plugin {
    name: &'static str,
    program: PathBuf,
    config: Value,
    node: Netns,
}

/// An agent on the first node, for pods with IPv4: the reference plugins wait seconds for IPv6's
/// duplicate address detection, which would be unfair.
fn start_agent(cable: &Cable) -> Result<Node> {
    let file = cable.scope.dir().join("cluster.toml");
    let cidrs = vec!["10.244.0.0/22".to_owned()];
    let entry = node_entry("node-1", &cidrs, 1, "");
    std::fs::write(
        &file,
        format!("[network]\npod_cidrs = [\"10.244.0.0/16\"]\n{entry}"),
    )?;
    let node = Node::new(&cable.scope, 1, cable.nodes[0].clone(), cidrs, file);
    node.start_agent()?;
    Ok(node)
}

/// Ours, and bridge + host-local with what Flannel's plugin asks them for.
fn plugins(cable: &Cable, agent: &Node) -> Result<[Plugin; 2]> {
    let bridge = unpacked("usr/lib/cni/bridge")?;
    let addresses = cable.scope.dir().join("host-local");
    Ok([
        Plugin {
            name: OXLAN,
            program: binary("oxlan-cni")?,
            config: agent.cni_config(),
            node: agent.netns.clone(),
        },
        Plugin {
            name: REFERENCE,
            program: bridge,
            config: json!({
                "cniVersion": "1.0.0", "name": "reference", "type": "bridge", "bridge": "cni0",
                "mtu": POD_MTU, "isGateway": true, "isDefaultGateway": true, "hairpinMode": true, "ipMasq": false,
                "ipam": {
                    "type": "host-local", "dataDir": addresses,
                    "ranges": [[{"subnet": "10.245.0.0/22"}]],
                },
            }),
            node: cable.nodes[1].clone(),
        },
    ])
}

/// Adds and deletes pods in turn: ours, the other's, ours, ...
fn one_by_one(
    cable: &Cable,
    plugins: &[&Plugin; 2],
    count: usize,
    figures: &mut Figures,
) -> Result<()> {
    let pods = Pods::create(cable, count)?;
    for (verb, measure) in [("ADD", Measure::Add), ("DEL", Measure::Delete)] {
        for pod in 0..count {
            for plugin in plugins {
                let netns = pods.of(plugin, pod);
                let took = plugin.node.inside(|| plugin.call(verb, netns))?;
                figures.add(measure, plugin.name, milliseconds(took));
            }
        }
    }
    pods.delete()
}

/// Adds all pods at the same time, then deletes them so.
fn at_once(cable: &Cable, plugin: &Plugin, count: usize, figures: &mut Figures) -> Result<()> {
    let pods = Pods::create(cable, count)?;
    for (verb, measure) in [("ADD", Measure::AddAtOnce), ("DEL", Measure::DeleteAtOnce)] {
        let ready = Barrier::new(count + 1);
        let took = std::thread::scope(|scope| -> Result<Duration> {
            let calls: Vec<_> = (0..count)
                .map(|pod| {
                    let (netns, ready) = (pods.of(plugin, pod), &ready);
                    scope.spawn(move || {
                        plugin.node.inside(|| {
                            ready.wait();
                            plugin.call(verb, netns)
                        })
                    })
                })
                .collect();
            ready.wait();
            let start = Instant::now();
            for call in calls {
                call.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            Ok(start.elapsed())
        })?;
        figures.add(measure, plugin.name, milliseconds(took));
    }
    pods.delete()
}

impl Plugin {
    /// Calls it in the namespace of the calling thread; returns how long its process took.
    fn call(&self, verb: &str, pod: &Netns) -> Result<Duration> {
        let mut command = Command::new(&self.program);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", pod.name())
            .env("CNI_NETNS", pod.path())
            .env("CNI_IFNAME", IFNAME)
            .env("CNI_PATH", self.program.parent().context("no directory")?);
        let start = Instant::now();
        let answer = ask(&mut command, &self.config)?;
        let took = start.elapsed();
        answer
            .result()
            .with_context(|| format!("{verb} of {}", self.name))?;
        Ok(took)
    }
}

/// Namespaces for pods of both plugins.
struct Pods {
    ours: Vec<Netns>,
    reference: Vec<Netns>,
}

impl Pods {
    fn create(cable: &Cable, count: usize) -> Result<Self> {
        let make = |name| {
            (0..count)
                .map(|number| cable.scope.netns(&format!("{name}{number}")))
                .collect::<Result<_>>()
        };
        Ok(Self {
            ours: make("o")?,
            reference: make("r")?,
        })
    }

    fn of(&self, plugin: &Plugin, number: usize) -> &Netns {
        let pods = if plugin.name == OXLAN {
            &self.ours
        } else {
            &self.reference
        };
        &pods[number]
    }

    fn delete(&self) -> Result<()> {
        self.ours
            .iter()
            .chain(&self.reference)
            .try_for_each(Netns::delete)
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
