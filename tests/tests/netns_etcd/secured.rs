//! Encrypted connections, certificates and passwords.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use oxlan_tests::cluster::Shape;
use oxlan_tests::wait::until_true;

use crate::site::{
    DUAL, PREFIX, SINGLE, Site, own, wait_for_nodes, wait_for_peace, wait_for_problem, with_site,
};

/// A user `oxlan` with these permissions and nothing else.
fn require_passwords(site: &mut Site, permissions: &[&str]) -> Result<()> {
    let grant = |what: &&str| format!("role grant-permission agent {what}");
    let lines = [
        "user add root:very-secret",
        "user grant-role root root",
        "role add agent",
        "user add oxlan:secret",
        "user grant-role oxlan agent",
    ];
    let lines = lines.into_iter().map(str::to_owned);
    for line in lines
        .chain(permissions.iter().map(grant))
        .chain(["auth enable".to_owned()])
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        site.etcd.ctl(&words)?;
    }
    site.etcd.log_in("root:very-secret");
    Ok(())
}

/// What an agent has to be allowed.
const ENOUGH: &str = "--prefix=true readwrite /coreos.com/network/";

/// The environment of an agent that is the user `oxlan`.
fn credentials(site: &Site) -> Result<[(&'static str, String); 2]> {
    let file = site.cluster.scope().dir().join("password");
    std::fs::write(&file, "secret\n")?;
    let file = file.to_string_lossy().into_owned();
    Ok([
        ("OXLAN_ETCD_USERNAME", "oxlan".to_owned()),
        ("OXLAN_ETCD_PASSWORD_FILE", file),
    ])
}

/// Watches that etcd has been asked for.
fn watches(site: &Site) -> Result<u64> {
    let text = site.etcd.metrics()?;
    let line = text
        .lines()
        .find(|l| l.starts_with("grpc_server_started_total") && l.contains("\"Watch\""));
    let count = line.and_then(|l| l.rsplit(' ').next());
    count
        .context("no count of watches")?
        .parse()
        .context("no number")
}

/// An agent may read and write all it needs, but not watch it: it says so, and does not ask without pause.
#[test]
fn a_refused_watch_is_reported_and_not_asked_for_without_pause() {
    with_site(Shape::nodes(1), 1, false, |site| {
        site.configure(SINGLE)?;
        require_passwords(site, &[ENOUGH])?;
        let credentials = credentials(site)?;
        let environment = credentials
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        site.spawn(0, &environment)?;
        let node = &site.cluster.nodes[0];
        node.wait_ready()?;
        // The lists are of these two, the watch is of what is above them.
        for line in [
            format!("role grant-permission agent readwrite {PREFIX}/config"),
            format!("role grant-permission agent --prefix=true readwrite {PREFIX}/subnets/"),
            format!("role revoke-permission agent --prefix=true {PREFIX}/"),
        ] {
            site.etcd
                .ctl(&line.split_whitespace().collect::<Vec<_>>())?;
        }
        site.etcd.kill(0)?;
        site.etcd.restart(0)?;
        site.etcd.wait()?;
        let node = &site.cluster.nodes[0];
        wait_for_problem(node, "no longer tells of changes")?;
        wait_for_problem(node, "permission denied")?;
        let (before, since) = (watches(site)?, Instant::now());
        until_true(Duration::from_secs(60), "five more attempts", || {
            Ok(watches(site)? >= before + 5)
        })?;
        // At least half of 80, 160, 320, 640 and 1280 ms lies between them, whatever the machine does.
        ensure!(
            since.elapsed() > Duration::from_secs(1),
            "{:?}",
            since.elapsed()
        );
        let back = format!("role grant-permission agent {ENOUGH}");
        site.etcd
            .ctl(&back.split_whitespace().collect::<Vec<_>>())?;
        wait_for_peace(node)
    });
}

/// Granting a lease needs no permission, writing the subnet does: nothing may be left of such attempts.
#[test]
fn no_lease_is_left_by_attempts_that_fail() {
    with_site(Shape::nodes(1), 1, false, |site| {
        site.configure(SINGLE)?;
        require_passwords(site, &["--prefix=true read /coreos.com/network/"])?;
        let credentials = credentials(site)?;
        let environment = credentials
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        for _ in 0..2 {
            let node = &site.cluster.nodes[0];
            site.spawn(0, &environment)?;
            let ended = node.agent_ended_within(Duration::from_secs(30))?;
            ensure!(!ended.success(), "{}", node.log());
            ensure!(node.log().contains("permission denied"), "{}", node.log());
        }
        let leases = site.etcd.ctl(&["lease", "list"])?;
        ensure!(leases.lines().count() == 1, "{leases}");
        Ok(())
    });
}

#[test]
fn certificates_and_passwords_open_etcd() {
    with_site(Shape::nodes(2), 1, true, |site| {
        site.configure(DUAL)?;
        require_passwords(site, &[ENOUGH])?;
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
