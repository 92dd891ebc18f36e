//! Getting a subnet, and keeping it: by transactions that only one of several nodes can win.

use std::net::IpAddr;
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};

use super::choose::{Choice, Wish};
use super::record::{Holder, Subnet};
use super::registry::{Entry, Registry};
use super::session::{Listed, list};
use super::{EtcdError, Prefix};
use crate::cluster::Network;
use crate::cluster::flannel::Subnets;

/// Others may be faster so often.
const ATTEMPTS: u32 = 100;

/// A member that does not take a lease back within this time is not waited for.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// Who wants a subnet, and of what.
#[derive(Debug, Clone)]
pub struct Applicant<'a> {
    /// Where keys are.
    pub prefix: &'a Prefix,
    /// The network.
    pub network: &'a Network,
    /// Its subnets, one row per family, IPv4 first.
    pub families: &'a [Subnets],
    /// Own underlay addresses.
    pub underlay: &'a [IpAddr],
    /// The subnet that the node had before.
    pub before: Option<Subnet>,
    /// How long to lease it for.
    pub lease: Duration,
}

/// A subnet that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The subnet.
    pub subnet: Subnet,
    /// etcd's lease; 0 for a reservation, which never expires.
    pub lease: i64,
    /// How long the lease lasts without renewal.
    pub ttl: Duration,
}

/// What came of one attempt.
enum Attempt {
    Done(Held),
    /// Somebody was faster.
    Lost,
}

/// Gets a subnet for an applicant, of which `announce` says what it wants to stand there, given what
/// stood there. `listed` is brought up to date with what was written.
///
/// `spare` is a lease that was granted and is not used: an attempt that fails or is cut short leaves it
/// to the next one, or etcd would have one more for each attempt.
///
/// # Errors
/// When none is free, or etcd does not do what it is asked.
pub async fn acquire(
    client: &mut Client,
    endpoint: &str,
    applicant: &Applicant<'_>,
    listed: &mut Listed,
    spare: &mut Option<i64>,
    announce: impl Fn(Option<&Holder>) -> Holder,
) -> Result<Held, EtcdError> {
    let mut desk = Desk {
        client,
        endpoint,
        applicant,
        spare,
        is_known_to_live: false,
    };
    let held = settle(&mut desk, listed, announce).await;
    desk.give_back(held.as_ref().ok()).await;
    held
}

/// Tries until a subnet is there.
async fn settle(
    desk: &mut Desk<'_>,
    listed: &mut Listed,
    announce: impl Fn(Option<&Holder>) -> Holder,
) -> Result<Held, EtcdError> {
    let applicant = desk.applicant;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            super::session::pause(attempt.min(6)).await;
            *listed = list(desk.client, desk.endpoint, applicant.prefix).await?;
        }
        let wish = Wish {
            network: applicant.network,
            families: applicant.families,
            underlay: applicant.underlay,
            before: applicant.before.as_ref(),
            attempt,
        };
        desk.remove_outdated(&wish, &mut listed.registry).await?;
        let tried = match wish.choose(&listed.registry) {
            Choice::Keep(subnet, name, before) => {
                let holder = announce(Some(&before));
                desk.keep(subnet, &name, &before, &holder, listed).await?
            }
            Choice::Take(subnet) => desk.take(subnet, &announce(None), listed).await?,
            Choice::Full(taken) => {
                return Err(EtcdError::Full {
                    network: applicant
                        .families
                        .iter()
                        .map(|f| f.network.to_string())
                        .collect::<Vec<_>>()
                        .join(", "),
                    taken,
                    key: applicant.prefix.config(),
                });
            }
        };
        if let Attempt::Done(held) = tried {
            return Ok(held);
        }
    }
    Err(EtcdError::Contended { attempts: ATTEMPTS })
}

/// What the steps share.
struct Desk<'a> {
    client: &'a mut Client,
    endpoint: &'a str,
    applicant: &'a Applicant<'a>,
    /// A lease that has been granted, and not used yet.
    spare: &'a mut Option<i64>,
    /// Whether the member has said of it that it has not expired.
    is_known_to_live: bool,
}

