//! Encrypted connections, certificates and passwords.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oxlan_tests::cluster::Shape;

use crate::site::{DUAL, PREFIX, Site, own, wait_for_nodes, with_site};

/// A user who may do what an agent has to do, and nothing else.
fn require_passwords(site: &mut Site) -> Result<()> {
    let prefix = format!("{PREFIX}/");
    for line in [
        "user add root:very-secret",
        "user grant-role root root",
        "role add agent",
        &format!("role grant-permission agent --prefix=true readwrite {prefix}"),
        "user add oxlan:secret",
        "user grant-role oxlan agent",
        "auth enable",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        site.etcd.ctl(&words)?;
    }
    site.etcd.log_in("root:very-secret");
    Ok(())
}

#[test]
fn certificates_and_passwords_open_etcd() {
    with_site(Shape::nodes(2), 1, true, |site| {
        site.configure(DUAL)?;
        require_passwords(site)?;
        let certificates = site.etcd.certificates.clone().context("no certificates")?;
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let (ca, certificate) = (text(&certificates.ca), text(&certificates.certificate));
        let (key, server) = (
            text(&certificates.key),
            text(&certificates.server_certificate),
        );
        let directory = site.cluster.scope().dir();
        let (right, wrong) = (directory.join("password"), directory.join("wrong"));
        std::fs::write(&right, "secret\n")?;
        std::fs::write(&wrong, "guessed")?;
        let (right, wrong) = (text(&right), text(&wrong));
        let good: [(&str, &str); 5] = [
            ("OXLAN_ETCD_CAFILE", &ca),
            ("OXLAN_ETCD_CERTFILE", &certificate),
            ("OXLAN_ETCD_KEYFILE", &key),
            ("OXLAN_ETCD_USERNAME", "oxlan"),
            ("OXLAN_ETCD_PASSWORD_FILE", &right),
        ];
        for (variable, value, expected) in [
            (
                "OXLAN_ETCD_PASSWORD_FILE",
                wrong.as_str(),
                "authentication failed",
            ),
            ("OXLAN_ETCD_USERNAME", "nobody", "authentication failed"),
            ("OXLAN_ETCD_CAFILE", &server, "certificate"),
            (
                "OXLAN_ETCD_CAFILE",
                "/nowhere",
                "cannot read /nowhere, which --etcd-cafile names",
            ),
            (
                "OXLAN_ETCD_PASSWORD_FILE",
                "/nowhere",
                "which --etcd-password-file names",
            ),
        ] {
            let mut bad = good.to_vec();
            bad.retain(|(name, _)| *name != variable);
            bad.push((variable, value));
            let node = &site.cluster.nodes[0];
            site.spawn(0, &bad)?;
            let ended = node.agent_ended_within(Duration::from_secs(30))?;
            ensure!(!ended.success(), "{}", node.log());
            ensure!(
                node.log().contains(expected),
                "no {expected} in {}",
                node.log()
            );
        }
        for index in 0..2 {
            site.spawn(index, &good)?;
            site.cluster.nodes[index].wait_ready()?;
        }
        let [first, second] = [&site.cluster.nodes[0], &site.cluster.nodes[1]];
        wait_for_nodes(first, 2)?;
        ensure!(own(first)? != own(second)?);
        Ok(())
    });
}
