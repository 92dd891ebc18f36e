//! The API over a real socket, with real namespaces behind it and a fake datapath.

mod cni;
mod health;

use std::path::Path;
use std::sync::{Arc, Mutex};

use oxlan_common::counters::{DropReason, Verdict};
use oxlan_common::maps::Counter;
use serde_json::{Value, json};

use crate::api::types::{Health, NodeRow, RouteRow, Status};
use crate::api::{ApiState, NodeFault, NodeView, SOCKET, bind, client, serve};
use crate::pods::tests::fixture::{Node, on_a_node};

const CIDRS: &[&str] = &["10.244.1.0/29", "fd00:244:1::/64"];
const OVERLAY: &[&str] = &["10.244.1.0/32", "fd00:244:1::/128"];

#[derive(Default)]
struct FakeNode {
    health: Mutex<Health>,
}

impl NodeView for FakeNode {
    fn status(&self) -> Status {
        Status {
            node: "node-a".into(),
            ..Status::default()
        }
    }

    fn health(&self) -> Health {
        self.health.lock().unwrap().clone()
    }

    fn nodes(&self) -> Vec<NodeRow> {
        Vec::new()
    }

    fn routes(&self) -> Result<Vec<RouteRow>, NodeFault> {
        Err("the table is broken".into())
    }

    fn counters(&self) -> Result<Vec<(u32, Counter)>, NodeFault> {
        let counter = |packets| Counter {
            packets,
            bytes: packets * 100,
        };
        Ok(vec![
            (DropReason::WrongVni.slot(), counter(3)),
            (Verdict::LocalPod.slot(), counter(5)),
        ])
    }
}

/// A running API and a client of it.
struct Api {
    run_dir: tempfile::TempDir,
    node: Arc<FakeNode>,
}

impl Api {
    async fn start(node: &Node) -> Self {
        let api = Self {
            run_dir: tempfile::tempdir().unwrap(),
            node: Arc::default(),
        };
        let state = ApiState {
            pods: Arc::new(node.agent().await),
            node: api.node.clone(),
        };
        let listener = bind(api.run_dir.path()).unwrap();
        tokio::spawn(serve(listener, state, std::future::pending()));
        api
    }

    async fn ask(
        &self,
        ask: impl FnOnce(&Path) -> client::Answer + Send + 'static,
    ) -> (u16, Value) {
        let run_dir = self.run_dir.path().to_owned();
        let answer = tokio::task::spawn_blocking(move || ask(&run_dir))
            .await
            .unwrap();
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }

    async fn get(&self, path: &'static str) -> (u16, Value) {
        self.ask(move |run_dir| client::get(run_dir, path).unwrap())
            .await
    }

    async fn cni(&self, verb: &'static str, body: Value) -> (u16, Value) {
        let path = format!("/v1/cni/{verb}");
        let body = body.to_string();
        self.ask(move |run_dir| client::post(run_dir, &path, body.as_bytes()).unwrap())
            .await
    }
}

#[test]
fn drops_have_a_row_for_every_reason() {
    on_a_node(&[], async || {
        let node = Node::new(CIDRS);
        let api = Api::start(&node).await;
        let (_, drops) = api.get("/v1/drops").await;
        assert_eq!(
            drops["drops"].as_array().unwrap().len(),
            DropReason::ALL.len()
        );
        let row = |list: &str, name: &str| {
            let rows = drops[list].as_array().unwrap().clone();
            rows.into_iter().find(|row| row["name"] == name).unwrap()
        };
        assert_eq!(
            (
                &row("drops", "wrong-vni")["packets"],
                &row("drops", "wrong-vni")["bytes"]
            ),
            (&json!(3), &json!(300))
        );
        assert_eq!(row("drops", "truncated")["packets"], 0);
        assert_eq!(row("verdicts", "local-pod")["packets"], 5);

        let (status, error) = api.get("/v1/routes").await;
        assert_eq!(
            (status, error),
            (500, json!({"error": "the table is broken"}))
        );
        let (status, error) = api.get("/v2/nothing").await;
        assert_eq!(status, 404);
        assert!(
            error["error"].as_str().unwrap().contains("/v1/pods"),
            "{error}"
        );
    });
}

/// A runtime that calls while the agent starts gets its answer when the agent is ready.
#[test]
fn an_early_request_waits_for_its_answer() {
    on_a_node(&[], async || {
        let node = Node::new(CIDRS);
        let run_dir = tempfile::tempdir().unwrap();
        let listener = bind(run_dir.path()).unwrap();
        let early = std::os::unix::net::UnixStream::connect(run_dir.path().join(SOCKET));
        let state = ApiState {
            pods: Arc::new(node.agent().await),
            node: Arc::new(FakeNode::default()),
        };
        tokio::spawn(serve(listener, state, std::future::pending()));
        let asked = tokio::task::spawn_blocking(move || {
            use std::io::{Read, Write};
            let mut early = early.unwrap();
            let request = b"GET /v1/pods HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            early.write_all(request).unwrap();
            let mut answer = String::new();
            early.read_to_string(&mut answer).unwrap();
            answer
        });
        let answer = asked.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    });
}

/// Whatever a client sends, the answer has the documented form.
#[test]
fn strange_requests_get_answers_of_the_usual_form() {
    on_a_node(&[], async || {
        let node = Node::new(CIDRS);
        let api = Api::start(&node).await;
        let post = |path: &'static str, body: Vec<u8>| {
            api.ask(move |run_dir| client::post(run_dir, path, &body).unwrap())
        };
        let (status, answer) = post("/v1/status", Vec::new()).await;
        assert_eq!(status, 405);
        assert!(
            answer["error"].as_str().unwrap().contains("GET"),
            "{answer}"
        );
        let (status, answer) = api.get("/v1/cni/add").await;
        assert_eq!(status, 405);
        assert!(
            answer["error"].as_str().unwrap().contains("POST"),
            "{answer}"
        );
        let large = vec![b' '; 3 << 20];
        let deep = "[".repeat(1 << 20).into_bytes();
        for body in [Vec::new(), b"{".to_vec(), b"\xff\xfe".to_vec(), large, deep] {
            let (status, answer) = post("/v1/cni/add", body).await;
            assert_eq!((status, &answer["code"]), (400, &json!(6)), "{answer}");
        }
        assert_eq!(api.get("/v1/pods").await, (200, json!([])));
    });
}

#[test]
fn the_socket_is_for_root_alone_and_replaces_a_dead_one() {
    use std::os::unix::fs::PermissionsExt;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let run_dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        drop(bind(run_dir.path()).unwrap());
        let socket = run_dir.path().join(SOCKET);
        assert_eq!(
            socket.metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    assert_eq!(std::fs::read_dir(run_dir.path()).unwrap().count(), 1);
}
