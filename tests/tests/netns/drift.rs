//! Whatever somebody deletes or changes is put back within a second, and reported.

mod maps;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;
use oxlan_tests::cluster::{Cluster, Shape, with_cluster};
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::underlay::UPLINK;
use oxlan_tests::wait::until_true;

/// A second, and as much again for the commands that look.
const LIMIT: Duration = Duration::from_secs(2);

/// The node that suffers, one of its pods and one of another node.
struct Scene<'a> {
    node: &'a Node,
    pod: Pod,
    /// Host side of the pod's veth.
    veth: String,
    remote: Pod,
}

fn with_scene(test: impl FnOnce(&Scene<'_>) -> Result<()>) {
    with_cluster(Shape::nodes(2), |cluster: &Cluster| {
        let node = &cluster.nodes[0];
        let pod = node.add_pod("a")?;
        let remote = cluster.nodes[1].add_pod("b")?;
        let veth = pod.host_ifname()?;
        test(&Scene {
            node,
            pod,
            veth,
            remote,
        })
    });
}

impl Scene<'_> {
    /// Breaks something, and expects what `look` shows to become again what it was, the agent to say
    /// that it repaired, and pods to be reachable.
    fn repairs(
        &self,
        what: &str,
        look: impl Fn() -> Result<String>,
        damage: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let said = self.node.log().lines().count();
        let right = look().with_context(|| format!("looking at {what}"))?;
        ensure!(!right.trim().is_empty(), "{what} does not exist");
        damage().with_context(|| format!("damaging {what}"))?;
        until_true(LIMIT, &format!("repair of {what}"), || {
            let now = look()?;
            ensure!(now == right, "it is\n{now}\ninstead of\n{right}");
            Ok(self.node.log().lines().count() > said)
        })?;
        until_true(
            LIMIT,
            &format!("reachability after the repair of {what}"),
            || {
                for (from, to) in [(&self.pod, &self.remote), (&self.remote, &self.pod)] {
                    to.addresses().try_for_each(|address| from.ping(address))?;
                }
                Ok(true)
            },
        )
    }

    /// The same with command lines of the node; what the first prints must become the same again.
    fn repairs_line(&self, look: &str, damage: &str) -> Result<()> {
        self.repairs(
            &format!("what `{damage}` does"),
            || self.node.netns.run(look),
            || self.node.netns.run(damage).map(drop),
        )
    }

    fn pin(&self, path: &str) -> String {
        self.node.dirs.bpf.join(path).display().to_string()
    }

    /// Whether a device has filters of queueing disciplines instead of links.
    fn has_filters(&self, device: &str) -> Result<bool> {
        Ok(device == self.veth || self.node.oxlan_json("status")?["attach"] == "clsact")
    }

    /// The programs that really are attached to a device.
    fn attached(&self, device: &str, side: TcAttachType) -> Result<String> {
        if self.has_filters(device)? {
            let side = side_name(side);
            return self
                .node
                .netns
                .run(&format!("tc filter show dev {device} {side}"));
        }
        self.node.netns.inside(|| {
            let (_, programs) = SchedClassifier::query_tcx(device, side)?;
            let names = programs
                .iter()
                .map(|program| program.name_as_str().unwrap_or("?"));
            Ok(names.collect::<Vec<_>>().join(" "))
        })
    }
}

#[test]
fn the_overlay_device() {
    with_scene(|scene| {
        let look = "ip -br link show dev oxlan0";
        scene.repairs_line(look, "ip link set oxlan0 address 02:00:00:00:00:55")?;
        scene.repairs_line(look, "ip link set oxlan0 down")?;
        let mtu = "cat /proc/sys/net/ipv6/conf/oxlan0/mtu";
        scene.repairs_line(mtu, "ip link set oxlan0 mtu 1300")?;
        let addresses = "ip -br address show dev oxlan0";
        scene.repairs_line(addresses, "ip address flush dev oxlan0")?;
        scene.repairs_line(addresses, "ip link del oxlan0")
    });
}

#[test]
fn routes_and_neighbours() {
    with_scene(|scene| {
        let Scene { pod, veth, .. } = scene;
        let (v4, v6) = (pod.ipv4()?, pod.ipv6()?);
        for (family, prefix) in [("-4", "10.244.0.0/16"), ("-6", "fd00:244::/48")] {
            let look = format!("ip {family} route show exact {prefix}");
            scene.repairs_line(&look, &format!("ip {family} route del {prefix}"))?;
        }
        for (family, prefix) in [("-4", "10.244.1.0/24"), ("-6", "fd00:244:0:1::/64")] {
            let look = format!("ip {family} route show exact {prefix}");
            scene.repairs_line(
                &look,
                &format!("ip {family} route del unreachable {prefix}"),
            )?;
        }
        for (family, address) in [("-4", v4.to_string()), ("-6", v6.to_string())] {
            let look = format!("ip {family} route show {address}");
            scene.repairs_line(
                &look,
                &format!("ip {family} route del {address} dev {veth}"),
            )?;
            let look = format!("ip {family} neighbour show {address} dev {veth} nud permanent");
            scene.repairs_line(
                &look,
                &format!("ip {family} neighbour del {address} dev {veth}"),
            )?;
        }
        Ok(())
    });
}

