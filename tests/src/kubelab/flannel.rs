//! A node without Oxlan, as Flannel's daemon leaves it, and what that daemon writes into its Node.

use anyhow::{Context, Result};
use serde_json::json;

use super::Lab;

/// What Flannel's plugin makes of its own configuration and hands to the plugins bridge and
/// host-local; `kubelab up --cni-conf` fills in the node's pod CIDR.
pub const CONFLIST: &str = r#"{
  "cniVersion": "0.4.0", "name": "cbr0", "plugins": [
    {"type": "bridge", "bridge": "cni0", "mtu": 1450, "hairpinMode": true, "ipMasq": false,
     "isGateway": true, "isDefaultGateway": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "@POD_CIDR@"}]],
              "routes": [{"dst": "10.244.0.0/16"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}"#;

const PREFIX: &str = "flannel.alpha.coreos.com";

impl Lab {
    /// Flannel starts on a node: device, masquerade rules, annotations, condition.
    ///
    /// # Errors
    /// If the kernel or the API server refuses something.
    pub fn flannel_starts(&self, node: u8, mac: &str) -> Result<()> {
        let device = "type vxlan id 1 dev eth0 dstport 8472 nolearning";
        let rule = |rule: &str| format!("iptables -w -t nat -A FLANNEL-POSTRTG {rule}");
        let (cluster, own) = ("10.244.0.0/16", format!("10.244.{node}.0/24"));
        for line in [
            format!("ip link add flannel.1 address {mac} mtu 1450 {device} local 10.99.0.{node}"),
            "ip link set flannel.1 up".into(),
            format!("ip address add 10.244.{node}.0/32 dev flannel.1"),
            "iptables -w -t nat -N FLANNEL-POSTRTG".into(),
            "iptables -w -t nat -A POSTROUTING -j FLANNEL-POSTRTG".into(),
            rule("-m mark --mark 0x4000/0x4000 -j RETURN"),
            rule(&format!("-s {own} -d {cluster} -j RETURN")),
            rule(&format!("-s {cluster} -d {own} -j RETURN")),
            rule(&format!("! -s {cluster} -d {own} -j RETURN")),
            rule(&format!(
                "-s {cluster} ! -d 224.0.0.0/4 -j MASQUERADE --random-fully"
            )),
            rule(&format!(
                "! -s {cluster} -d {cluster} -j MASQUERADE --random-fully"
            )),
        ] {
            self.node(node, &line)?;
        }
        let data = json!({"VNI": 1, "VtepMAC": mac}).to_string();
        let annotations = json!({
            format!("{PREFIX}/backend-type"): "vxlan",
            format!("{PREFIX}/backend-data"): data,
            format!("{PREFIX}/public-ip"): format!("10.99.0.{node}"),
            format!("{PREFIX}/kube-subnet-manager"): "true",
        });
        let patch = json!({"metadata": {"annotations": annotations}}).to_string();
        self.kubectl_with(
            &["patch", "node", &format!("kn{node}"), "--patch", &patch],
            "",
        )
        .map(drop)
    }

    /// Flannel of `node` learns of another node from that one's annotations.
    ///
    /// # Errors
    /// If they are not there, or the kernel refuses something.
    pub fn flannel_learns(&self, node: u8, peer: u8) -> Result<()> {
        let mac = self.vtep_mac(peer)?;
        let gateway = format!("10.244.{peer}.0");
        for line in [
            format!("ip neighbour replace {gateway} lladdr {mac} dev flannel.1 nud permanent"),
            format!("bridge fdb replace {mac} dev flannel.1 dst 10.99.0.{peer} self permanent"),
            format!("ip route replace {gateway}/24 via {gateway} dev flannel.1 onlink"),
        ] {
            self.node(node, &line)?;
        }
        Ok(())
    }

    /// The MAC of the VTEP that a Node announces.
    ///
    /// # Errors
    /// If it announces none.
    pub fn vtep_mac(&self, node: u8) -> Result<String> {
        let object = self.get(&format!("node kn{node}"))?;
        let data = &object["metadata"]["annotations"][format!("{PREFIX}/backend-data")];
        let data: serde_json::Value =
            serde_json::from_str(data.as_str().context("the node announces nothing")?)?;
        Ok(data["VtepMAC"].as_str().context("no VtepMAC")?.to_owned())
    }
}
