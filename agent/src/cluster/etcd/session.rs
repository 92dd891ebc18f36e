//! A conversation with one member: everything there is, and then every change of it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use etcd_client::{Client, EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{Instant, timeout};

use super::acquire::{Held, renew};
use super::registry::{Entry, Registry};
use super::{EtcdError, Prefix};

/// Subnets that are read at once: an answer must not become too large.
const PAGE: i64 = 500;

/// Largest answer that is read, bytes: larger than a page of Flannel's values by far.
const LARGEST: usize = 64 << 20;

/// A member that does not confirm a watch within this time is as good as down.
const CONFIRM: Duration = Duration::from_secs(5);

/// A conversation that has lasted so long was none that could not be.
const LASTING: Duration = Duration::from_secs(30);

/// Everything there is.
#[derive(Debug, Default)]
pub struct Listed {
    /// The network's configuration; none if nobody has written it.
    pub config: Option<Vec<u8>>,
    /// The subnets.
    pub registry: Registry,
    /// etcd's revision of which all this is.
    pub revision: i64,
}

/// What has come of waiting.
#[derive(Debug)]
pub(super) enum Happened {
    /// Changes, in the order in which they were made.
    Changes(Vec<Change>),
    /// The lease is due.
    RenewalDue,
}

/// One change.
#[derive(Debug)]
pub(super) enum Change {
    /// The network's configuration was written, or removed.
    Config(Option<Vec<u8>>),
    /// A subnet was written.
    Put(String, Entry),
    /// A subnet was removed.
    Removed(String),
}

/// A conversation that has begun.
pub(super) struct Session {
    client: Client,
    pub(super) endpoint: String,
    watch: WatchStream,
    prefix: Prefix,
    held: Held,
    renew_at: Instant,
    began: Instant,
}

impl Session {
    /// Watches what changes after a list.
    pub(super) async fn begin(
        mut client: Client,
        endpoint: &str,
        prefix: &Prefix,
        revision: i64,
        held: Held,
    ) -> Result<Self, EtcdError> {
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(revision + 1);
        let silent = || EtcdError::Silent {
            endpoint: endpoint.to_owned(),
        };
        // The stream begins before the member has looked whether this watch may be: its first message tells.
        let confirmed = async {
            let mut watch = client.watch(prefix.all(), Some(options)).await?;
            let first = watch.message().await;
            Ok((watch, first))
        };
        let confirmed = timeout(CONFIRM, confirmed).await.map_err(|_| silent())?;
        let (watch, first) = confirmed.map_err(EtcdError::client(endpoint))?;
        checked(endpoint, first)?;
        let renew_at = renewal(&held);
        Ok(Self {
            client,
            endpoint: endpoint.to_owned(),
            watch,
            prefix: prefix.clone(),
            held,
            renew_at,
            began: Instant::now(),
        })
    }

    /// Whether it has lasted, so that its end is no reason to wait before the next.
    pub(super) fn has_lasted(&self) -> bool {
        self.began.elapsed() >= LASTING
    }

    /// Waits for what is next. Nothing is lost when the caller stops to wait.
    pub(super) async fn wait(&mut self) -> Result<Happened, EtcdError> {
        loop {
            let response = tokio::select! {
                message = self.watch.message() => checked(&self.endpoint, message)?,
                () = tokio::time::sleep_until(self.renew_at) => return Ok(Happened::RenewalDue),
            };
            let changes = self.changes(&response);
            if !changes.is_empty() {
                return Ok(Happened::Changes(changes));
            }
        }
    }

    /// What has come besides, without waiting for more than some milliseconds.
    pub(super) async fn more(&mut self) -> Result<Vec<Change>, EtcdError> {
        const SOON: Duration = Duration::from_millis(5);
        const MOST: usize = 200;
        let mut all = Vec::new();
        while all.len() < MOST {
            let Ok(message) = timeout(SOON, self.watch.message()).await else {
                break;
            };
            let response = checked(&self.endpoint, message)?;
            all.extend(self.changes(&response));
        }
        Ok(all)
    }

