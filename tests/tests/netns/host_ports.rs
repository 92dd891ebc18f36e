//! Ports of the host that lead to pods (the capability `portMappings`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oxlan_tests::cluster::{Cluster, Shape, with_cluster};
use oxlan_tests::netns::Netns;
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::traffic::UdpSocket;
use oxlan_tests::underlay::node_v6;
use oxlan_tests::wait::{SOON, until, until_true};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(3);

/// A configuration with port mappings.
fn config(node: &Node, mappings: Value) -> Value {
    let mut config = node.cni_config();
    config["runtimeConfig"] = json!({ "portMappings": mappings });
    config
}

fn published(node: &Node, name: &str) -> Result<Pod> {
    let mappings = json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "TCP"},
        {"hostPort": 8053, "containerPort": 53, "protocol": "udp"},
        {"hostPort": 0, "containerPort": 1, "protocol": "tcp"},
        {"hostPort": 8081, "containerPort": 80, "hostIP": node.underlay.to_string()},
    ]);
    node.add_pod_with(name, config(node, mappings))
}

fn listener(pod: &Pod) -> Result<TcpListener> {
    let any: IpAddr = std::net::Ipv6Addr::UNSPECIFIED.into();
    pod.netns
        .inside(|| TcpListener::bind((any, 80)).context("a listener"))
}

/// The address from which a server sees a connection to a port of the host.
pub(super) fn seen(from: &Netns, to: SocketAddr, server: &TcpListener) -> Result<IpAddr> {
    let near = from.inside(|| Ok(TcpStream::connect_timeout(&to, LIMIT)));
    let near = near?.with_context(|| format!("to {to}"))?;
    ensure!(near.peer_addr()? == to);
    let (far, peer) = server.accept()?;
    // The answers come back by the same way.
    std::io::Write::write_all(&mut &far, b"x")?;
    near.set_read_timeout(Some(LIMIT))?;
    std::io::Read::read_exact(&mut &near, &mut [0])?;
    Ok(peer.ip().to_canonical())
}

fn refused(from: &Netns, to: SocketAddr) -> Result<bool> {
    let attempt = from.inside(|| Ok(TcpStream::connect_timeout(&to, LIMIT)))?;
    Ok(attempt.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused))
}

/// Addresses of a node, by family.
fn addresses(node: &Node) -> [IpAddr; 2] {
    [node.underlay.into(), node_v6(node.number).into()]
}

#[test]
fn everybody_reaches_a_port_of_the_host() {
    with_cluster(Shape::nodes(2), |cluster| {
        let [node, other] = [&cluster.nodes[0], &cluster.nodes[1]];
        let pod = published(node, "server")?;
        let server = listener(&pod)?;
        let (near, far) = (node.add_pod("near")?, other.add_pod("far")?);
        let own: Vec<IpAddr> = pod.addresses().collect();
        for (family, to) in addresses(node).into_iter().enumerate() {
            let port = SocketAddr::new(to, 8080);
            // Another node, a pod there (as its node), a pod here, the host, and the pod itself (as the host).
            let address = |pod: &Pod| pod.addresses().nth(family).context("an address");
            ensure!(seen(&other.netns, port, &server)? == addresses(other)[family]);
            ensure!(seen(&far.netns, port, &server)? == addresses(other)[family]);
            ensure!(seen(&near.netns, port, &server)? == address(&near)?);
            ensure!(seen(&node.netns, port, &server)? == to);
            ensure!(seen(&pod.netns, port, &server)? != own[family]);
        }
        let loopback = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 8080);
        ensure!(!seen(&node.netns, loopback, &server)?.is_loopback());
        // One address of the host, and not the others.
        let [v4, v6] = addresses(node);
        seen(&other.netns, (v4, 8081).into(), &server)?;
        ensure!(refused(&other.netns, (v6, 8081).into())?);
        // What goes through the host to somebody else's port is not for the pod.
        ensure!(refused(&near.netns, (addresses(other)[0], 8080).into())?);
        Ok(())
    });
}

