//! The agent with Kubernetes as its source, in a small and in a large cluster: memory, how long it takes from
//! the list's arrival until the programs know all nodes, and from an event until they know of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::maps::{HashMap, Map, MapData};
use oxlan_common::addr::{Addr, Mac};
use oxlan_common::maps::{RouteKey, RouteValue};
use serde_json::{Value, json};

use super::agent::{idle, resident_mib};
use crate::bench::figures::{Figures, Measure};
use crate::bench::systems::{Cable, MTU};
use crate::bench::{Effort, Progress};
use crate::kube_api::{KubeApi, bare_node, flannel_node};
use crate::node::Node;
use crate::underlay::node_v4;
use crate::wait::{SOON, until_true};

/// How often the map is looked into.
const LOOK: Duration = Duration::from_micros(200);

/// Nodes on a page of the list.
const PAGE: u64 = 100;

/// Pauses between changes: versions of the cluster are 30 ms apart at least, which is not what is measured.
const APART: Duration = Duration::from_millis(300);

type Routes = HashMap<MapData, RouteKey, RouteValue>;

/// The small cluster among the figures.
pub(in crate::bench) fn small() -> String {
    "oxlan, Kubernetes, 1 node".to_owned()
}

/// The large one.
pub(in crate::bench) fn large(effort: Effort) -> String {
    format!("oxlan, Kubernetes, {} nodes", effort.nodes())
}

pub(super) fn measure(
    effort: Effort,
    figures: &mut Figures,
    progress: &mut Progress<'_>,
) -> Result<()> {
    for (others, subject) in [(0, small()), (effort.nodes() - 1, large(effort))] {
        let site = Site::create(others)?;
        for _ in 0..effort.control_rounds() {
            let converged = site.start()?;
            progress(&format!(
                "{subject}: knows all nodes {converged:.0} ms after the list"
            ));
            figures.add(Measure::Converge, &subject, converged);
            site.node.stop_agent()?;
        }
        site.start()?;
        for number in (0..effort.changes()).filter(|_| others > 0) {
            figures.add(Measure::Event, &subject, site.change(number)?);
        }
        let pid = site.node.agent_pid()?;
        idle(pid, effort, &subject, figures, progress)?;
        figures.add(Measure::Memory, &subject, resident_mib(pid)?);
    }
    Ok(())
}

/// A node with an agent, and the API server that it asks.
struct Site {
    others: u16,
    environment: Vec<(&'static str, String)>,
    node: Node,
    api: KubeApi,
    _cable: Cable,
}

impl Site {
    fn create(others: u16) -> Result<Self> {
        let cable = Cable::create(MTU)?;
        let first = cable.nodes[0].clone();
        first.run("ip link set lo up")?;
        // The way to all other nodes, which do not exist.
        first.run(&format!("ip route add default via {}", node_v4(2)))?;
        let dir = cable.scope.dir().to_owned();
        let node = Node::new(
            &cable.scope,
            1,
            first.clone(),
            vec![cidr(0)],
            dir.join("none"),
        );
        let api = KubeApi::start(vec![first])?;
        api.put(bare_node(&node.name, &[cidr(0)], &[node_v4(1).to_string()]));
        for number in 1..=others {
            api.put(peer(number, 0));
        }
        let conf = json!({"Network": "10.0.0.0/8", "Backend": {"Type": "vxlan"}});
        let mut environment = vec![("OXLAN_SOURCE", "kube".to_owned())];
        for (name, file, text) in [
            ("OXLAN_KUBECONFIG", "kubeconfig", api.kubeconfig(&json!({}))),
            ("OXLAN_NET_CONF", "net-conf.json", conf.to_string()),
        ] {
            let path = dir.join(file);
            std::fs::write(&path, text)?;
            environment.push((name, path.display().to_string()));
        }
        environment.push((
            "OXLAN_SUBNET_ENV",
            dir.join("subnet.env").display().to_string(),
        ));
        Ok(Self {
            others,
            environment,
            node,
            api,
            _cable: cable,
        })
    }

    /// Starts the agent without anything that it had; milliseconds from the last page of the list
    /// until the programs know the last of the nodes.
    fn start(&self) -> Result<f64> {
        self.node.cleanup()?;
        let pages = self.api.counts().pages + (u64::from(self.others) + 1).div_ceil(PAGE);
        let environment = self.environment.iter();
        let environment: Vec<_> = environment.map(|(k, v)| (*k, v.as_str())).collect();
        self.node.spawn_agent_with(&environment)?;
        until_true(SOON, "the last page of the list", || {
            Ok(self.api.counts().pages >= pages)
        })?;
        let listed = Instant::now();
        self.wait_for(0)?;
        let converged = listed.elapsed();
        self.node.wait_ready()?;
        Ok(converged.as_secs_f64() * 1e3)
    }

    /// Gives the last node another VTEP; milliseconds from the event until the programs know it.
    fn change(&self, number: usize) -> Result<f64> {
        std::thread::sleep(APART);
        let serial = u8::try_from(number % 250)? + 1;
        let node = peer(self.others, serial);
        let event = Instant::now();
        self.api.put(node);
        self.wait_for(serial)?;
        Ok(event.elapsed().as_secs_f64() * 1e3)
    }

    /// Waits until the route to the last node leads to its VTEP of this serial.
    fn wait_for(&self, serial: u8) -> Result<()> {
        let start = Instant::now();
        let key = RouteKey {
            prefix: Addr::from(prefix(self.others)),
            prefix_len: 96 + 24,
        };
        while start.elapsed() < SOON {
            // The map is made while the agent starts.
            let found = self.routes().and_then(|routes| Ok(routes.get(&key, 0)?));
            let is_there =
                found.is_ok_and(|route| self.others == 0 || route.mac == vtep(self.others, serial));
            if is_there {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        bail!(
            "the last node did not come into the map: {}",
            self.node.log()
        )
    }

    fn routes(&self) -> Result<Routes> {
        let pin = self.node.dirs.bpf.join("maps/routes");
        let map = Map::from_map_data(MapData::from_pin(pin)?)?;
        map.try_into().context("ROUTES is no hash map")
    }
}

/// A Node with the ten kilobytes of a real one, most of which are of no use here.
fn peer(number: u16, serial: u8) -> Value {
    let [high, low] = number.to_be_bytes();
    let address = format!("172.16.{high}.{low}");
    let mac = vtep(number, serial).to_string();
    let mut node = flannel_node(&format!("p{number:05}"), &cidr(number), &address, &mac);
    let image = |i: u8| json!({"names": [format!("registry.example.com/team/image-{i}@sha256:{}", "0".repeat(64))], "sizeBytes": 1});
    node["status"]["images"] = (0..50).map(image).collect();
    node["metadata"]["managedFields"] =
        json!([{"manager": "kubelet", "fieldsV1": {"f:status": "x".repeat(3000)}}]);
    node
}

fn vtep(number: u16, serial: u8) -> Mac {
    let [high, low] = number.to_be_bytes();
    Mac::new([2, 0, 0, serial, high, low])
}

/// Rising with the number: routes are written in the order of prefixes.
fn prefix(number: u16) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from(0x0a01_0000 + (u32::from(number) << 8))
}

fn cidr(number: u16) -> String {
    format!("{}/24", prefix(number))
}