    /// Renews the lease; whether it still is.
    pub(super) async fn renew(&mut self) -> Result<bool, EtcdError> {
        self.renew_at = renewal(&self.held);
        if self.held.lease == 0 {
            return Ok(true);
        }
        renew(&mut self.client, &self.endpoint, self.held.lease).await
    }

    fn changes(&self, response: &WatchResponse) -> Vec<Change> {
        let (config, subnets) = (self.prefix.config(), self.prefix.subnets());
        let change = |event: &etcd_client::Event| {
            let kv = event.kv()?;
            let put = event.event_type() == EventType::Put;
            let key = String::from_utf8_lossy(kv.key());
            if key == config.as_str() {
                return Some(Change::Config(put.then(|| kv.value().to_vec())));
            }
            let name = key.strip_prefix(&subnets)?;
            Some(if put {
                Change::Put(name.to_owned(), entry(name, kv))
            } else {
                Change::Removed(name.to_owned())
            })
        };
        response.events().iter().filter_map(change).collect()
    }
}

/// What a watch says, unless that is its end.
fn checked(
    endpoint: &str,
    message: Result<Option<WatchResponse>, etcd_client::Error>,
) -> Result<WatchResponse, EtcdError> {
    let ended = |reason: String| EtcdError::Watch {
        endpoint: endpoint.to_owned(),
        reason,
    };
    let response = message.map_err(EtcdError::client(endpoint))?;
    let response = response.ok_or_else(|| ended("the connection has ended".into()))?;
    if response.compact_revision() > 0 {
        return Err(ended("what was missed has been compacted".into()));
    }
    if response.canceled() {
        return Err(ended(response.cancel_reason().to_owned()));
    }
    Ok(response)
}

/// At a third of the time: etcd may then be away for the other two.
fn renewal(held: &Held) -> Instant {
    Instant::now() + held.ttl / 3
}

/// Reads everything there is, all of it of one revision.
///
/// # Errors
/// When the member does not do what it is asked.
pub async fn list(
    client: &mut Client,
    endpoint: &str,
    prefix: &Prefix,
) -> Result<Listed, EtcdError> {
    let fault = EtcdError::client(endpoint);
    let mut kv = client.kv_client().max_decoding_message_size(LARGEST);
    let config = kv.get(prefix.config(), None).await.map_err(&fault)?;
    let mut listed = Listed {
        config: config.kvs().first().map(|kv| kv.value().to_vec()),
        registry: Registry::default(),
        revision: config
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision),
    };
    let subnets = prefix.subnets();
    let end = after(&subnets);
    let mut from = subnets.clone().into_bytes();
    loop {
        let page = GetOptions::new()
            .with_range(end.clone())
            .with_limit(PAGE)
            .with_revision(listed.revision);
        let page = kv.get(from, Some(page)).await.map_err(&fault)?;
        for kv in page.kvs() {
            let key = String::from_utf8_lossy(kv.key());
            if let Some(name) = key.strip_prefix(&subnets) {
                listed.registry.put(name, entry(name, kv));
            }
        }
        match page.kvs().last() {
            Some(last) if page.more() => {
                from = last.key().to_vec();
                from.push(0);
            }
            _ => return Ok(listed),
        }
    }
}

/// The first key after all that begin so: `/` is the last character, and `0` follows it.
fn after(directory: &str) -> Vec<u8> {
    let mut end = directory.trim_end_matches('/').as_bytes().to_vec();
    end.push(b'/' + 1);
    end
}

fn entry(name: &str, kv: &etcd_client::KeyValue) -> Entry {
    let (created, modified) = (kv.create_revision(), kv.mod_revision());
    Entry::new(name, kv.value(), created, modified, kv.lease())
}

/// Waits before the next attempt: longer each time, up to half a minute, and never all nodes alike.
pub(super) async fn pause(failures: u32) {
    const FIRST: Duration = Duration::from_millis(20);
    const LONGEST: Duration = Duration::from_secs(30);
    let longest = FIRST
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(LONGEST);
    // A hasher with fresh keys is the standard library's one source of randomness.
    let random = RandomState::new().build_hasher().finish() % 1_000;
    let random = u32::try_from(random).unwrap_or(0);
    tokio::time::sleep(longest / 2 + longest / 2 * random / 1_000).await;
}
