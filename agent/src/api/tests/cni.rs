//! The CNI verbs, as the plugin and curl ask for them.

use serde_json::{Value, json};

use super::{Api, CIDRS, OVERLAY};
use crate::api::types::Health;
use crate::pods::tests::fixture::{Container, Node, on_a_node};

/// Body of a request for a container.
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
