//! Many nodes that want subnets at once.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oxlan::cluster::etcd::{
    Applicant, EtcdError, Held, Holder, LEASE, Options, Prefix, acquire, connect, list,
};
use oxlan::cluster::flannel::{BackendData, NetConf};
use oxlan_tests::cluster::Shape;
use tokio::task::JoinSet;

use crate::site::{PREFIX, with_site};

/// As many nodes as there are subnets.
const NODES: u8 = 50;

const CONFIG: &str = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:244::/48",
    "SubnetMin":"10.244.1.0","SubnetMax":"10.244.50.0","IPv6SubnetMin":"fd00:244:0:1::","IPv6SubnetMax":"fd00:244:0:32::","Backend":{"Type":"vxlan"}}"#;

fn options(endpoint: &str) -> Options {
    Options {
        endpoints: vec![endpoint.to_owned()],
        prefix: Prefix::new(PREFIX),
        ca: None,
        identity: None,
        user: None,
        underlay: Vec::new(),
        lease: LEASE,
    }
}

/// What an agent does for its subnet, as the node with this number.
async fn apply(endpoint: String, number: u8) -> Result<Held, EtcdError> {
    let options = options(&endpoint);
    let conf = NetConf::parse(CONFIG.as_bytes(), "config")?;
    let mut client = connect(&options, &endpoint).await?;
    let mut listed = list(&mut client, &endpoint, &options.prefix).await?;
    let address = Ipv4Addr::new(172, 16, 0, number);
    let applicant = Applicant {
        prefix: &options.prefix,
        network: &conf.network(),
        families: &conf.subnets("config")?,
        underlay: &[IpAddr::V4(address)],
        before: None,
        lease: Duration::from_secs(600),
    };
    let announce = |_: Option<&Holder>| Holder {
        public_v4: Some(address),
        public_v6: None,
        backend: "vxlan".into(),
        data_v4: Some(BackendData {
            vni: None,
            vtep_mac: conf.backend.vtep_mac(address.into()),
        }),
        data_v6: None,
    };
    acquire(
        &mut client,
        &endpoint,
        &applicant,
        &mut listed,
        &mut None,
        announce,
    )
    .await
}

async fn all_at_once(endpoint: &str) -> Result<Vec<(u8, Held)>> {
    let mut tasks = JoinSet::new();
    for number in 1..=NODES {
        let endpoint = endpoint.to_owned();
        tasks.spawn(async move { (number, apply(endpoint, number).await) });
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (number, held) = done?;
        all.push((number, held.with_context(|| format!("node {number}"))?));
    }
    Ok(all)
}

#[test]
fn no_two_of_fifty_nodes_get_the_same() {
    with_site(Shape::nodes(0), 1, false, |site| {
        site.configure(CONFIG)?;
        let endpoint = site.etcd.endpoints();
        site.etcd.netns().inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let all = all_at_once(&endpoint).await?;
                let prefixes: BTreeSet<String> = all
                    .iter()
                    .flat_map(|(_, held)| held.subnet.prefixes())
                    .map(|p| p.to_string())
                    .collect();
                ensure!(
                    prefixes.len() == 2 * usize::from(NODES),
                    "{} of {NODES}: {prefixes:?}",
                    prefixes.len()
                );
                // Who asks again gets the same, and who comes late nothing.
                let (number, first) = all.first().context("nobody")?;
                let again = apply(endpoint.clone(), *number).await?;
                ensure!(
                    again.subnet == first.subnet && again.lease == first.lease,
                    "{again:?}"
                );
                let late = apply(endpoint.clone(), NODES + 1).await;
                ensure!(matches!(late, Err(EtcdError::Full { .. })), "{late:?}");
                Ok(())
            })
        })?;
        let keys = site
            .etcd
            .keys(&["--prefix", &format!("{PREFIX}/subnets/")])?;
        ensure!(keys.len() == usize::from(NODES), "{} keys", keys.len());
        // Nothing is left of attempts that others were faster at.
        let leases = site.etcd.ctl(&["lease", "list"])?;
        let count = leases.lines().count() - 1;
        ensure!(count == usize::from(NODES), "{leases}");
        Ok(())
    });
}
