//! What deploy/oxlan.yaml says fits the code: options, rights, capabilities, ports, paths.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use serde_json::Value;

use super::Cli;
use crate::api::health;
use crate::cluster::KUBE_RIGHTS;
use crate::cluster::flannel::NetConf;
use crate::cni::install::Configuration;
use crate::host::preflight::CAPABILITIES;

const MANIFEST: &str = include_str!("../../../deploy/oxlan.yaml");
const UNIT: &str = include_str!("../../../deploy/oxlan-agent.service");
const CONFLIST: &str = include_str!("../../../deploy/10-oxlan.conflist");
const UNINSTALL: &str = include_str!("../../../deploy/uninstall.yaml");
const NODES: &str = include_str!("../../../deploy/kustomize/beside-flannel/nodes.yaml");
const ADDRESS: &str = include_str!("../../../deploy/kustomize/api-server-address/address.yaml");
const DOCUMENT: &str = include_str!("../../../docs/KUBERNETES.md");

/// The object of this kind in the manifest.
fn object(kind: &str) -> Value {
    object_of(MANIFEST, kind)
}

fn object_of(manifest: &str, kind: &str) -> Value {
    let all: Vec<Value> = serde_saphyr::from_multiple(manifest).unwrap();
    let mut found = all.into_iter().filter(|object| object["kind"] == kind);
    let one = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    one
}

fn pod() -> Value {
    object("DaemonSet")["spec"]["template"]["spec"].clone()
}

fn agent() -> Value {
    pod()["containers"][0].clone()
}

fn texts(list: &Value) -> Vec<String> {
    let list = list
        .as_array()
        .unwrap_or_else(|| panic!("{list} is no list"));
    list.iter()
        .map(|item| item.as_str().unwrap().to_owned())
        .collect()
}

/// The value of an option in the container's arguments.
fn argument(container: &Value, option: &str) -> String {
    let start = format!("{option}=");
    let all = texts(&container["args"]);
    let found = all
        .iter()
        .find_map(|argument| argument.strip_prefix(&start));
    found
        .unwrap_or_else(|| panic!("no {option} in {all:?}"))
        .to_owned()
}

#[test]
fn the_command_lines_are_understood() {
    let cli = Cli::command();
    let agent_command = cli.find_subcommand("agent").unwrap();
    let variables: BTreeSet<String> = agent_command
        .get_arguments()
        .filter_map(|argument| argument.get_env())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let agent = agent();
    let env = agent["env"].as_array().unwrap();
    for variable in env {
        let name = variable["name"].as_str().unwrap();
        assert!(
            variables.contains(name),
            "{name} is no variable of the agent"
        );
    }
    assert!(env.iter().any(|variable| variable["name"] == "OXLAN_NODE"));
    for (container, more) in [
        (&agent, Some("--node=x")),
        (&pod()["initContainers"][0], None),
    ] {
        let mut line = vec!["oxlan".to_owned()];
        let command = texts(&container["command"]);
        assert_eq!(command[0], "/usr/local/bin/oxlan");
        line.extend(command.into_iter().skip(1));
        line.extend(texts(&container["args"]));
        line.extend(more.map(str::to_owned));
        Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    }
}

