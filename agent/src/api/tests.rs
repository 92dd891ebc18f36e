//! The API over a real socket, with real namespaces behind it and a fake datapath.

use std::path::Path;
use std::sync::{Arc, Mutex};

use oxlan_common::counters::{DropReason, Verdict};
use oxlan_common::maps::Counter;
use serde_json::{Value, json};

use super::types::{Health, NodeRow, RouteRow, Status};
use super::{ApiState, NodeFault, NodeView, bind, client, serve};
use crate::pods::tests::fixture::{Container, Node, on_a_node};

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

fn request(container: &Container, config: &Value) -> Value {
    json!({
        "containerId": container.id,
        "netns": container.netns(),
        "ifname": "eth0",
        "args": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web",
        "config": config,
    })
}

#[test]
fn add_check_and_del_in_every_version() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(CIDRS);
        let api = Api::start(&node).await;
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let container = Container::new("c1");
            let mut config = json!({
                "cniVersion": version, "name": "oxlan", "type": "oxlan-cni",
                "dns": {"nameservers": ["10.96.0.10"], "search": ["svc.local"]},
            });
            let (status, result) = api.cni("add", request(&container, &config)).await;
            assert_eq!(status, 200, "{result}");
            assert_eq!(result["cniVersion"], version);
            let (host, pod) = (&result["interfaces"][0], &result["interfaces"][1]);
            assert_eq!(host["mac"], "0e:6f:78:6c:61:6e");
            assert!(host["name"].as_str().unwrap().starts_with("oxl") && host["sandbox"].is_null());
            assert_eq!(
                (&pod["name"], &pod["sandbox"]),
                (&json!("eth0"), &json!(container.netns()))
            );
            let ips = result["ips"].as_array().unwrap();
            assert_eq!(ips.len(), 2);
            for (ip, family) in ips.iter().zip(["4", "6"]) {
                assert_eq!(ip["interface"], 1);
                let length = if family == "4" { "/32" } else { "/128" };
                assert!(ip["address"].as_str().unwrap().ends_with(length), "{ip}");
                let old = version < "1.0.0";
                assert_eq!(
                    ip.get("version"),
                    old.then_some(&json!(family)),
                    "{version}"
                );
            }
            let mtu = (version == "1.1.0").then_some(&json!(1450)).cloned();
            assert_eq!(
                (host.get("mtu"), pod.get("mtu")),
                (mtu.as_ref(), mtu.as_ref())
            );
            assert_eq!(
                result["routes"],
                json!([{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}])
            );
            assert_eq!(result["dns"], config["dns"]);

            let (status, error) = api.cni("add", request(&container, &config)).await;
            assert_eq!((status, &error["code"]), (409, &json!(101)), "{error}");
            assert_eq!(error["cniVersion"], version);

            config["prevResult"] = result;
            if version != "0.3.1" {
                let (status, answer) = api.cni("check", request(&container, &config)).await;
                assert_eq!((status, answer), (200, json!({})));
                container.run("ip address flush dev eth0");
                let (status, error) = api.cni("check", request(&container, &config)).await;
                assert_eq!((status, &error["code"]), (409, &json!(104)), "{error}");
            }
            let (status, answer) = api.cni("del", request(&container, &config)).await;
            assert_eq!((status, answer), (200, json!({})));
        }
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn a_chain_keeps_what_came_before() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(CIDRS);
        let api = Api::start(&node).await;
        let container = Container::new("c1");
        let mut config = json!({
            "cniVersion": "1.0.0", "name": "oxlan", "type": "oxlan-cni",
            "prevResult": {
                "cniVersion": "1.0.0",
                "interfaces": [{"name": "other", "sandbox": container.netns()}],
                "ips": [{"address": "192.0.2.1/24", "interface": 0}],
                "dns": {"domain": "before"},
                "extra": {"of": "another plugin"},
            },
        });
        let (_, result) = api.cni("add", request(&container, &config)).await;
        assert_eq!(
            result["interfaces"].as_array().unwrap().len(),
            3,
            "{result}"
        );
        assert_eq!(result["ips"][0], config["prevResult"]["ips"][0]);
        assert_eq!(result["ips"][1]["interface"], 2);
        assert_eq!(result["dns"]["domain"], "before");
        assert_eq!(result["extra"]["of"], "another plugin");
        config["prevResult"] = result;
        let (status, answer) = api.cni("check", request(&container, &config)).await;
        assert_eq!(status, 200, "{answer}");

        config["prevResult"]["ips"][1]["address"] = json!("10.244.1.99/32");
        let (_, error) = api.cni("check", request(&container, &config)).await;
        assert!(
            error["msg"].as_str().unwrap().contains("10.244.1.99"),
            "{error}"
        );
        api.cni("del", request(&container, &config)).await;

        // A result that cannot be merged leaves no attachment.
        config["prevResult"] = json!({"interfaces": "none"});
        let (status, error) = api.cni("add", request(&container, &config)).await;
        assert_eq!((status, &error["code"]), (400, &json!(7)), "{error}");
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn errors_have_their_codes() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(CIDRS);
        let api = Api::start(&node).await;
        let container = Container::new("c1");
        let config = json!({"cniVersion": "1.1.0", "name": "oxlan", "type": "oxlan-cni"});
        let good = request(&container, &config);
        let changed = |field: &str, value: Value| {
            let mut body = good.clone();
            body[field] = value;
            body
        };
        let mtu = json!({"cniVersion": "1.1.0", "name": "oxlan", "mtu": 9000});
        for (body, status, code) in [
            (json!("nothing"), 400, 6),
            (changed("more", json!(1)), 400, 6),
            (changed("config", json!({"cniVersion": "9.9.9"})), 400, 1),
            (changed("config", json!([])), 400, 6),
            (changed("config", mtu), 400, 7),
            (changed("containerId", json!("")), 400, 4),
            (changed("args", json!("X=y")), 400, 4),
            (changed("netns", json!("/run/netns/nowhere")), 404, 3),
            (changed("netns", json!("/etc/passwd")), 400, 4),
            (changed("ifname", json!("lo")), 409, 103),
        ] {
            let (answered, error) = api.cni("add", body.clone()).await;
            assert_eq!(
                (answered, &error["code"]),
                (status, &json!(code)),
                "{body}: {error}"
            );
        }
        *node.datapath.refuse.lock().unwrap() = Some("attach");
        let (status, error) = api.cni("add", good.clone()).await;
        assert_eq!((status, &error["code"]), (500, &json!(105)), "{error}");
        assert_eq!(error["details"], "refused by the test");
        *node.datapath.refuse.lock().unwrap() = None;

        let mut check = good.clone();
        check["config"]["prevResult"] = json!({});
        let (status, error) = api.cni("check", check).await;
        assert_eq!((status, &error["code"]), (404, &json!(3)), "{error}");

        api.cni("add", good.clone()).await;
        *node.datapath.refuse.lock().unwrap() = Some("remove");
        let (status, error) = api.cni("del", good.clone()).await;
        assert_eq!((status, &error["code"]), (500, &json!(107)), "{error}");
        *node.datapath.refuse.lock().unwrap() = None;
        assert_eq!(api.cni("del", good).await.0, 200);
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn status_says_when_no_pod_can_be_attached() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(CIDRS);
        let api = Api::start(&node).await;
        let config = json!({"cniVersion": "1.1.0", "name": "oxlan", "type": "oxlan-cni"});
        let status = json!({"config": config});
        assert_eq!(api.cni("status", status.clone()).await.0, 200);
        assert_eq!(
            api.get("/v1/healthz").await,
            (200, json!({"state": "ready"}))
        );
        for (health, state, code) in [
            (Health::Unavailable("why".into()), "unavailable", 50),
            (Health::Limited("why".into()), "limited", 51),
        ] {
            *api.node.health.lock().unwrap() = health;
            let (answered, error) = api.cni("status", status.clone()).await;
            assert_eq!((answered, &error["code"]), (503, &json!(code)));
            assert_eq!(error["msg"], "why");
            let expected = json!({"state": state, "reason": "why"});
            assert_eq!(api.get("/v1/healthz").await, (503, expected));
        }
        *api.node.health.lock().unwrap() = Health::Ready;

        let containers: Vec<Container> = (0..6).map(|n| Container::new(&format!("c{n}"))).collect();
        for container in &containers[..5] {
            assert_eq!(api.cni("add", request(container, &config)).await.0, 200);
        }
        let (_, error) = api.cni("status", status.clone()).await;
        assert_eq!(
            (&error["code"], &error["msg"]),
            (&json!(50), &json!("no free address in 10.244.1.0/29"))
        );
        let (_, error) = api.cni("add", request(&containers[5], &config)).await;
        assert_eq!(error["code"], 102, "{error}");

        let mut gc = status.clone();
        gc["config"]["cni.dev/valid-attachments"] =
            json!([{"containerID": "c2", "ifname": "eth0"}]);
        assert_eq!(api.cni("gc", gc.clone()).await, (200, json!({})));
        let (_, pods) = api.get("/v1/pods").await;
        assert_eq!(pods.as_array().unwrap().len(), 1);
        assert_eq!(pods[0]["container_id"], "c2");
        assert_eq!(
            (&pods[0]["namespace"], &pods[0]["name"]),
            (&json!("shop"), &json!("web"))
        );
        assert_eq!(pods[0]["phase"], "ready");
        let (_, shown) = api.get("/v1/status").await;
        assert_eq!(
            (&shown["pods"], &shown["node"]),
            (&json!(1), &json!("node-a"))
        );
        gc["config"]["cni.dev/valid-attachments"] = Value::Null;
        assert_eq!(api.cni("gc", gc).await.0, 200);
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
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

#[test]
fn the_socket_is_for_root_alone_and_replaces_a_dead_one() {
    use std::os::unix::fs::PermissionsExt;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let run_dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        drop(bind(run_dir.path()).unwrap());
        let socket = run_dir.path().join(super::SOCKET);
        assert_eq!(
            socket.metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    assert_eq!(std::fs::read_dir(run_dir.path()).unwrap().count(), 1);
}
