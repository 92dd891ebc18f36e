//! XDP on the uplinks: chosen or not and why, kept, moved, refused, and what a pod must have for it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::util::KernelVersion;
use oxlan_tests::capture::Capture;
use oxlan_tests::cluster::{Cluster, Families, Shape, with_cluster};
use oxlan_tests::cni::Call;
use oxlan_tests::fabric::{UPLINKS, router_v4, with_fabric};
use oxlan_tests::node::Node;
use oxlan_tests::pod::{IFNAME, Pod};
use oxlan_tests::run::host;
use oxlan_tests::skip::skip;
use oxlan_tests::traffic::udp_stream::UdpStream;
use oxlan_tests::traffic::{End, tcp, udp};
use oxlan_tests::underlay::UPLINK;
use oxlan_tests::wait::{SOON, until_true};

/// Whether XDP runs on the one uplink of a node, and why, as `oxlan status` tells.
fn told(node: &Node) -> Result<(bool, String)> {
    let status = node.oxlan_json("status")?;
    let xdp = &status["xdp"][0];
    Ok((xdp["used"] == true, xdp["reason"].to_string()))
}

/// Whether it runs, as the kernel tells.
fn runs(node: &Node, device: &str) -> Result<bool> {
    let link = node.netns.run(&format!("ip -details link show {device}"))?;
    Ok(link.contains("prog/xdp"))
}

/// Waits until the pod's packets come by XDP, and checks both families.
fn comes_by_xdp(node: &Node, pod: &Pod, from: &Pod) -> Result<()> {
    for to in pod.addresses() {
        until_true(SOON, "delivery by XDP", || {
            let before = node.verdicts("from-vtep-xdp")?;
            from.ping(to)?;
            Ok(node.verdicts("from-vtep-xdp")? > before)
        })?;
    }
    Ok(())
}

fn pods(cluster: &Cluster) -> Result<(Pod, Pod)> {
    Ok((
        cluster.nodes[0].add_pod("a")?,
        cluster.nodes[1].add_pod("b")?,
    ))
}

#[test]
fn frames_go_to_pods_and_bulk_arrives() {
    with_cluster(Shape::nodes(2).with_xdp(), |cluster| {
        let (a, b) = pods(cluster)?;
        for node in &cluster.nodes {
            let (used, reason) = told(node)?;
            ensure!(used && reason.contains("veth"), "{reason}");
            ensure!(runs(node, UPLINK)?);
            let table = node.oxlan("status")?;
            ensure!(table.contains("on eth0 (native, driver veth)"), "{table}");
        }
        comes_by_xdp(&cluster.nodes[0], &a, &b)?;
        comes_by_xdp(&cluster.nodes[1], &b, &a)?;
        for (from, to) in a.addresses().zip(b.addresses()) {
            let (from, to) = (End::new(&a.netns, from), End::new(&b.netns, to));
            let before = cluster.nodes[1].verdicts("from-vtep-xdp")?;
            tcp::transfer(from, to, 4 << 20)?;
            tcp::transfer(to, from, 4 << 20)?;
            let frames = cluster.nodes[1].verdicts("from-vtep-xdp")? - before;
            ensure!(frames > 4 << 20 >> 11, "only {frames} frames by XDP");
        }
        Ok(())
    });
}

#[test]
fn frames_over_ipv6_go_to_pods() {
    with_cluster(Shape::nodes(2).with_xdp().over(Families::V6), |cluster| {
        let (a, b) = pods(cluster)?;
        comes_by_xdp(&cluster.nodes[0], &a, &b)?;
        comes_by_xdp(&cluster.nodes[1], &b, &a)?;
        for (from, to) in a.addresses().zip(b.addresses()) {
            let (from, to) = (End::new(&a.netns, from), End::new(&b.netns, to));
            tcp::transfer(from, to, 4 << 20)?;
        }
        Ok(())
    });
}

