//! The plugin as libcni calls it: versions, arguments, and what is remembered between the calls.

use anyhow::{Context, Result, ensure};
use oxlan_tests::libcni::Attachment;
use oxlan_tests::libcni::site::{column, with_site};
use oxlan_tests::netns::Netns;
use serde_json::{Value, json};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[test]
fn runtime_libcni_every_version_from_add_to_del() {
    with_site(|site| {
        for version in VERSIONS {
            let network = site.network(version, &[]);
            site.libcni.validate(&network)?;
            let (netns, pod) = site.attachment(&format!("v{version}"))?;
            let result = site.libcni.add(&network, &pod)?;
            expect_form(&result, version, &pod)?;
            netns.run(&format!("ping -n -q -c 1 -W 2 {}", site.node.underlay))?;
            if version != "0.3.1" {
                site.libcni.check(&network, &pod)?;
            }
            site.libcni.del(&network, &pod)?;
            site.libcni.del(&network, &pod).context("the second DEL")?;
            assert!(!has_eth0(&netns)?, "{version}");
        }
        site.expect_pods(0)
    });
}

#[test]
fn runtime_libcni_del_without_namespace() {
    with_site(|site| {
        for version in VERSIONS {
            let network = site.network(version, &[]);
            let (netns, mut pod) = site.attachment(&format!("gone{version}"))?;
            site.libcni.add(&network, &pod)?;
            netns.delete()?;
            // What `ctr` and the kubelet say of a container that ended.
            pod.netns.clear();
            site.libcni.del(&network, &pod)?;
        }
        site.expect_pods(0)
    });
}

#[test]
fn runtime_libcni_check_sees_what_was_changed() {
    const CHANGES: [&str; 4] = [
        "ip route del default",
        "ip address flush dev eth0 scope global",
        "ip link set eth0 address 02:00:00:00:00:01",
        "ip link set eth0 down",
    ];
    with_site(|site| {
        let network = site.network("1.0.0", &[]);
        for (number, change) in CHANGES.iter().enumerate() {
            let (netns, pod) = site.attachment(&format!("c{number}"))?;
            site.libcni.add(&network, &pod)?;
            site.libcni.check(&network, &pod)?;
            netns.run(change)?;
            let checked = site.libcni.check(&network, &pod);
            assert!(checked.is_err(), "CHECK does not see `{change}`");
            site.libcni.del(&network, &pod)?;
        }
        site.expect_pods(0)
    });
}

#[test]
fn runtime_libcni_arguments_of_an_orchestrator() {
    with_site(|site| {
        let network = site.network("1.1.0", &[]);
        let (_, mut pod) = site.attachment("labelled")?;
        // In the order and with the extra words of containerd's CRI plugin.
        pod.args = vec![
            ("IgnoreUnknown", "1".to_owned()),
            ("K8S_POD_NAMESPACE", "shop".to_owned()),
            ("K8S_POD_NAME", "cart-0".to_owned()),
            ("K8S_POD_INFRA_CONTAINER_ID", pod.container.clone()),
            ("K8S_POD_UID", "7f1c".to_owned()),
        ];
        site.libcni.add(&network, &pod)?;
        let pods = site.node.oxlan_json("pods")?;
        assert_eq!(pods[0]["namespace"], "shop");
        assert_eq!(pods[0]["name"], "cart-0");
        site.libcni.del(&network, &pod)?;
        // Without the permission to ignore, what is not understood is refused.
        pod.args = vec![("COLOUR", "blue".to_owned())];
        let error = site
            .libcni
            .add(&network, &pod)
            .expect_err("an unknown argument");
        assert!(format!("{error:#}").contains("COLOUR"), "{error:#}");
        site.expect_pods(0)
    });
}

#[test]
fn runtime_libcni_garbage_and_status() {
    with_site(|site| {
        let network = site.network("1.1.0", &[]);
        site.libcni.status(&network)?;
        let pods: Vec<(Netns, Attachment)> = (0..4)
            .map(|number| site.attachment(&format!("g{number}")))
            .collect::<Result<_>>()?;
        for (_, pod) in &pods {
            site.libcni.add(&network, pod)?;
        }
        let valid: Vec<&Attachment> = pods[..3].iter().map(|(_, pod)| pod).collect();
        site.libcni.collect_garbage(&network, &valid)?;
        site.expect_pods(3)?;
        // The runtime's own memory is lost, so that the plugin has to know.
        site.libcni.forget();
        site.libcni.collect_garbage(&network, &valid[..1])?;
        site.expect_pods(1)?;
        assert!(has_eth0(&pods[0].0)? && !has_eth0(&pods[1].0)?);
        site.libcni.collect_garbage(&network, &[])?;
        site.expect_pods(0)?;
        site.node.stop_agent()?;
        let error = site.libcni.status(&network).expect_err("no agent");
        assert!(format!("{error:#}").contains("agent.sock"), "{error:#}");
        site.node.start_agent()
    });
}

/// What libcni's types for a version expect of a result.
fn expect_form(result: &Value, version: &str, pod: &Attachment) -> Result<()> {
    ensure!(result["cniVersion"] == version, "another version: {result}");
    let interfaces = result["interfaces"].as_array().context("no interfaces")?;
    let inside = interfaces
        .iter()
        .position(|interface| interface["sandbox"] == pod.netns.as_str());
    let inside = inside.with_context(|| format!("nothing in the container: {result}"))?;
    ensure!(
        interfaces[inside]["name"] == pod.ifname.as_str(),
        "another name: {result}"
    );
    for interface in interfaces {
        let has_mtu = interface["mtu"].is_u64();
        ensure!(
            has_mtu == (version == "1.1.0"),
            "the MTU is for 1.1.0 only: {result}"
        );
    }
    let ips = result["ips"].as_array().context("no ips")?;
    ensure!(ips.len() == 2, "not both families: {result}");
    for (ip, family) in ips.iter().zip(["4", "6"]) {
        ensure!(ip["interface"] == inside, "an address elsewhere: {result}");
        let expected = if version.starts_with('0') {
            json!(family)
        } else {
            Value::Null
        };
        ensure!(
            ip["version"] == expected,
            "the family is for 0.x only: {result}"
        );
    }
    let defaults = column(result, "routes", "dst");
    ensure!(defaults == ["0.0.0.0/0", "::/0"], "other routes: {result}");
    ensure!(result["dns"].is_object(), "no dns: {result}");
    Ok(())
}

fn has_eth0(netns: &Netns) -> Result<bool> {
    Ok(netns.run("ip -o link")?.contains(" eth0@"))
}
