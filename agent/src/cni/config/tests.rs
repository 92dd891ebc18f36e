//! What real runtimes write.

use serde_json::json;

use super::*;

/// As containerd 1.6 calls the plugin for a Kubernetes pod with a `hostPort`.
#[test]
fn names_of_containerd_are_understood() {
    let config = json!({
        "cniVersion": "1.0.0", "name": "oxlan", "type": "oxlan-cni",
        "runtimeConfig": {
            "portMappings": [
                {"HostPort": 8088, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""},
                {"HostPort": 8053, "ContainerPort": 53, "Protocol": "udp", "HostIP": "10.0.0.1"},
            ],
            "bandwidth": {
                "IngressRate": 1_000_000, "IngressBurst": 4_294_967_295_u64,
                "EgressRate": 0, "EgressBurst": 0,
            },
            "dns": {"Servers": ["10.96.0.10"], "Searches": ["svc.local"], "Options": null},
        },
    });
    let conf = NetConf::parse(&config, Verb::Add).unwrap();
    let mapping = |host_port, container_port, protocol, host_ip| PortMapping {
        host_ip,
        host_port,
        container_port,
        protocol,
    };
    let expected = [
        mapping(8088, 80, Protocol::Tcp, None),
        mapping(8053, 53, Protocol::Udp, "10.0.0.1".parse().ok()),
    ];
    assert_eq!(conf.ports, expected);
    let (to_pod, from_pod) = (conf.bandwidth.to_pod, conf.bandwidth.from_pod);
    assert!(to_pod.is_some_and(|rate| rate.rate == 1_000_000) && from_pod.is_none());
    let dns = conf.dns.unwrap();
    assert_eq!(dns.nameservers, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
    assert_eq!((dns.search.len(), dns.options.len()), (1, 0));
}

#[test]
fn a_wrong_port_is_named_as_in_the_specification() {
    for entry in [
        json!({"HostPort": 70000, "ContainerPort": 80}),
        json!({"hostPort": 70000, "containerPort": 80}),
    ] {
        let config = json!({
            "cniVersion": "1.0.0", "name": "oxlan", "type": "oxlan-cni",
            "runtimeConfig": {"portMappings": [entry]},
        });
        let error = NetConf::parse(&config, Verb::Add).unwrap_err();
        let said = "runtimeConfig.portMappings[0].hostPort is 70000";
        assert!(error.msg.contains(said), "{}", error.msg);
    }
}
