//! The agent in a small and in a large cluster: start, changes, memory, and what it does when nothing happens.
//!
//! The other nodes are one namespace with a socket on the tunnel's port: when a pod's packet
//! comes out there, the agent forwards.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use oxlan::datapath::remove_all;
use oxlan_common::addr::{Addr, Mac};
use oxlan_common::maps::{RouteKey, RouteValue};
use oxlan_common::wire::DEFAULT_PORT;

use super::OXLAN;
use crate::bench::figures::{Figures, Measure};
use crate::bench::systems::{Cable, MTU};
use crate::bench::{Effort, Progress};
use crate::node::Node;
use crate::pod::Pod;
use crate::traffic::UdpSocket;
use crate::underlay::node_v4;
use crate::wait::SOON;

/// How often a pod sends while a start is measured.
const EVERY: Duration = Duration::from_micros(500);

/// Time in which a packet that is still on its way arrives.
const SETTLED: Duration = Duration::from_millis(200);

/// Nodes of the small cluster.
const SMALL: u16 = 2;

/// `ROUTES` as the agent has pinned it.
type Routes = HashMap<MapData, RouteKey, RouteValue>;

/// The small cluster among the figures.
pub(in crate::bench) fn small() -> String {
    format!("{OXLAN}, {SMALL} nodes")
}

/// The large one.
pub(in crate::bench) fn large(effort: Effort) -> String {
    format!("{OXLAN}, {} nodes", effort.nodes())
}

pub(super) fn measure(
    effort: Effort,
    figures: &mut Figures,
    progress: &mut Progress<'_>,
) -> Result<()> {
    for (nodes, subject) in [(SMALL, small()), (effort.nodes(), large(effort))] {
        let site = Site::start(nodes)?;
        for _ in 0..effort.control_rounds() {
            let start = site.restart()?;
            progress(&format!(
                "{subject}: forwards {start:.0} ms after its start"
            ));
            figures.add(Measure::Start, &subject, start);
        }
        if nodes > SMALL {
            for _ in 0..effort.control_rounds() {
                let load = site.load()?;
                progress(&format!(
                    "{subject}: a running agent loads them in {load:.0} ms"
                ));
                figures.add(Measure::Load, &subject, load);
            }
        }
        for number in 0..effort.changes() {
            let change = site.change(number)?;
            figures.add(Measure::Change, &subject, change);
        }
        let pid = site.node.agent_pid()?;
        idle(pid, effort, &subject, figures, progress)?;
        // Not while the last change is being worked on.
        figures.add(Measure::Memory, &subject, resident_mib(pid)?);
    }
    Ok(())
}

/// A node with an agent, a pod that sends to another node, and that node.
struct Site {
    nodes: u16,
    file: PathBuf,
    socket: UdpSocket,
    pod: Pod,
    node: Node,
    _cable: Cable,
}