/// A larger underlay: frames lie in several buffers.
#[test]
fn jumbo_frames_go_to_pods() {
    let shape = Shape {
        mtu: 9000,
        ..Shape::nodes(2).with_xdp()
    };
    with_cluster(shape, |cluster| {
        let (a, b) = pods(cluster)?;
        comes_by_xdp(&cluster.nodes[1], &b, &a)?;
        for to in b.addresses() {
            let line = format!("ping -n -q -c 3 -i 0.05 -W 1 -M do -s 8902 {to}");
            let before = cluster.nodes[1].verdicts("from-vtep-xdp")?;
            a.netns.run(&line)?;
            // Older kernels do not redirect frames in several buffers.
            let by_xdp = cluster.nodes[1].verdicts("from-vtep-xdp")? - before;
            ensure!(
                by_xdp >= 3
                    || KernelVersion::current().is_ok_and(|now| now < KernelVersion::new(6, 3, 0))
            );
        }
        tcp::transfer(
            End::new(&a.netns, a.ipv6()?),
            End::new(&b.netns, b.ipv6()?),
            8 << 20,
        )?;
        Ok(())
    });
}

#[test]
fn it_is_switched_off_and_on_under_a_stream() {
    with_cluster(Shape::nodes(2).with_xdp(), |cluster| {
        let (a, b) = pods(cluster)?;
        let node = &cluster.nodes[1];
        comes_by_xdp(node, &b, &a)?;
        let stream = UdpStream::start(
            End::new(&a.netns, a.ipv4()?),
            End::new(&b.netns, b.ipv4()?),
            Duration::from_millis(1),
        )?;
        for wanted in ["off", "on", "auto", "on"] {
            node.kill_agent()?;
            node.spawn_agent_with(&[("OXLAN_XDP", wanted)])?;
            node.wait_ready()?;
            ensure!(told(node)?.0 == (wanted == "on"), "{:?}", told(node)?);
            ensure!(runs(node, UPLINK)? == (wanted == "on"), "with {wanted}");
            stream.wait_for_more(100)?;
        }
        comes_by_xdp(node, &b, &a)?;
        stream.finish()?.expect_perfect(400)
    });
}

#[test]
fn who_detaches_it_sees_it_again() {
    with_cluster(Shape::nodes(2).with_xdp(), |cluster| {
        let (a, b) = pods(cluster)?;
        let node = &cluster.nodes[0];
        comes_by_xdp(node, &a, &b)?;
        let index = node.netns.ifindex(UPLINK)?;
        let pin = node
            .dirs
            .bpf
            .join(format!("links/xdp_uplink-{UPLINK}-{index}"));
        host(&format!("bpftool link detach pinned {}", pin.display()))?;
        // The link first, then its pin.
        until_true(SOON, "XDP on the uplink again", || {
            Ok(runs(node, UPLINK)? && pin.exists())
        })?;
        std::fs::remove_file(&pin)?;
        until_true(SOON, "the pin again", || Ok(pin.exists()))?;
        comes_by_xdp(node, &a, &b)?;
        ensure!(node.oxlan_json("status")?["repairs"].as_u64() >= Some(1));
        // The uplink gets another MAC, as a bond's can, and tells its neighbours: frames are for that one now.
        node.netns.run_all(&[
            &format!("sysctl -qw net.ipv4.conf.{UPLINK}.arp_notify=1"),
            &format!("ip link set {UPLINK} address 02:00:00:00:77:01"),
        ])?;
        comes_by_xdp(node, &a, &b)?;
        node.stop_agent()?;
        ensure!(runs(node, UPLINK)?, "it does not need the agent");
        node.cleanup()?;
        until_true(SOON, "nothing on the uplink", || Ok(!runs(node, UPLINK)?))
    });
}

