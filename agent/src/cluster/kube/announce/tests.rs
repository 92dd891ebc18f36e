use super::super::node::Node;
use super::*;

const TIME: &str = "2026-01-02T03:04:05.6Z";

fn keys() -> Keys {
    Keys::new("flannel.alpha.coreos.com")
}

fn own(annotations: Value, conditions: Value) -> OwnNode {
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": "a", "annotations": annotations},
        "spec": {"podCIDR": "10.244.1.0/24"},
        "status": {"conditions": conditions},
    }))
    .unwrap();
    OwnNode::new(node)
}

fn underlay(text: &str) -> Vec<IpAddr> {
    text.split(' ').map(|a| a.parse().unwrap()).collect()
}

fn patch_of(own: &OwnNode, addresses: &str) -> Option<Value> {
    let vteps = vteps(own, None, &underlay(addresses), &keys());
    patch(own, &vteps, Vni::DEFAULT, &keys(), TIME.parse().unwrap())
}

/// The Node after a strategic merge patch of annotations and conditions.
fn patched(own: &OwnNode, patch: &Value) -> OwnNode {
    let annotations = own.node.annotations.as_object();
    let mut annotations = annotations.cloned().unwrap_or_default();
    for (key, value) in patch["metadata"]["annotations"].as_object().unwrap() {
        if value.is_null() {
            annotations.remove(key);
        } else {
            annotations.insert(key.clone(), value.clone());
        }
    }
    self::own(annotations.into(), patch["status"]["conditions"].clone())
}

#[test]
fn a_new_node_announces_itself_as_flannel_would() {
    let fresh = own(
        json!({"foreign": "x"}),
        json!([{"type": "Ready", "status": "True"}]),
    );
    let patch = patch_of(&fresh, "192.0.2.1").unwrap();
    let expected = json!({
        "metadata": {"annotations": {
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/backend-type": "vxlan",
            "flannel.alpha.coreos.com/public-ip": "192.0.2.1",
            "flannel.alpha.coreos.com/backend-data": "{\"VNI\":1,\"VtepMAC\":\"0e:00:c0:00:02:01\"}",
        }},
        "status": {"conditions": [{
            "type": "NetworkUnavailable", "status": "False", "reason": "FlannelIsUp",
            "message": "Oxlan is running on this node",
            "lastTransitionTime": "2026-01-02T03:04:05Z", "lastHeartbeatTime": "2026-01-02T03:04:05Z",
        }]},
    });
    assert_eq!(patch, expected);
    let after = patched(&fresh, &patch);
    assert_eq!(
        patch_of(&after, "192.0.2.1"),
        None,
        "there is nothing left to do"
    );
}

#[test]
fn both_families_are_announced_with_one_mac() {
    let patch = patch_of(&own(Value::Null, Value::Null), "192.0.2.1 fd00::1").unwrap();
    let annotations = &patch["metadata"]["annotations"];
    let at = |what: &str| annotations[keys().key(what)].as_str().unwrap().to_owned();
    assert_eq!(at("public-ipv6"), "fd00::1");
    assert_eq!(at("backend-v6-data"), at("backend-data"));
}

#[test]
fn the_mac_that_is_announced_is_kept() {
    let data = "{\"VNI\":1,\"VtepMAC\":\"02:aa:00:00:00:01\"}";
    for (key, value, mac) in [
        ("backend-data", data, "02:aa:00:00:00:01"),
        ("backend-v6-data", data, "02:aa:00:00:00:01"),
        ("backend-data", "{\"PublicKey\":\"x\"}", "0e:00:c0:00:02:01"),
        ("backend-data", "nonsense", "0e:00:c0:00:02:01"),
    ] {
        let own = own(json!({ keys().key(key): value }), Value::Null);
        let vteps = vteps(&own, None, &underlay("192.0.2.1"), &keys());
        assert_eq!(vteps[0].mac.to_string(), mac, "{key} {value}");
    }
    let theirs = own(json!({ keys().key("backend-data"): data }), Value::Null);
    let now = "02:bb:00:00:00:01".parse().unwrap();
    let kept = vteps(&theirs, Some(now), &underlay("192.0.2.1"), &keys());
    assert_eq!(kept[0].mac, now, "the device has one already");
}

#[test]
fn an_overwritten_address_is_announced_and_a_wrong_one_told() {
    let overwrite = |text: &str| {
        own(
            json!({ keys().key("public-ip-overwrite"): text }),
            Value::Null,
        )
    };
    let right = overwrite("203.0.113.9");
    let patch = patch_of(&right, "192.0.2.1").unwrap();
    let announced = &patch["metadata"]["annotations"][keys().key("public-ip")];
    assert_eq!(announced, "203.0.113.9");
    assert!(wrong_overwrites(&right, &keys()).is_empty());
    for wrong in ["", "fd00::9", "nonsense"] {
        let own = overwrite(wrong);
        let patch = patch_of(&own, "192.0.2.1").unwrap();
        let announced = &patch["metadata"]["annotations"][keys().key("public-ip")];
        assert_eq!(announced, "192.0.2.1", "{wrong:?}");
        let told = wrong_overwrites(&own, &keys());
        assert!(told[0].contains("public-ip-overwrite"), "{told:?}");
    }
}

#[test]
fn what_no_longer_holds_is_taken_back_and_the_rest_left_alone() {
    let dual = own(Value::Null, Value::Null);
    let dual = patched(&dual, &patch_of(&dual, "192.0.2.1 fd00::1").unwrap());
    let patch = patch_of(&dual, "192.0.2.1").unwrap();
    let expected = json!({"metadata": {"annotations": {
        keys().key("public-ipv6"): null,
        keys().key("backend-v6-data"): null,
    }}});
    assert_eq!(patch, expected);
}