impl Site {
    fn start(nodes: u16) -> Result<Self> {
        let cable = Cable::create(MTU)?;
        let [first, second] = &cable.nodes;
        // The way to all other nodes, which do not exist.
        first.run(&format!("ip route add default via {}", node_v4(2)))?;
        let socket =
            second.inside(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT))?))?;
        let file = cable.scope.dir().join("cluster.toml");
        write_cluster(&file, nodes, 0)?;
        let cidrs = vec![cidr(1)];
        let node = Node::new(&cable.scope, 1, first.clone(), cidrs, file.clone());
        node.start_agent()?;
        let pod = node.add_pod("sender")?;
        Ok(Self {
            nodes,
            file,
            socket,
            pod,
            node,
            _cable: cable,
        })
    }

    /// Starts the agent on a node that knows its pod but forwards nothing; milliseconds until a
    /// packet of the pod's comes out of the tunnel.
    fn restart(&self) -> Result<f64> {
        self.node.kill_agent()?;
        let bpf_dir = &self.node.dirs.bpf;
        self.node.netns.inside(|| Ok(remove_all(bpf_dir)?))?;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| self.send_until(&done));
            let arrived = self.time_to_first_packet();
            done.store(true, Ordering::Relaxed);
            let sent = sender
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            self.node.wait_ready()?;
            sent.and(arrived)
        })
    }

    fn send_until(&self, done: &AtomicBool) -> Result<()> {
        self.pod.netns.inside(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            while !done.load(Ordering::Relaxed) {
                // Without an agent it cannot be sent, and says so, or is lost.
                let _ = socket.send_to(&[0; 64], (pod_of(2), 9));
                std::thread::sleep(EVERY);
            }
            Ok(())
        })
    }

    fn time_to_first_packet(&self) -> Result<f64> {
        self.drain()?;
        let start = Instant::now();
        self.node.spawn_agent()?;
        self.socket.set_read_timeout(Some(SOON))?;
        let received = self.socket.recv(&mut [0; 2048]);
        received.with_context(|| format!("no packet of the pod's; {}", self.node.log()))?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    /// Reads what was forwarded before, and proves that nothing is any more.
    fn drain(&self) -> Result<()> {
        let deadline = Instant::now() + SOON;
        self.socket.set_read_timeout(Some(SETTLED))?;
        while self.socket.recv(&mut [0; 2048]).is_ok() {
            ensure!(
                Instant::now() < deadline,
                "packets are forwarded although there are no programs"
            );
        }
        Ok(())
    }

    /// Gives the last node another VTEP; milliseconds until the programs know it.
    fn change(&self, number: usize) -> Result<f64> {
        let (routes, key) = (self.routes()?, route_key(self.nodes));
        let serial = u8::try_from(number % 250)? + 1;
        write_cluster(&self.file, self.nodes, serial)?;
        let changed = || Ok(routes.get(&key, 0)?.mac == Mac::new(vtep(serial)));
        self.time_until("the change of a node", changed)
    }

    /// Lets the file grow from the smallest cluster; milliseconds until the programs know every node.
    fn load(&self) -> Result<f64> {
        let routes = self.routes()?;
        let has = |number| routes.get(&route_key(number), 0).is_ok();
        write_cluster(&self.file, SMALL, 0)?;
        self.time_until("the small cluster", || Ok(!has(self.nodes)))?;
        write_cluster(&self.file, self.nodes, 0)?;
        let mut known = 1;
        self.time_until("the large cluster", || {
            while known < self.nodes && has(known + 1) {
                known += 1;
            }
            Ok(known == self.nodes)
        })
    }

    fn routes(&self) -> Result<Routes> {
        let routes = self.node.dirs.bpf.join("maps/routes");
        let map = Map::from_map_data(MapData::from_pin(routes)?)?;
        map.try_into().context("ROUTES is no hash map")
    }

    /// Milliseconds until the programs' map is so.
    fn time_until(&self, what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<f64> {
        let start = Instant::now();
        while start.elapsed() < SOON {
            if is_so()? {
                return Ok(start.elapsed().as_secs_f64() * 1e3);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        bail!("{what} did not come into the map: {}", self.node.log())
    }
}

fn route_key(node: u16) -> RouteKey {
    RouteKey {
        prefix: Addr::from(prefix(node)),
        prefix_len: 96 + 24,
    }
}

/// Writes a cluster file, whose last node's VTEP depends on `serial`, and moves it into place.
fn write_cluster(file: &Path, nodes: u16, serial: u8) -> Result<()> {
    let mut text = "[network]\npod_cidrs = [\"10.0.0.0/8\"]\n".to_owned();
    for number in 1..=nodes {
        let underlay = match u8::try_from(number) {
            Ok(small) if small <= 2 => node_v4(small),
            _ => Ipv4Addr::from(0xac10_0000 + u32::from(number)),
        };
        write!(
            text,
            "\n[[node]]\nname = \"node-{number}\"\npod_cidrs = [\"{}\"]\nunderlay = \"{underlay}\"\n",
            cidr(number)
        )?;
        if number == nodes {
            let [a, b, c, d, e, f] = vtep(serial);
            writeln!(
                text,
                "vtep_mac = \"{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}\""
            )?;
        }
    }
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, file)?)
}

fn vtep(serial: u8) -> [u8; 6] {
    [0x0e, 0, 0, 0, 1, serial]
}

fn prefix(number: u16) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + (u32::from(number) << 8))
}

fn cidr(number: u16) -> String {
    format!("{}/24", prefix(number))
}

fn pod_of(number: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(prefix(number)) + 9)
}

pub(super) fn resident_mib(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(field(&text, "VmRSS:")? / 1024.0)
}

/// Watches an agent to which nothing happens.
pub(super) fn idle(
    pid: u32,
    effort: Effort,
    subject: &str,
    figures: &mut Figures,
    progress: &mut Progress<'_>,
) -> Result<()> {
    // What the last change has caused is to be over.
    std::thread::sleep(SETTLED * 5);
    let before = activity(pid)?;
    let start = Instant::now();
    std::thread::sleep(Duration::from_secs(effort.idle_seconds()));
    let after = activity(pid)?;
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    let (cpu, wakeups) = (
        (after.0 - before.0) / minutes,
        (after.1 - before.1) / minutes,
    );
    progress(&format!(
        "{subject}: {cpu:.2} ms of CPU and {wakeups:.0} wake-ups per minute when idle"
    ));
    figures.add(Measure::IdleCpu, subject, cpu);
    figures.add(Measure::IdleWakeups, subject, wakeups);
    Ok(())
}

/// Milliseconds on a CPU, and how often its threads went to sleep, until now.
fn activity(pid: u32) -> Result<(f64, f64)> {
    let mut sum = (0.0, 0.0);
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        // proc(5): nanoseconds on the CPU come first.
        let schedule = std::fs::read_to_string(task.join("schedstat"))?;
        let nanoseconds = schedule
            .split_whitespace()
            .next()
            .context("an empty schedstat")?;
        sum.0 += nanoseconds.parse::<f64>()? / 1e6;
        let status = std::fs::read_to_string(task.join("status"))?;
        sum.1 += field(&status, "voluntary_ctxt_switches:")?;
    }
    Ok(sum)
}

/// The number of a line in /proc/PID/status.
fn field(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no {name}"))
}
