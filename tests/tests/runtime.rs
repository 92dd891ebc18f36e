//! Real containers: containerd from Debian attaches them through the plugin.
#![cfg(test)]

use anyhow::Result;
use oxlan_tests::binaries::unpacked;
use oxlan_tests::containerd::Containerd;
use oxlan_tests::scope::Scope;
use serde_json::json;

/// With the reference plugins, so that a failure of the others is not one of this set-up.
#[test]
fn the_reference_bridge_attaches_containers() -> Result<()> {
    let scope = Scope::for_test()?;
    let node = scope.netns("node-1")?;
    let runtime = Containerd::start(&scope, &node, "node-1")?;
    for plugin in ["bridge", "host-local"] {
        runtime.install_plugin(&unpacked(&format!("usr/lib/cni/{plugin}"))?)?;
    }
    let ipam = json!({
        "type": "host-local",
        "ranges": [[{"subnet": "10.99.1.0/24"}], [{"subnet": "fd00:99::/64"}]],
        "dataDir": scope.dir().join("ipam"),
    });
    runtime.configure(
        &json!({"cniVersion": "1.0.0", "name": "reference", "plugins": [
            {"type": "bridge", "bridge": "cni0", "ipam": ipam},
        ]}),
    )?;
    let server = runtime.run("server", "httpd -f -p 80 -h /www")?;
    let client = runtime.run("client", "sleep 1000")?;
    for address in &server.addresses {
        client.ping(*address)?;
    }
    server.remove()?;
    client.remove()?;
    assert_eq!(runtime.containers()?, Vec::<String>::new());
    Ok(())
}
