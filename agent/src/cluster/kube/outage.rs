//! Whether the API server answers, and when to ask it again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher;
use tokio::time::Instant;

/// Pauses between attempts: doubled each time, up to the last one, and of random length, so that
/// thousands of nodes do not come back at the same moment.
const FIRST: Duration = Duration::from_millis(200);
const LAST: Duration = Duration::from_secs(30);

/// After this many failures in a row the connection is made anew, from files that may have changed.
const STUBBORN: u32 = 6;

/// Growing pauses.
pub(super) struct Pauses(ExponentialBackoff);

impl Pauses {
    pub(super) fn new() -> Self {
        let builder = ExponentialBuilder::default()
            .with_min_delay(FIRST)
            // The random part comes on top, and is as long as the pause at most.
            .with_max_delay(LAST / 2)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times();
        Self(builder.build())
    }

    pub(super) fn next(&mut self) -> Duration {
        self.0.next().unwrap_or(LAST)
    }
}

/// What is known of the server.
pub(super) struct Outage {
    pauses: Pauses,
    failures: u32,
    /// Nothing is asked before.
    pub(super) resume: Instant,
    trouble: Option<Trouble>,
}

struct Trouble {
    kind: Kind,
    text: String,
}

/// What a person would do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unreachable,
    Unauthorized,
    Forbidden,
    Other(u16),
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Advice {
    /// There is something new to say.
    pub(super) news: bool,
    /// The connection should be made anew.
    pub(super) reconnect: bool,
}

impl Outage {
    pub(super) fn new() -> Self {
        Self {
            pauses: Pauses::new(),
            failures: 0,
            resume: Instant::now(),
            trouble: None,
        }
    }

    /// What is wrong, in words; none while all is well.
    pub(super) fn problem(&self) -> Option<&str> {
        self.trouble.as_ref().map(|t| t.text.as_str())
    }

    /// The server has answered. Whether that is news.
    pub(super) fn answered(&mut self) -> bool {
        self.trouble.take().is_some()
    }

    /// The server's answers are of use: the next failure is a first one.
    pub(super) fn progressed(&mut self) {
        if self.failures > 0 {
            self.pauses = Pauses::new();
            self.failures = 0;
        }
    }

    /// The server has not answered, or not as it should.
    pub(super) fn failed(&mut self, error: &watcher::Error, url: &str, now: Instant) -> Advice {
        self.resume = now + self.pauses.next();
        self.failures += 1;
        let kind = kind(error);
        // Gone: the watch was too slow and lists again, as it should.
        if kind == Kind::Other(410) {
            tracing::debug!("the watch has to list again: {error}");
            return Advice {
                news: false,
                reconnect: false,
            };
        }
        tracing::debug!(failures = self.failures, "the API server: {error}");
        let news = self.trouble.as_ref().is_none_or(|t| t.kind != kind);
        if news {
            let text = in_words(kind, error, url);
            self.trouble = Some(Trouble { kind, text });
        }
        Advice {
            news,
            reconnect: kind == Kind::Unauthorized || self.failures.is_multiple_of(STUBBORN),
        }
    }
}

fn kind(error: &watcher::Error) -> Kind {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => kind_of_client(error),
        watcher::Error::WatchError(status) => of_code(status.code),
        watcher::Error::NoResourceVersion => Kind::Other(0),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's errors grow, and nearly all of them mean that there was no answer"
)]
fn kind_of_client(error: &kube::Error) -> Kind {
    match error {
        kube::Error::Api(status) => of_code(status.code),
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Kind::Other(0),
        _ => Kind::Unreachable,
    }
}

fn of_code(code: u16) -> Kind {
    match code {
        401 => Kind::Unauthorized,
        403 => Kind::Forbidden,
        other => Kind::Other(other),
    }
}

fn in_words(kind: Kind, error: &watcher::Error, url: &str) -> String {
    let since = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let cause = crate::datapath::chain(error);
    match kind {
        Kind::Unreachable => format!("the API server {url} does not answer since {since}: {cause}"),
        Kind::Unauthorized => {
            format!(
                "the API server {url} does not accept the agent's token or certificate since {since}: {cause}"
            )
        }
        Kind::Forbidden => format!(
            "the API server {url} forbids what the agent needs, list and watch of nodes, since {since}: {cause}"
        ),
        Kind::Other(_) => {
            format!("the API server {url} answers with an error since {since}: {cause}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> watcher::Error {
        let status =
            serde_json::json!({"status": "Failure", "code": code, "message": "m", "reason": "r"});
        watcher::Error::WatchError(serde_json::from_value(status).unwrap())
    }

    #[test]
    fn an_outage_is_told_once_and_its_end_once() {
        let now = Instant::now();
        let mut outage = Outage::new();
        assert!(!outage.answered(), "nothing was wrong");
        assert!(outage.failed(&status(500), "u", now).news);
        assert!(!outage.failed(&status(500), "u", now).news);
        assert!(
            outage.failed(&status(403), "u", now).news,
            "something else is wrong"
        );
        assert!(outage.problem().unwrap().contains("forbids"));
        assert!(outage.answered());
        assert_eq!(outage.problem(), None);
    }

    #[test]
    fn pauses_grow_to_a_limit_and_start_again() {
        let now = Instant::now();
        let mut outage = Outage::new();
        let mut last = Duration::ZERO;
        for attempt in 0..20 {
            outage.failed(&status(503), "u", now);
            last = outage.resume - now;
            assert!(last >= FIRST && last <= LAST, "attempt {attempt}: {last:?}");
        }
        assert!(last >= LAST / 2, "{last:?}");
        outage.progressed();
        outage.failed(&status(503), "u", now);
        assert!(outage.resume - now <= 2 * FIRST);
    }

    #[test]
    fn a_refused_token_and_many_failures_make_a_new_connection() {
        let now = Instant::now();
        let mut outage = Outage::new();
        assert!(outage.failed(&status(401), "u", now).reconnect);
        let mut outage = Outage::new();
        let advice: Vec<bool> = (0..STUBBORN)
            .map(|_| outage.failed(&status(429), "u", now).reconnect)
            .collect();
        assert_eq!(advice.iter().filter(|r| **r).count(), 1);
        assert_eq!(advice.last(), Some(&true));
    }

    #[test]
    fn a_watch_that_is_too_old_is_no_outage() {
        let mut outage = Outage::new();
        assert!(!outage.failed(&status(410), "u", Instant::now()).news);
        assert_eq!(outage.problem(), None);
    }
}