/// What is not given to a pod as frames comes by TC.
#[test]
fn a_pod_with_a_smaller_mtu_gets_packets() {
    with_cluster(Shape::nodes(2).with_xdp(), |cluster| {
        let (a, b) = pods(cluster)?;
        let node = &cluster.nodes[1];
        comes_by_xdp(node, &b, &a)?;
        let mut config = node.cni_config();
        config["mtu"] = 1400.into();
        let netns = node.pod_netns("small")?;
        let path = netns.path().to_string_lossy().into_owned();
        let add = Call {
            verb: "ADD",
            container: netns.name(),
            netns: &path,
            ifname: IFNAME,
            args: "",
            config,
        };
        let answer = add.run(&node.netns)?;
        let small = Pod::from_result(netns.clone(), netns.name(), answer.result()?)?;
        let before = node.verdicts("from-vtep")?;
        for to in small.addresses() {
            let line = format!("ping -n -q -c 3 -i 0.05 -W 1 -s 1300 {to}");
            a.netns.run(&line)?;
        }
        ensure!(node.verdicts("from-vtep")? >= before + 6);
        Ok(())
    });
}

/// Somebody inside makes the interface unfit for frames, which a veth drops without a word.
#[test]
fn a_pod_that_takes_no_frames_any_more_gets_packets() {
    with_cluster(Shape::nodes(2).with_xdp(), |cluster| {
        let (a, b) = pods(cluster)?;
        let node = &cluster.nodes[1];
        for (spoil, restore) in [
            ("ethtool -K eth0 gro off", "ethtool -K eth0 gro on"),
            ("ip link set eth0 mtu 1300", "ip link set eth0 mtu 1450"),
        ] {
            comes_by_xdp(node, &b, &a)?;
            b.netns.run(spoil)?;
            // Longer than what the interface takes then.
            for to in b.addresses() {
                until_true(SOON, &format!("delivery by TC after `{spoil}`"), || {
                    let before = node.verdicts("from-vtep-xdp")?;
                    let line = format!("ping -n -q -c 2 -i 0.05 -W 1 -s 1350 {to}");
                    let arrived = a.netns.run(&line).is_ok();
                    Ok(arrived && node.verdicts("from-vtep-xdp")? == before)
                })?;
            }
            b.netns.run(restore)?;
        }
        comes_by_xdp(node, &b, &a)
    });
}

/// A promiscuous uplink sees frames of other VLANs and for others, which XDP meets before the kernel compares.
#[test]
fn frames_for_others_are_not_taken() {
    with_cluster(Shape::nodes(2).with_xdp(), |cluster| {
        let (a, b) = pods(cluster)?;
        let [sender, node] = [&cluster.nodes[0], &cluster.nodes[1]];
        node.netns
            .run(&format!("ip link set {UPLINK} promisc on"))?;
        comes_by_xdp(node, &b, &a)?;
        let mac = node.netns.run(&format!("ip -br link show {UPLINK}"))?;
        let mac = mac
            .split_whitespace()
            .find(|word| word.matches(':').count() == 5)
            .context("no MAC")?
            .to_owned();
        let vlan = format!("ip link add link {UPLINK} name tagged up type vlan id 7");
        let has_vlans = match sender.netns.run(&vlan) {
            Err(error) if format!("{error:#}").contains("Unknown device type") => {
                skip("this kernel has no VLAN devices to send tagged frames with");
                false
            }
            made => made.map(|_| true)?,
        };
        let peer = node.underlay;
        let ways = [
            (UPLINK, "02:00:00:00:99:99", "another MAC"),
            ("tagged", mac.as_str(), "another VLAN"),
        ];
        for (device, mac, what) in ways.into_iter().take(if has_vlans { 2 } else { 1 }) {
            sender.netns.run_all(&[
                &format!(
                    "ip route replace {peer}/32 dev {device} src {}",
                    sender.underlay
                ),
                &format!("ip neigh replace {peer} lladdr {mac} dev {device} nud permanent"),
            ])?;
            until_true(SOON, "way of the packets", || {
                let routes = sender.oxlan_json("routes")?;
                let rows = routes.as_array().context("no routes")?;
                let mut others = rows.iter().filter(|row| row["local"] == false);
                Ok(others.all(|row| row["device"] == device))
            })?;
            let (options, filter) = ("-e -t", "udp port 8472 or (vlan and udp port 8472)");
            let arriving = Capture::start(cluster.scope(), &node.netns, UPLINK, options, filter)?;
            let before = [node.verdicts("from-vtep-xdp")?, node.verdicts("from-vtep")?];
            for to in b.addresses() {
                ensure!(a.ping(to).is_err(), "{to} was reached by {what}");
            }
            // They were there.
            arriving.wait_for(&format!("> {mac}"))?;
            let after = [node.verdicts("from-vtep-xdp")?, node.verdicts("from-vtep")?];
            ensure!(before == after, "{what}: {before:?} {after:?}");
            sender.netns.run_all(&[
                &format!("ip neigh del {peer} dev {device}"),
                &format!("ip route del {peer}/32 dev {device}"),
            ])?;
        }
        comes_by_xdp(node, &b, &a)
    });
}

