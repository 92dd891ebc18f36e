//! What probes are answered, from before the start to after it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use super::FakeNode;
use crate::api::health::{LIVE, Probe, READY, bind, serve};
use crate::api::types::Health;

fn ask(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

#[test]
fn probes_tell_when_pods_can_come() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime
        .block_on(bind("127.0.0.1:0".parse().unwrap()))
        .unwrap();
    let address = listener.local_addr().unwrap();
    let probe = Probe::default();
    runtime.spawn(serve(listener, probe.clone()));

    assert_eq!(ask(address, LIVE).0, 200, "alive while it starts");
    let (status, text) = ask(address, READY);
    assert!(status == 503 && text.contains("is starting"), "{text}");

    let node = Arc::new(FakeNode::default());
    probe.set_obstacle(Some("nobody tells the runtime".into()));
    probe.started(node.clone());
    let (status, text) = ask(address, READY);
    assert!(
        status == 503 && text.contains("nobody tells the runtime"),
        "{text}"
    );
    probe.set_obstacle(None);
    assert_eq!(ask(address, READY).0, 200);
    for health in [
        Health::Unavailable("full".into()),
        Health::Limited("full".into()),
    ] {
        *node.health.lock().unwrap() = health;
        let (status, text) = ask(address, READY);
        assert!(status == 503 && text.contains("full"), "{text}");
    }
    assert_eq!(ask(address, LIVE).0, 200);
    assert_eq!(ask(address, "/v1/status").0, 404, "nothing else is told");

    let taken = runtime.block_on(bind(address)).unwrap_err();
    assert!(taken.to_string().contains("--health-addr"), "{taken}");
}
