//! The plugin in a chain with reference plugins from Debian.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oxlan_tests::libcni::site::{Site, column, with_references};
use oxlan_tests::netns::Netns;
use oxlan_tests::underlay::INTERNET_V4;
use serde_json::{Map, json};

/// The versions of the reference plugins in Debian that have CHECK.
const VERSIONS: [&str; 2] = ["0.4.0", "1.0.0"];

/// Oxlan between two reference plugins: what came before stays, what comes after finds its interface.
#[test]
fn runtime_libcni_chain_with_loopback_and_tuning() {
    with_references(|site| {
        for version in VERSIONS {
            let tuning = json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "517"}});
            let oxlan = site.plugin();
            let network = json!({"cniVersion": version, "name": "oxlan",
                "plugins": [{"type": "loopback"}, oxlan, tuning]});
            site.libcni.validate(&network)?;
            let (netns, pod) = site.attachment(&format!("chain{version}"))?;
            let result = site.libcni.add(&network, &pod)?;
            let names = column(&result, "interfaces", "name");
            assert_eq!(names.len(), 3, "{result}");
            assert_eq!((names[0].as_str(), names[2].as_str()), ("lo", "eth0"));
            let interfaces: Vec<u64> = result["ips"]
                .as_array()
                .context("no ips")?
                .iter()
                .filter_map(|ip| ip["interface"].as_u64())
                .collect();
            assert!(interfaces.ends_with(&[2, 2]), "{result}");
            assert_eq!(netns.run("sysctl -n net.core.somaxconn")?.trim(), "517");
            site.libcni.check(&network, &pod)?;
            site.node.kill_agent()?;
            site.node.start_agent()?;
            site.libcni.check(&network, &pod)?;
            netns.run("sysctl -qw net.core.somaxconn=100")?;
            assert!(
                site.libcni.check(&network, &pod).is_err(),
                "tuning sees its own"
            );
            site.libcni.del(&network, &pod)?;
        }
        site.expect_pods(0)
    });
}

/// Published ports: the host translates addresses, and answers must go back through it.
///
/// Without CHECK: that of the plugin in Debian 12 looks for IPv4's rules in IPv6's table.
#[test]
fn runtime_libcni_chain_with_portmap() {
    with_references(|site| {
        let portmap =
            json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true});
        let network = site.network("1.0.0", &[portmap]);
        let (netns, mut pod) = site.attachment("published")?;
        let mappings = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        pod.capabilities = Map::from_iter([("portMappings".to_owned(), mappings)]);
        let result = site.libcni.add(&network, &pod)?;
        let address = column(&result, "ips", "address");
        let address = address[0].split('/').next().context("no address")?;
        expect_published(site, &netns, address)?;
        site.libcni.del(&network, &pod)?;
        let rules = site.node.netns.run("iptables-save -t nat")?;
        assert!(!rules.contains(address), "{rules}");
        site.expect_pods(0)
    });
}

/// The capability of the plugin itself, by way of libcni; the reference plugin finds the place taken.
#[test]
fn runtime_libcni_chain_with_bandwidth() {
    with_references(|site| {
        let limits = json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000});
        let capability = json!({"bandwidth": true});
        let mut oxlan = site.plugin();
        oxlan["capabilities"] = capability.clone();
        let network = json!({"cniVersion": "1.0.0", "name": "oxlan", "plugins": [oxlan]});
        let (netns, mut pod) = site.attachment("limited")?;
        pod.capabilities = Map::from_iter([("bandwidth".to_owned(), limits.clone())]);
        site.libcni.add(&network, &pod)?;
        assert!(netns.run("tc qdisc show dev eth0")?.contains("rate 8Mbit"));
        site.libcni.check(&network, &pod)?;
        site.libcni.del(&network, &pod)?;

        let reference = json!({"type": "bandwidth", "capabilities": capability});
        let network = site.network("1.0.0", &[reference]);
        let (_netns, mut pod) = site.attachment("unlimited")?;
        pod.capabilities = Map::from_iter([("bandwidth".to_owned(), limits)]);
        let error = site.libcni.add(&network, &pod).expect_err("there is room");
        assert!(format!("{error:#}").contains("file exists"), "{error:#}");
        site.libcni.del(&network, &pod)?;
        site.expect_pods(0)
    });
}

/// Clients reach the container by its node's address and the published port, also those whose answers the
/// fast path would take past the host: pods of the same node, and the container itself.
fn expect_published(site: &Site<'_>, server: &Netns, pod: &str) -> Result<()> {
    let near = site.node.add_pod("near")?;
    let far = site.cluster.nodes[1].add_pod("far")?;
    let clients = [
        (
            "the internet",
            &site.cluster.underlay.internet,
            Some(IpAddr::V4(INTERNET_V4)),
        ),
        ("its own node", &site.node.netns, None),
        ("another node", &site.cluster.nodes[1].netns, None),
        ("a pod of its node", &near.netns, Some(near.ipv4()?.into())),
        ("a pod of another node", &far.netns, None),
        ("itself", server, None),
    ];
    let listener = server.inside(|| Ok(TcpListener::bind("0.0.0.0:80")?))?;
    let published = SocketAddr::from((site.node.underlay, 8080));
    for (who, client, seen_as) in clients {
        let seen = connect(client, published, &listener)
            .with_context(|| format!("{who} does not reach {pod} as {published}"))?;
        if let Some(address) = seen_as {
            assert_eq!(seen, address, "{who} is seen under another address");
        }
    }
    site.node.delete_pod(&near)?;
    site.cluster.nodes[1].delete_pod(&far)
}

/// Connects, has a greeting sent there and back, and returns the client's address as the server saw it.
fn connect(client: &Netns, to: SocketAddr, listener: &TcpListener) -> Result<IpAddr> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let mut near = client.inside(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
    let (mut far, peer) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(PATIENCE))?;
    }
    let mut greeting = [0; 5];
    near.write_all(b"hello")?;
    far.read_exact(&mut greeting).context("nothing arrives")?;
    far.write_all(&greeting)?;
    near.read_exact(&mut greeting)
        .context("no answer arrives")?;
    ensure!(
        &greeting == b"hello",
        "another greeting arrived: {greeting:?}"
    );
    Ok(peer.ip())
}
