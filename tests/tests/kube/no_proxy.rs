//! A cluster without kube-proxy, in which nobody leads the API server's service address to it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use oxlan_tests::kubelab::{Lab, OUTSIDE, Steps};
use serde_json::Value;

use crate::{deploy, import_image};

/// The address that a user has to replace (RFC 5737).
const EXAMPLE: &str = "192.0.2.10";

pub(super) fn scenario(steps: &mut Steps, directory: &Path) -> Result<()> {
    steps.step(
        "kube::no_proxy::agents_have_the_servers_own_address",
        || {
            let lab = Lab::up(directory, "--cni-conf none --proxy none")?;
            import_image(&lab)?;
            let overlay = lab.scope().dir().join("kustomize");
            write_address(&overlay)?;
            lab.kubectl(&format!(
                "apply -k {}",
                overlay.join("api-server-address").display()
            ))?;
            lab.rolled_out("oxlan")?;
            lab.nodes_ready()?;
            let status = lab.agent(1, "status")?;
            let source = status["source"].as_str().unwrap_or_default();
            let server = format!("kube https://{OUTSIDE}:6443");
            ensure!(source.starts_with(&server), "by another address: {source}");
            let plain = || Value::Null;
            let [one, other] = lab.pods([("one", 1, plain()), ("other", 2, plain())])?;
            one.is_seen_by(&other)?;
            other.is_seen_by(&one)
        },
    )
}

/// The kustomizations, with the address of this cluster's API server.
fn write_address(to: &Path) -> Result<()> {
    for name in ["oxlan", "api-server-address"] {
        fs::create_dir_all(to.join(name))?;
        for file in fs::read_dir(deploy("kustomize").join(name))? {
            let file = file?;
            let text = fs::read_to_string(file.path())
                .with_context(|| format!("cannot read {}", file.path().display()))?;
            let text = text.replace(EXAMPLE, OUTSIDE);
            fs::write(to.join(name).join(file.file_name()), text)?;
        }
    }
    Ok(())
}