#[test]
fn on_a_veth_it_is_chosen_only_explicitly() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        if node.xdp {
            node.stop_agent()?;
            node.spawn_agent_with(&[("OXLAN_XDP", "auto")])?;
            node.wait_ready()?;
        }
        let (used, reason) = told(node)?;
        ensure!(!used && reason.contains("is a veth"), "{reason}");
        ensure!(!runs(node, UPLINK)?);
        node.stop_agent()?;
        // Its tags are beside the frame, unless somebody says otherwise.
        node.netns.run(&format!("ethtool -K {UPLINK} rxvlan on"))?;
        refuses(node, "rxvlan off")
    });
}

/// Expects an agent with `--xdp on` to end, and to say why; `auto` starts, without XDP.
fn refuses(node: &Node, why: &str) -> Result<()> {
    node.spawn_agent_with(&[("OXLAN_XDP", "on")])?;
    ensure!(!node.agent_ended()?.success());
    let log = node.log();
    let last: Vec<&str> = log.lines().rev().take(6).collect();
    ensure!(last.iter().any(|line| line.contains(why)), "{log}");
    node.spawn_agent_with(&[("OXLAN_XDP", "auto")])?;
    node.wait_ready()?;
    let (used, reason) = told(node)?;
    ensure!(!used, "{reason}");
    node.stop_agent()
}

#[test]
fn somebody_elses_program_is_left_alone() {
    with_cluster(Shape::nodes(1).with_xdp(), |cluster| {
        let node = &cluster.nodes[0];
        let pin = node.dirs.bpf.join("progs/xdp_uplink");
        let foreign = cluster.scope().bpf_dir().join("foreign");
        let id = host(&format!("bpftool prog show pinned {}", pin.display()))?;
        let id = id.split(':').next().unwrap_or_default();
        host(&format!("bpftool prog pin id {id} {}", foreign.display()))?;
        node.stop_agent()?;
        node.cleanup()?;
        until_true(SOON, "a free uplink", || Ok(!runs(node, UPLINK)?))?;
        let set = |what: &str| {
            host(&format!(
                "nsenter --net=/run/netns/{} ip link set dev {UPLINK} {what}",
                node.netns.name()
            ))
        };
        set(&format!("xdp pinned {}", foreign.display()))?;
        refuses(node, "runs the XDP program")?;
        ensure!(runs(node, UPLINK)?, "it is gone");
        set("xdp off")?;
        std::fs::remove_file(&foreign)?;
        node.spawn_agent()?;
        node.wait_ready()?;
        ensure!(runs(node, UPLINK)?);
        Ok(())
    });
}