#[test]
fn a_port_is_one_pods_until_it_goes() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let first = published(node, "first")?;
        let second = node.pod_netns("second")?;
        let mapping = |port: u16| config(node, json!([{"hostPort": port, "containerPort": 80}]));
        let (code, message) = node
            .cni_with("ADD", second.name(), &second, mapping(8080))?
            .error()?;
        ensure!(code == 7, "{code}: {message}");
        ensure!(
            message.contains("port 8080/tcp") && message.contains(&first.container),
            "{message}"
        );
        ensure!(
            node.oxlan_json("pods")?
                .as_array()
                .is_some_and(|pods| pods.len() == 1)
        );
        node.delete_pod(&first)?;
        ensure!(!table(node)?.contains("8080"));
        let answer = node.cni_with("ADD", second.name(), &second, mapping(8080))?;
        let second = Pod::from_result(second.clone(), second.name(), answer.result()?)?;
        let server = listener(&second)?;
        seen(&node.netns, (node.underlay, 8080).into(), &server)?;
        node.delete_pod(&second)?;
        // Without ports there is no table at all.
        ensure!(!node.succeeds("nft list table inet oxlan_ports")?);
        Ok(())
    });
}

fn table(node: &Node) -> Result<String> {
    match node.succeeds("nft list table inet oxlan_ports")? {
        true => node.netns.run("nft list table inet oxlan_ports"),
        false => Ok(String::new()),
    }
}

#[test]
fn wrong_mappings_are_refused_by_name() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let netns = node.pod_netns("wrong")?;
        for (mappings, wanted) in [
            (json!({}), "runtimeConfig.portMappings"),
            (
                json!([{"hostPort": 70000, "containerPort": 1}]),
                "portMappings[0].hostPort",
            ),
            (
                json!([{"hostPort": 1, "containerPort": 0}]),
                "portMappings[0].containerPort",
            ),
            (json!([{"hostPort": 1}]), "portMappings[0].containerPort"),
            (
                json!([{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}]),
                "tcp, udp or sctp",
            ),
            (
                json!([{"hostPort": 1, "containerPort": 1, "hostIP": "eth0"}]),
                "portMappings[0].hostIP",
            ),
            (
                json!([{"hostPort": 1, "containerPort": 1}, {"hostPort": 1, "containerPort": 2}]),
                "port 1/tcp",
            ),
        ] {
            let text = mappings.to_string();
            let answer = node.cni_with("ADD", netns.name(), &netns, config(node, mappings))?;
            let (code, message) = answer.error()?;
            ensure!(
                code == 7 && message.contains(wanted),
                "{text}: {code}: {message}"
            );
        }
        ensure!(
            node.oxlan_json("pods")?
                .as_array()
                .is_some_and(Vec::is_empty)
        );
        Ok(())
    });
}

/// A client that keeps sending from one port, and a port that changes hands meanwhile.
#[test]
fn a_running_udp_flow_follows_the_port() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let internet = &cluster.underlay.internet;
        let client = internet.inside(|| Ok(UdpSocket::bind("0.0.0.0:4000")?))?;
        client.connect((node.underlay, 8053))?;
        // Nobody is there yet; the kernel remembers that.
        let _ = client.send(b"early");
        for name in ["first", "second"] {
            let pod = published(node, name)?;
            let server = pod.netns.inside(|| Ok(UdpSocket::bind("0.0.0.0:53")?))?;
            server.set_nonblocking(true)?;
            until(SOON, "a datagram at the pod", || {
                // An answer to an earlier one, "port unreachable", is reported here first.
                let _ = client.send(b"hello");
                let (_, peer) = server.recv_from(&mut [0; 10])?;
                server.send_to(b"answer", peer)?;
                Ok(())
            })?;
            node.delete_pod(&pod)?;
        }
        Ok(())
    });
}