#[test]
fn the_image_is_that_of_this_version() {
    let image = format!("localhost/oxlan:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(agent()["image"], image.as_str());
    assert_eq!(pod()["initContainers"][0]["image"], image.as_str());
}

#[test]
fn the_agent_may_ask_what_it_asks_and_no_more() {
    let mut expected = Vec::new();
    for (resource, verbs) in KUBE_RIGHTS {
        expected
            .push(serde_json::json!({"apiGroups": [""], "resources": [resource], "verbs": verbs}));
        let text = format!(
            "resources: [{resource}]\n      verbs: [{}]\n",
            verbs.join(", ")
        );
        assert!(DOCUMENT.contains(&text), "docs/KUBERNETES.md lacks {text}");
    }
    assert_eq!(object("ClusterRole")["rules"], Value::from(expected));
    assert_eq!(
        object("ClusterRoleBinding")["roleRef"]["name"],
        object("ClusterRole")["metadata"]["name"]
    );
    assert_eq!(
        pod()["serviceAccountName"],
        object("ServiceAccount")["metadata"]["name"]
    );
}

#[test]
fn the_capabilities_are_those_of_the_unit() {
    let bounds = UNIT
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let unit: BTreeSet<String> = bounds.unwrap().split(' ').map(str::to_owned).collect();
    let security = &agent()["securityContext"];
    assert_eq!(security["privileged"], false);
    assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
    let added = texts(&security["capabilities"]["add"]);
    let set: BTreeSet<String> = added.iter().map(|name| format!("CAP_{name}")).collect();
    assert_eq!(set, unit);
    for name in &added {
        let said = MANIFEST.contains(&format!("- {name} # "));
        assert!(said, "what {name} is for is not said");
    }
    for (_, name) in CAPABILITIES {
        assert!(
            set.contains(name),
            "the agent does not start without {name}"
        );
    }
}

#[test]
fn probes_ask_where_the_agent_answers() {
    let agent = agent();
    let address = argument(&agent, "--health-addr");
    let (host, port) = address.rsplit_once(':').unwrap();
    for (probe, path) in [
        ("readinessProbe", health::READY),
        ("livenessProbe", health::LIVE),
    ] {
        let get = &agent[probe]["httpGet"];
        assert_eq!(get["host"], host);
        assert_eq!(get["port"].to_string(), port);
        assert_eq!(get["path"], path);
    }
}

#[test]
fn the_configuration_is_valid() {
    let config = object("ConfigMap");
    let data = |key: &str| config["data"][key].as_str().unwrap().to_owned();
    NetConf::parse(data("net-conf.json").as_bytes(), "net-conf.json").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cni-conf.json");
    std::fs::write(&file, data("cni-conf.json")).unwrap();
    let conf = Configuration::read(&file).unwrap();
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(parse(&conf), parse(CONFLIST));
    let agent = agent();
    for option in ["--net-conf", "--cni-conf"] {
        let path = PathBuf::from(argument(&agent, option));
        let key = path.file_name().unwrap().to_str().unwrap();
        assert!(
            config["data"][key].is_string(),
            "{option}: no {key} in the ConfigMap"
        );
        assert_eq!(mount(&agent, &path).as_deref(), Some("config"));
    }
}

/// The volume that is mounted at a path or above it.
fn mount(container: &Value, path: &Path) -> Option<String> {
    let mounts = container["volumeMounts"].as_array().unwrap();
    let found = mounts
        .iter()
        .find(|mount| path.starts_with(mount["mountPath"].as_str().unwrap()));
    Some(found?["name"].as_str().unwrap().to_owned())
}

/// What is on the host where the agent thinks it is: else all would be gone with the container.
#[test]
fn what_must_outlive_the_container_is_on_the_host() {
    let (pod, agent) = (pod(), agent());
    let volumes = pod["volumes"].as_array().unwrap();
    let on_host = |container: &Value, path: &Path| -> PathBuf {
        let name = mount(container, path).unwrap_or_else(|| panic!("{path:?} is not mounted"));
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == name.as_str());
        volume.unwrap()["hostPath"]["path"].as_str().unwrap().into()
    };
    let cli = Cli::command();
    let command = cli.find_subcommand("agent").unwrap();
    for option in ["run-dir", "state-dir", "bpf-dir", "subnet-env"] {
        let known = command
            .get_arguments()
            .find(|a| a.get_long() == Some(option));
        let default = PathBuf::from(&known.unwrap().get_default_values()[0]);
        let host = on_host(&agent, &default);
        assert!(
            default.starts_with(&host),
            "--{option}: {default:?} is {host:?} on the host"
        );
    }
    for (container, option, host) in [
        (&agent, "--cni-conf-dir", "/etc/cni/net.d"),
        (&pod["initContainers"][0], "--bin-dir", "/opt/cni/bin"),
    ] {
        let path = PathBuf::from(argument(container, option));
        assert_eq!(on_host(container, &path), Path::new(host));
    }
    let sysctls = Path::new(&argument(&agent, "--proc-sys")).join("net");
    assert_eq!(on_host(&agent, &sysctls), Path::new("/proc/sys/net"));
    for names in ["/run/netns", "/var/run/netns"] {
        assert_eq!(on_host(&agent, Path::new(names)), Path::new("/run/netns"));
    }
}

