//! Flows between pods that the host translates, as kube-proxy makes them: the answers go by the host, too.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use oxlan_tests::cluster::{Cluster, Shape, with_cluster};
use oxlan_tests::netns::Netns;
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::traffic::{End, UdpSocket, connect_from, tcp};

const LIMIT: Duration = Duration::from_secs(3);

/// Services' addresses, outside all pod CIDRs.
const SERVICE_V4: &str = "10.96.0.10";
const SERVICE_V6: &str = "fd00:96::10";

/// Puts a service in front of a pod, and refuses what connection tracking does not know, as kube-proxy does.
fn publish(node: &Node, pod: &Pod) -> Result<()> {
    node.netns.run_all(&[
        "nft add table inet services",
        "nft add chain inet services pre { type nat hook prerouting priority dstnat ; }",
        "nft add chain inet services forward { type filter hook forward priority 0 ; }",
        "nft flush table inet services",
        "nft add rule inet services forward ct state invalid counter drop",
        &format!(
            "nft add rule inet services pre ip daddr {SERVICE_V4} dnat ip to {}",
            pod.ipv4()?
        ),
        &format!(
            "nft add rule inet services pre ip6 daddr {SERVICE_V6} dnat ip6 to {}",
            pod.ipv6()?
        ),
    ])
}

/// Own address, service's address and backend's address, by family.
fn families(client: &Pod, server: &Pod) -> Result<[[IpAddr; 3]; 2]> {
    Ok([
        [
            client.ipv4()?.into(),
            SERVICE_V4.parse()?,
            server.ipv4()?.into(),
        ],
        [
            client.ipv6()?.into(),
            SERVICE_V6.parse()?,
            server.ipv6()?.into(),
        ],
    ])
}

/// Runs a test with a backend on the client's own node, and then with one on another node.
fn near_and_far(test: impl Fn(&Cluster, &Pod, &Pod) -> Result<()>) {
    with_cluster(Shape::nodes(2), |cluster| {
        let client = cluster.nodes[0].add_pod("client")?;
        for node in &cluster.nodes {
            let server = node.add_pod("server")?;
            publish(&cluster.nodes[0], &server)?;
            test(cluster, &client, &server)
                .with_context(|| format!("backend on node {}", node.number))?;
        }
        Ok(())
    });
}

#[test]
fn a_service_is_reached_by_every_protocol() {
    near_and_far(|_, client, server| {
        for [own, service, backend] in families(client, server)? {
            let near = End::new(&client.netns, own);
            let far = End::new(&server.netns, backend).reached_at(service);
            ensure!(tcp::transfer(near, far, 1 << 20)? == own);
            client.ping(service)?;
            // The second is cut into fragments, of which only the first has ports.
            for size in [100, 5000] {
                exchange(near, far, size)?;
            }
        }
        Ok(())
    });
}

/// A datagram there and back over a socket that takes answers from the service alone.
fn exchange(client: End<'_>, server: End<'_>, size: usize) -> Result<()> {
    let near = client.udp()?;
    let far = server.udp()?;
    near.connect((server.address, far.local_addr()?.port()))?;
    let (data, mut buffer) = (vec![7; size], vec![0; size + 1]);
    for direction in ["first", "second"] {
        near.send(&data)?;
        let (len, peer) = far.recv_from(&mut buffer)?;
        ensure!(len == size && peer.ip() == client.address, "{direction}");
        far.send_to(&data, peer)?;
        let answer = near.recv(&mut buffer);
        let len = answer.with_context(|| format!("{direction} answer, {size} bytes"))?;
        ensure!(len == size, "{len} of {size} bytes");
    }
    Ok(())
}

/// The backend's "port unreachable" names the packet that the backend saw; the host translates that, too.
#[test]
fn an_error_message_comes_from_the_service() {
    near_and_far(|_, client, server| {
        for [own, service, _] in families(client, server)? {
            let socket: UdpSocket = End::new(&client.netns, own).udp()?;
            socket.connect((service, 9))?;
            socket.send(b"anybody there?")?;
            let answer = socket.recv(&mut [0; 10]);
            let kind = answer.as_ref().map_err(std::io::Error::kind);
            ensure!(
                kind == Err(std::io::ErrorKind::ConnectionRefused),
                "{answer:?} from {service}"
            );
        }
        Ok(())
    });
}