#[test]
fn the_host_side_of_a_pod() {
    with_scene(|scene| {
        let veth = &scene.veth;
        let look = format!("ip -br link show dev {veth}");
        scene.repairs_line(&look, &format!("ip link set {veth} down"))?;
        scene.repairs_line(
            &look,
            &format!("ip link set {veth} address 02:00:00:00:00:66"),
        )?;
        let mtu = format!("cat /proc/sys/net/ipv6/conf/{veth}/mtu");
        scene.repairs_line(&mtu, &format!("ip link set {veth} mtu 1300"))
    });
}

#[test]
fn sysctls() {
    with_scene(|scene| {
        for device in [scene.veth.as_str(), "oxlan0", UPLINK] {
            for family in ["ipv4", "ipv6"] {
                let name = format!("net.{family}.conf.{device}.forwarding");
                let (look, damage) = (format!("sysctl -n {name}"), format!("sysctl -qw {name}=0"));
                scene.repairs_line(&look, &damage)?;
            }
        }
        Ok(())
    });
}

#[test]
fn the_nftables_table() {
    with_scene(|scene| {
        let look = "nft list table inet oxlan";
        scene.repairs_line(look, "nft delete table inet oxlan")?;
        scene.repairs_line(look, "nft flush table inet oxlan")?;
        scene.repairs_line(look, "nft flush ruleset")?;
        let repairs = scene.node.oxlan_json("status")?["repairs"].as_u64();
        ensure!(repairs >= Some(2), "{repairs:?} repairs are counted");
        ensure!(
            scene.node.log().contains("put back the nftables table"),
            "they are not named"
        );
        Ok(())
    });
}

#[test]
fn programs() {
    with_scene(|scene| {
        let hooks = [
            ("from_pod", scene.veth.as_str(), TcAttachType::Ingress),
            ("to_pod", scene.veth.as_str(), TcAttachType::Egress),
            ("from_uplink", UPLINK, TcAttachType::Ingress),
            ("from_overlay", "oxlan0", TcAttachType::Ingress),
            ("to_overlay", "oxlan0", TcAttachType::Egress),
        ];
        for (program, device, side) in hooks {
            let index = scene.node.netns.ifindex(device)?;
            let pin = scene.pin(&format!("links/{program}-{device}-{index}"));
            let look = || scene.attached(device, side);
            for damage in detachments(scene, device, side, &pin)? {
                scene.repairs(&format!("{program} after `{damage}`"), look, || {
                    scene.node.netns.run(&damage).map(drop)
                })?;
            }
            scene.repairs(&format!("the pin of {program}"), look, || {
                Ok(std::fs::remove_file(&pin)?)
            })?;
            ensure!(Path::new(&pin).exists(), "{pin} was not pinned again");
        }
        Ok(())
    });
}

/// Ways in which somebody can detach a program.
fn detachments(
    scene: &Scene<'_>,
    device: &str,
    side: TcAttachType,
    pin: &str,
) -> Result<Vec<String>> {
    Ok(if scene.has_filters(device)? {
        let side = side_name(side);
        vec![
            format!("tc filter delete dev {device} {side}"),
            format!("tc qdisc delete dev {device} clsact"),
        ]
    } else {
        vec![format!("bpftool link detach pinned {pin}")]
    })
}

fn side_name(side: TcAttachType) -> &'static str {
    match side {
        TcAttachType::Egress => "egress",
        TcAttachType::Ingress | TcAttachType::Custom(_) => "ingress",
    }
}

/// The uplink's MTU is the administrator's; pods follow it.
#[test]
fn the_mtu_follows_the_uplink() {
    with_scene(|scene| {
        let Scene { node, pod, .. } = scene;
        let mtu = |device: &str| format!("ip -o link show dev {device}");
        node.netns.run(&format!("ip link set {UPLINK} mtu 1400"))?;
        until_true(LIMIT, "new MTU", || {
            Ok(node.netns.run(&mtu("oxlan0"))?.contains("mtu 1350 ")
                && node.netns.run(&mtu(&scene.veth))?.contains("mtu 1350 ")
                && pod.netns.run(&mtu("eth0"))?.contains("mtu 1350 "))
        })
    });
}

/// Changes that are none of Oxlan's business stay.
#[test]
fn other_peoples_things_are_left_alone() {
    with_scene(|scene| {
        let node = &scene.node.netns;
        node.run_all(&[
            "ip route add 203.0.113.0/24 via 192.168.50.254",
            "ip link add bridge7 type bridge",
            "nft add table inet other",
            "sysctl -qw net.ipv4.conf.lo.forwarding=0",
        ])?;
        scene.repairs_line(
            "ip -4 route show exact 10.244.0.0/16",
            "ip route del 10.244.0.0/16",
        )?;
        node.run("ip link show dev bridge7")?;
        node.run("nft list table inet other")?;
        ensure!(
            node.run("ip route show 203.0.113.0/24")?
                .contains("203.0.113"),
            "route is gone"
        );
        assert_eq!(
            node.run("sysctl -n net.ipv4.conf.lo.forwarding")?.trim(),
            "0"
        );
        Ok(())
    });
}