/// What takes Oxlan away finds what the manifest has put there, and is not told of more than that.
#[test]
fn what_uninstalls_fits_what_installs() {
    let there = object_of(UNINSTALL, "DaemonSet");
    let (pod, spec) = (pod(), &there["spec"]["template"]["spec"]);
    assert_eq!(
        there["metadata"]["namespace"],
        object("DaemonSet")["metadata"]["namespace"]
    );
    let containers = spec["initContainers"].as_array().unwrap().iter();
    let containers: Vec<&Value> = containers
        .chain(spec["containers"].as_array().unwrap())
        .collect();
    let names = containers
        .iter()
        .map(|container| container["name"].as_str().unwrap());
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["remove-cni", "cleanup", "removed"]
    );
    for container in &containers {
        assert_eq!(container["image"], agent()["image"]);
        let arguments = container["args"]
            .as_array()
            .map(|_| texts(&container["args"]));
        let words = texts(&container["command"]).into_iter().skip(1);
        let line = ["oxlan".to_owned()]
            .into_iter()
            .chain(words)
            .chain(arguments.unwrap_or_default());
        let line: Vec<String> = line.collect();
        Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    }
    let conf_name = argument(containers[0], "--conf-name");
    assert_eq!(conf_name, argument(&agent(), "--cni-conf-name"));
    // Each path of the host that the agent writes to, by the same name.
    let volumes = |spec: &Value| -> BTreeSet<String> {
        let volumes = spec["volumes"].as_array().unwrap().iter();
        volumes.map(Value::to_string).collect()
    };
    let (mut installed, removed) = (volumes(&pod), volumes(spec));
    installed.retain(|volume| !volume.contains("configMap") && !volume.contains("/run/netns"));
    assert_eq!(installed, removed);
    let cleanup = |name: &str| {
        containers[1]["volumeMounts"]
            .as_array()
            .unwrap()
            .iter()
            .find(|m| m["name"] == name)
            .cloned()
    };
    for mount in agent()["volumeMounts"].as_array().unwrap() {
        let name = mount["name"].as_str().unwrap();
        if !["config", "netns", "cni-conf"].contains(&name) {
            assert_eq!(cleanup(name).as_ref(), Some(mount));
        }
    }
    let may = texts(&agent()["securityContext"]["capabilities"]["add"]);
    for name in texts(&containers[1]["securityContext"]["capabilities"]["add"]) {
        assert!(may.contains(&name), "{name} is more than the agent has");
    }
}

/// A patch of something that is not there would add it.
#[test]
fn kustomizations_change_what_is_there() {
    for (patch, manifest) in [(NODES, "nodes.yaml"), (ADDRESS, "address.yaml")] {
        let patch = object_of(patch, "DaemonSet");
        assert_eq!(
            patch["metadata"]["name"],
            object("DaemonSet")["metadata"]["name"],
            "{manifest}"
        );
        assert_eq!(
            patch["metadata"]["namespace"],
            object("DaemonSet")["metadata"]["namespace"]
        );
        let containers = &patch["spec"]["template"]["spec"]["containers"];
        for container in containers.as_array().into_iter().flatten() {
            assert_eq!(container["name"], agent()["name"], "{manifest}");
        }
    }
}