#[test]
fn ports_survive_agents_and_meddlers() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let pod = published(node, "server")?;
        let server = listener(&pod)?;
        let reach = || seen(&node.netns, (node.underlay, 8080).into(), &server).map(drop);
        let before = table(node)?;
        for line in [
            "nft delete table inet oxlan_ports",
            "nft flush map inet oxlan_ports all_v4",
            "nft flush chain inet oxlan_ports ports",
        ] {
            node.netns.run(line)?;
            until_true(SOON, "the table as it was", || Ok(table(node)? == before))?;
            reach().context(line)?;
        }
        node.kill_agent()?;
        reach().context("without an agent")?;
        node.netns.run("nft delete table inet oxlan_ports")?;
        node.start_agent()?;
        ensure!(table(node)? == before);
        reach()?;
        node.stop_agent()?;
        node.cleanup()?;
        ensure!(table(node)?.is_empty());
        Ok(())
    });
}

/// What `--no-masquerade-to` names sees the pod itself; everybody else sees the node.
#[test]
fn exceptions_from_masquerading() {
    with_cluster(Shape::nodes(2), |cluster: &Cluster| {
        let [node, other] = [&cluster.nodes[0], &cluster.nodes[1]];
        let pod = node.add_pod("client")?;
        let server = other
            .netns
            .inside(|| TcpListener::bind("[::]:7000").context("a listener"))?;
        let to = SocketAddr::new(other.underlay.into(), 7000);
        ensure!(seen(&pod.netns, to, &server)? == IpAddr::from(node.underlay));
        node.stop_agent()?;
        let network = format!("{}/32,2001:db8::/32", other.underlay);
        node.spawn_agent_with(&[("OXLAN_NO_MASQUERADE_TO", &network)])?;
        node.wait_ready()?;
        ensure!(seen(&pod.netns, to, &server)? == IpAddr::from(pod.ipv4()?));
        Ok(())
    });
}

/// `route_localnet` lets the host publish ports on 127.0.0.1: pods must not get there by it.
#[test]
fn a_pod_does_not_reach_what_listens_on_the_hosts_loopback_alone() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let pod = published(node, "intruder")?;
        // The pod believes that 127.0.0.1 is elsewhere.
        let device = pod.host_ifname()?;
        pod.netns.run_all(&[
            "sysctl -qw net.ipv4.conf.all.route_localnet=1",
            "sysctl -qw net.ipv4.conf.eth0.route_localnet=1",
            "ip route flush table local 127.0.0.0/8",
            "ip route flush table local 127.0.0.1",
            "ip route add 127.0.0.1 via 169.254.1.1 dev eth0 onlink",
        ])?;
        let setting = node
            .netns
            .run(&format!("sysctl -n net.ipv4.conf.{device}.route_localnet"))?;
        ensure!(setting.trim() == "1", "it could not get there anyway");
        let listen = |address: IpAddr| {
            node.netns.inside(|| {
                let socket = UdpSocket::bind((address, 9999))?;
                socket.set_read_timeout(Some(LIMIT))?;
                Ok(socket)
            })
        };
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let (secret, open) = (listen(loopback)?, listen(node.underlay.into())?);
        secret.set_nonblocking(true)?;
        let source = pod.ipv4()?;
        let sender = pod.netns.inside(|| Ok(UdpSocket::bind((source, 0))?))?;
        let intrudes = || -> Result<bool> {
            sender.send_to(b"secret", (loopback, 9999))?;
            // What the pod sent before has been dealt with when this arrives.
            sender.send_to(b"open", (node.underlay, 9999))?;
            open.recv(&mut [0; 16]).context("the host's own address")?;
            Ok(secret.recv(&mut [0; 16]).is_ok())
        };
        ensure!(!intrudes()?, "it got there");
        // Without the guard it does, so the test is one.
        node.kill_agent()?;
        node.netns.run("nft flush chain inet oxlan_ports guard")?;
        ensure!(intrudes()?, "something else keeps it out");
        node.start_agent()?;
        until_true(SOON, "the guard to be back", || Ok(!intrudes()?))
    });
}