impl Desk<'_> {
    fn fault(&self) -> impl Fn(etcd_client::Error) -> EtcdError {
        EtcdError::client(self.endpoint)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.applicant.prefix.subnets())
    }

    /// Own subnets that the configuration no longer allows, unless somebody writes them meanwhile.
    async fn remove_outdated(
        &mut self,
        wish: &Wish<'_>,
        registry: &mut Registry,
    ) -> Result<(), EtcdError> {
        for (name, modified) in wish.outdated(registry) {
            let key = self.key(&name);
            let same = Compare::mod_revision(key.as_str(), CompareOp::Equal, modified);
            self.commit(same, TxnOp::delete(key, None)).await?;
            registry.remove(&name);
        }
        Ok(())
    }

    /// Renews a subnet that is the node's already; a reservation needs no renewal.
    async fn keep(
        &mut self,
        subnet: Subnet,
        name: &str,
        before: &Holder,
        holder: &Holder,
        listed: &mut Listed,
    ) -> Result<Attempt, EtcdError> {
        let Some(entry) = listed.registry.get(name).cloned() else {
            return Ok(Attempt::Lost);
        };
        if entry.lease != 0 && !self.renew(entry.lease).await? {
            return Ok(Attempt::Lost);
        }
        let mut modified = entry.modified;
        if holder != before {
            let key = self.key(name);
            let same = Compare::mod_revision(key.as_str(), CompareOp::Equal, entry.modified);
            let keep_lease = PutOptions::new().with_ignore_lease();
            let put = TxnOp::put(key, holder.to_text(), Some(keep_lease));
            let Some(revision) = self.commit(same, put).await? else {
                return Ok(Attempt::Lost);
            };
            modified = revision;
        }
        let ttl = self.ttl(entry.lease).await?;
        let entry = Entry {
            holder: Ok(holder.clone()),
            modified,
            ..entry
        };
        let held = Held {
            subnet,
            lease: entry.lease,
            ttl,
        };
        listed.registry.put(name, entry);
        Ok(Attempt::Done(held))
    }

    /// Makes a key that nobody has made, and gives it up if an older one turns out to overlap: two
    /// keys of different names can have an IPv6 prefix in common.
    async fn take(
        &mut self,
        subnet: Subnet,
        holder: &Holder,
        listed: &mut Listed,
    ) -> Result<Attempt, EtcdError> {
        let lease = self.grant().await?;
        let name = subnet.name();
        let key = self.key(&name);
        let absent = Compare::version(key.as_str(), CompareOp::Equal, 0);
        let leased = PutOptions::new().with_lease(lease);
        let text = holder.to_text();
        let put = TxnOp::put(key.as_str(), text.as_str(), Some(leased));
        let Some(revision) = self.commit(absent, put).await? else {
            return Ok(Attempt::Lost);
        };
        if self
            .is_contested(&subnet, listed.revision, revision)
            .await?
        {
            let same = Compare::create_revision(key.as_str(), CompareOp::Equal, revision);
            // If this fails the next attempt finds the key, and gives it up for the older one.
            self.commit(same, TxnOp::delete(key, None)).await?;
            return Ok(Attempt::Lost);
        }
        let entry = Entry::new(&name, text.as_bytes(), revision, revision, lease);
        listed.registry.put(&name, entry);
        Ok(Attempt::Done(Held {
            subnet,
            lease,
            ttl: self.applicant.lease,
        }))
    }

    /// Whether a key that was made after the list, and before ours, overlaps.
    async fn is_contested(
        &mut self,
        subnet: &Subnet,
        listed: i64,
        ours: i64,
    ) -> Result<bool, EtcdError> {
        if ours <= listed + 1 {
            return Ok(false);
        }
        let between = GetOptions::new()
            .with_prefix()
            .with_keys_only()
            .with_min_create_revision(listed + 1)
            .with_max_create_revision(ours - 1);
        let prefix = self.applicant.prefix.subnets();
        let found = self
            .client
            .kv_client()
            .get(prefix.as_str(), Some(between))
            .await;
        let found = found.map_err(self.fault())?;
        let names = found
            .kvs()
            .iter()
            .filter_map(|kv| kv.key_str().ok()?.strip_prefix(&prefix));
        let others = names.filter_map(|name| Subnet::parse(name).ok());
        Ok(others.into_iter().any(|other| other.overlaps(subnet)))
    }

    /// Does this if that is so; etcd's revision of it.
    async fn commit(&mut self, condition: Compare, step: TxnOp) -> Result<Option<i64>, EtcdError> {
        let txn = Txn::new().when([condition]).and_then([step]);
        let done = self.client.kv_client().txn(txn).await;
        let done = done.map_err(self.fault())?;
        let revision = done.header().map(etcd_client::ResponseHeader::revision);
        Ok(done.succeeded().then_some(revision.unwrap_or(0)))
    }

    async fn grant(&mut self) -> Result<i64, EtcdError> {
        if let Some(lease) = *self.spare {
            if self.is_known_to_live || self.renew(lease).await? {
                self.is_known_to_live = true;
                return Ok(lease);
            }
            *self.spare = None;
        }
        let seconds = i64::try_from(self.applicant.lease.as_secs()).unwrap_or(i64::MAX);
        let granted = self.client.lease_client().grant(seconds, None).await;
        let lease = granted.map_err(self.fault())?.id();
        *self.spare = Some(lease);
        self.is_known_to_live = true;
        Ok(lease)
    }

    /// Whether the lease still is.
    async fn renew(&mut self, lease: i64) -> Result<bool, EtcdError> {
        renew(self.client, self.endpoint, lease).await
    }

    async fn ttl(&mut self, lease: i64) -> Result<Duration, EtcdError> {
        if lease == 0 {
            return Ok(self.applicant.lease);
        }
        let asked = self.client.lease_client().time_to_live(lease, None).await;
        let seconds = asked.map_err(self.fault())?.granted_ttl();
        Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }

    /// A lease that was granted and not needed would only expire after a day.
    async fn give_back(&mut self, held: Option<&Held>) {
        let Some(lease) = *self.spare else { return };
        let is_used = held.is_some_and(|held| held.lease == lease);
        // What a failed attempt may have written after all goes with its lease.
        if is_used || self.revoke(lease).await {
            *self.spare = None;
        }
    }

    async fn revoke(&mut self, lease: i64) -> bool {
        let mut leases = self.client.lease_client();
        let revoked = tokio::time::timeout(GIVE_BACK, leases.revoke(lease)).await;
        revoked.is_ok_and(|answer| answer.is_ok())
    }
}

/// Renews a lease; whether it still is.
pub(super) async fn renew(
    client: &mut Client,
    endpoint: &str,
    lease: i64,
) -> Result<bool, EtcdError> {
    match client.lease_client().keep_alive(lease).await {
        Ok(_) => Ok(true),
        // How the client says that the answer's TTL is 0.
        Err(etcd_client::Error::LeaseKeepAliveError(_)) => Ok(false),
        Err(error) => Err(EtcdError::client(endpoint)(error)),
    }
}
