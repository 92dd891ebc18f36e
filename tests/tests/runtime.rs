//! Real containers: containerd from Debian attaches them through the plugin.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use oxlan_tests::binaries::unpacked;
use oxlan_tests::containerd::Containerd;
use oxlan_tests::containerd::container::Container;
use oxlan_tests::containerd::image::LARGE;
use oxlan_tests::containerd::site::with_containers;
use oxlan_tests::scope::Scope;
use oxlan_tests::skip::skip;
use serde_json::json;

/// What servers run: HTTP for both families.
const SERVER: &str = "httpd -f -p 80 -h /www";

/// What clients run: nothing.
const IDLE: &str = "sleep 1000000";

/// With the reference plugins, so that a failure of the others is not one of this set-up.
#[test]
fn runtime_set_up_works_with_the_reference_bridge() -> Result<()> {
    if let Err(missing) = unpacked("usr/bin/containerd") {
        skip(&format!("{missing:#}"));
        return Ok(());
    }
    let scope = Scope::for_test()?;
    let node = scope.netns("node-1")?;
    let runtime = Containerd::start(&scope, &node, "node-1")?;
    for plugin in ["bridge", "host-local"] {
        runtime.install_plugin(&unpacked(&format!("usr/lib/cni/{plugin}"))?)?;
    }
    let ipam = json!({
        "type": "host-local",
        "ranges": [[{"subnet": "10.99.1.0/24"}], [{"subnet": "fd00:99::/64"}]],
        "dataDir": scope.dir().join("ipam"),
    });
    runtime.configure(
        &json!({"cniVersion": "1.0.0", "name": "reference", "plugins": [
            {"type": "bridge", "bridge": "cni0", "ipam": ipam},
        ]}),
    )?;
    let server = runtime.run("server", SERVER)?;
    let client = runtime.run("client", IDLE)?;
    for address in &server.addresses {
        client.ping(*address)?;
    }
    server.remove()?;
    client.remove()?;
    assert_eq!(runtime.containers()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn runtime_containers_talk_on_a_node_and_across() {
    with_containers(2, |_, hosts| {
        let near = hosts[0].runtime.run("near", SERVER)?;
        let far = hosts[1].runtime.run("far", SERVER)?;
        let client = hosts[0].runtime.run("client", IDLE)?;
        for (from, to) in [
            (&client, &near),
            (&client, &far),
            (&far, &client),
            (&far, &near),
        ] {
            assert_eq!(to.addresses.len(), 2, "{} lacks a family", to.name);
            to.addresses
                .iter()
                .try_for_each(|address| from.ping(*address))?;
        }
        for (from, to) in [
            (&client, &near),
            (&client, &far),
            (&far, &near),
            (&near, &far),
        ] {
            exchange(from, to)?;
        }
        Ok(())
    });
}

#[test]
fn runtime_containers_are_shown_by_the_agent() {
    with_containers(1, |_, hosts| {
        let container = hosts[0].runtime.run("web", IDLE)?;
        let record = hosts[0].record("web")?;
        assert_eq!(record["container_id"], container.cni_id());
        assert_eq!(record["phase"], "ready");
        assert_eq!(record["ifname"], "eth0");
        assert_eq!(record["network"], "oxlan");
        assert_eq!(record["netns"], format!("/proc/{}/ns/net", container.pid));
        let shown: Vec<IpAddr> = serde_json::from_value(record["addresses"].clone())?;
        assert_eq!(shown, container.addresses);
        let device = record["host"]["name"].as_str().context("no host device")?;
        let line = hosts[0]
            .node
            .netns
            .run(&format!("ip -o link show dev {device}"))?;
        assert!(
            line.starts_with(&format!("{}: ", record["host"]["ifindex"])),
            "{line}"
        );
        let inside = container.exec("cat /sys/class/net/eth0/address")?;
        assert_eq!(record["mac"], inside.trim());
        let table = hosts[0].node.oxlan("pods")?;
        assert!(table.contains(&shown[0].to_string()), "{table}");
        Ok(())
    });
}

#[test]
fn runtime_removal_leaves_nothing_and_the_address_rests() {
    with_containers(1, |_, hosts| {
        let runtime = &hosts[0].runtime;
        let first = runtime.run("first", IDLE)?;
        let addresses = first.addresses.clone();
        assert!(!hosts[0].traces()?.is_empty());
        first.remove()?;
        assert_eq!(hosts[0].traces()?, Vec::<String>::new());
        assert_eq!(runtime.containers()?, Vec::<String>::new());
        let second = runtime.run("first", IDLE)?;
        for address in &second.addresses {
            assert!(
                !addresses.contains(address),
                "{address} is used again at once"
            );
        }
        second.remove()
    });
}

#[test]
fn runtime_starts_and_ends_many_containers_at_once() {
    const MANY: usize = 12;
    with_containers(1, |_, hosts| {
        let runtime = &hosts[0].runtime;
        let containers: Vec<Container<'_>> = std::thread::scope(|scope| {
            let start = |number| scope.spawn(move || runtime.run(&format!("c{number}"), IDLE));
            let threads: Vec<_> = (0..MANY).map(start).collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("a thread panicked"))
                .collect::<Result<_>>()
        })?;
        let mut addresses: Vec<IpAddr> = containers
            .iter()
            .flat_map(|container| container.addresses.clone())
            .collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(
            addresses.len(),
            2 * MANY,
            "an address is missing or double: {addresses:?}"
        );
        let (first, last) = (&containers[0], &containers[MANY - 1]);
        last.addresses
            .iter()
            .try_for_each(|address| first.ping(*address))?;
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for container in containers {
                threads.push(scope.spawn(move || container.remove()));
            }
            threads
                .into_iter()
                .try_for_each(|t| t.join().expect("a thread panicked"))
        })?;
        assert_eq!(hosts[0].traces()?, Vec::<String>::new());
        Ok(())
    });
}