/// Uplinks that only routes tell of count, too: the address is on the loopback.
#[test]
fn it_is_refused_for_uplinks_that_only_routes_tell_of() {
    with_fabric(2, "", |fabric| {
        let node = &fabric.nodes[0];
        let hides_tags = |value: &str| {
            let line = |uplink| {
                node.netns
                    .run(&format!("ethtool -K {uplink} rxvlan {value}"))
            };
            UPLINKS.into_iter().try_for_each(|u| line(u).map(drop))
        };
        hides_tags("on")?;
        refuses(node, "rxvlan off")?;
        hides_tags("off")?;
        let add = format!("ip link add link {} name tagged type vlan id 5", UPLINKS[0]);
        if !makes_device(node, &add)? {
            return Ok(());
        }
        node.netns.run_all(&[
            "ip link set tagged up",
            &format!(
                "ip route replace 192.168.50.0/24 src {} via {} dev tagged onlink",
                node.underlay,
                router_v4(0, node.number)
            ),
        ])?;
        refuses(node, "is a VLAN device")
    });
}

/// Adds a device, or says that this kernel has no such devices.
fn makes_device(node: &Node, line: &str) -> Result<bool> {
    match node.netns.run(line) {
        Ok(_) => Ok(true),
        Err(error) if format!("{error:#}").contains("Unknown device type") => {
            skip(&format!("not every kernel has the module for `{line}`"));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// A bridge has no driver that could run it, and a VLAN device has none at all; TC does all of the work there.
#[test]
fn uplinks_without_native_xdp() {
    with_cluster(Shape::nodes(2), |cluster| {
        let (a, b) = pods(cluster)?;
        for node in &cluster.nodes {
            node.stop_agent()?;
        }
        for (kind, device, why) in [
            ("bridge", "bridge", "no native XDP"),
            ("vlan", "vlan id 5", "is a VLAN device"),
        ] {
            if !move_uplinks(cluster, kind, device)? {
                continue;
            }
            refuses(&cluster.nodes[0], why)?;
            for node in &cluster.nodes {
                node.spawn_agent_with(&[("OXLAN_XDP", "auto")])?;
                node.wait_ready()?;
            }
            pods_talk_by_tc(cluster, &a, &b).with_context(|| format!("over a {kind}"))?;
            for node in &cluster.nodes {
                node.stop_agent()?;
                node.netns.run_all(&[
                    &format!("ip link del up-{kind}"),
                    &format!("ip address add {}/24 dev {UPLINK}", node.underlay),
                ])?;
            }
        }
        Ok(())
    });
}

/// Puts a device of this kind over each node's uplink, with its underlay address, if this kernel has such ones.
fn move_uplinks(cluster: &Cluster, kind: &str, device: &str) -> Result<bool> {
    for node in &cluster.nodes {
        let add = format!("ip link add link {UPLINK} name up-{kind} type {device}");
        if !makes_device(node, &add)? {
            return Ok(false);
        }
        let address = format!("{}/24", node.underlay);
        node.netns.run_all(&[
            &format!("ip address del {address} dev {UPLINK}"),
            &format!("ip link set up-{kind} up"),
            &format!("ip address add {address} dev up-{kind}"),
        ])?;
        if kind == "bridge" {
            let line = format!("ip link set {UPLINK} master up-{kind}");
            node.netns.run(&line)?;
        }
    }
    Ok(true)
}

/// Pods of two nodes exchange pings, datagrams and streams, which the programs of TC deliver.
fn pods_talk_by_tc(cluster: &Cluster, a: &Pod, b: &Pod) -> Result<()> {
    let node = &cluster.nodes[1];
    let before = [node.verdicts("from-vtep")?, node.verdicts("from-vtep-xdp")?];
    for (from, to) in a.addresses().zip(b.addresses()) {
        until_true(SOON, "way to the other node", || Ok(a.ping(to).is_ok()))?;
        let (from, to) = (End::new(&a.netns, from), End::new(&b.netns, to));
        tcp::transfer(from, to, 1 << 20)?;
        udp::exchange(from, to, 1400, 3)?;
        udp::exchange(from, to, 4000, 3)?;
    }
    let after = [node.verdicts("from-vtep")?, node.verdicts("from-vtep-xdp")?];
    ensure!(
        after[0] > before[0] + 10 && after[1] == before[1],
        "{before:?} packets by TC and by XDP, then {after:?}"
    );
    Ok(())
}