/// A pod talks to a service and then to the same backend directly, with the same ports.
#[test]
fn a_direct_connection_does_not_inherit_the_way_of_a_translated_one() {
    near_and_far(|cluster, client, server| {
        for [own, service, backend] in families(client, server)? {
            let listener = server
                .netns
                .inside(|| TcpListener::bind((backend, 0)).context("a listener"))?;
            let port = listener.local_addr()?.port();
            for to in [service, backend, service, backend] {
                let near = connect_once(&client.netns, (own, 20_000).into(), (to, port).into());
                let mut near = near.with_context(|| format!("to {to}"))?;
                let (mut far, _) = listener.accept()?;
                talk(&mut near, &mut far)?;
                talk(&mut far, &mut near)?;
            }
        }
        let forward = "nft list chain inet services forward";
        let counted = cluster.nodes[0].netns.run(forward)?;
        ensure!(counted.contains("counter packets 0"), "{counted}");
        Ok(())
    });
}

/// Connects from a certain port, which is free again as soon as the connection is closed.
fn connect_once(netns: &Netns, from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let stream = connect_from(netns, from, to)?;
    let at_once = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &at_once)?;
    Ok(stream)
}

fn talk(from: &mut TcpStream, to: &mut TcpStream) -> Result<()> {
    to.set_read_timeout(Some(LIMIT))?;
    from.write_all(b"hello")?;
    let mut heard = [0; 5];
    to.read_exact(&mut heard).context("nothing arrives")?;
    ensure!(&heard == b"hello");
    Ok(())
}

/// The server speaks first after an agent of another layout has made new maps.
#[test]
fn a_translated_connection_survives_an_agent_with_new_maps() {
    near_and_far(|cluster, client, server| {
        let node = &cluster.nodes[0];
        let [_, [own, service, backend]] = families(client, server)?;
        let listener = server
            .netns
            .inside(|| TcpListener::bind((backend, 0)).context("a listener"))?;
        let port = listener.local_addr()?.port();
        let mut near = connect_once(&client.netns, (own, 0).into(), (service, port).into())?;
        let (mut far, _) = listener.accept()?;
        talk(&mut near, &mut far)?;
        for flows in ["100", "16384"] {
            node.kill_agent()?;
            node.spawn_agent_with(&[("OXLAN_MAX_FLOWS", flows)])?;
            node.wait_ready()?;
            talk(&mut far, &mut near).with_context(|| format!("{flows} flows"))?;
        }
        Ok(())
    });
}

/// What nobody translates costs nothing and is remembered nowhere.
#[test]
fn ordinary_flows_are_not_remembered() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        let client = node.add_pod("client")?;
        let near = node.add_pod("near")?;
        let far = cluster.nodes[1].add_pod("far")?;
        for server in [&near, &far] {
            for [own, _, backend] in families(&client, server)? {
                let ends = [
                    End::new(&client.netns, own),
                    End::new(&server.netns, backend),
                ];
                tcp::transfer(ends[0], ends[1], 1 << 16)?;
                // Larger than the MTU: the host's stack helps, but it translates nothing.
                exchange(ends[0], ends[1], 5000)?;
                // The host itself talks to pods, too.
                server.netns.run(&format!("ping -n -q -c 1 -W 2 {own}"))?;
            }
        }
        // A pod that asks who has another pod's address gets an answer of the programs' own.
        let on_link = format!("ip -6 route add {}/128 dev eth0", near.ipv6()?);
        client.netns.run(&on_link)?;
        client.ping(near.ipv6()?.into())?;
        ensure!(node.verdicts("nd-reply")? > 0);
        for node in &cluster.nodes {
            ensure!(node.verdicts("translated")? == 0);
            let path = node.dirs.bpf.join("maps/flows");
            let dump =
                oxlan_tests::run::host(&format!("bpftool map dump pinned {}", path.display()))?;
            ensure!(dump.trim() == "[]", "{dump}");
        }
        Ok(())
    });
}