/// libcni of the runtime reads each form of result.
#[test]
fn runtime_reads_results_of_every_version_it_knows() {
    with_containers(1, |_, hosts| {
        for version in ["0.3.1", "0.4.0", "1.0.0"] {
            hosts[0].runtime.configure(&hosts[0].network(version))?;
            let container = hosts[0].runtime.run("versioned", IDLE)?;
            assert_eq!(container.addresses.len(), 2, "version {version}");
            container.remove()?;
        }
        assert_eq!(hosts[0].traces()?, Vec::<String>::new());
        Ok(())
    });
}

/// HTTP with both families: a small answer that tells who asked, and a large one, unharmed.
fn exchange(from: &Container<'_>, to: &Container<'_>) -> Result<()> {
    for (own, address) in from.addresses.iter().zip(&to.addresses) {
        let url = match address {
            IpAddr::V4(v4) => format!("http://{v4}"),
            IpAddr::V6(v6) => format!("http://[{v6}]"),
        };
        let asked = from.exec(&format!("timeout 20 wget -q -O - {url}/cgi-bin/who-asks"))?;
        // The server's socket is for both families, so IPv4 clients come as `[::ffff:10.244.1.2]`.
        let asked: IpAddr = asked.trim().trim_matches(['[', ']']).parse()?;
        let asked = asked.to_canonical();
        ensure!(asked == *own, "{url} was asked by {asked} instead of {own}");
        from.exec(&format!("timeout 20 wget -q -O /copy {url}/large"))?;
        let size = from.exec("wc -c /copy")?;
        ensure!(
            size.starts_with(&format!("{LARGE} ")),
            "{url} gave {size} bytes"
        );
        let sums = from.exec("sha256sum /copy /www/large")?;
        let sums: Vec<&str> = sums
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        ensure!(
            sums.len() == 2 && sums[0] == sums[1],
            "{url} gave other bytes: {sums:?}"
        );
    }
    Ok(())
}
