//! DEL, GC, and what the agent does with what it finds at its start.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use super::check;
use super::inner::Inner;
use super::{Attachment, Key, Phase, PodError, RestoreReport};

/// How long the kernel may take to end a namespace whose name is gone.
const LAST_MOMENT: Duration = Duration::from_millis(500);

impl Inner {
    /// Detaches a container. That there is nothing to detach is success.
    pub(super) fn del(&self, key: &Key) -> Result<(), PodError> {
        let _turn = self.busy.turn(key);
        match self.find(key) {
            Some(attachment) => self.take_down(&attachment),
            None => self.drop_unreadable(key),
        }
    }

    /// Detaches everything of `network` that is not in `valid`. Returns what went.
    ///
    /// What an ADD is working on stays: the runtime began it after it had made its list.
    pub(super) fn gc(&self, network: &str, valid: &HashSet<Key>) -> Result<Vec<Key>, PodError> {
        let stale: Vec<Key> = {
            let records = self.records();
            let candidates = records.attachments.iter().filter(|(key, attachment)| {
                attachment.network == network
                    && attachment.phase != Phase::Adding
                    && !valid.contains(key)
            });
            candidates.map(|(key, _)| key.clone()).collect()
        };
        let mut problems = Vec::new();
        let mut removed = Vec::new();
        for key in stale {
            match self.del(&key) {
                Ok(()) => removed.push(key),
                Err(error) => problems.push(format!("{}: {}", key.container_id, error.chain())),
            }
        }
        if problems.is_empty() {
            Ok(removed)
        } else {
            Err(PodError::Leftovers(problems))
        }
    }

    /// Reads the records of a predecessor and undoes what is incomplete or has ended.
    pub(super) fn restore(&self) -> Result<RestoreReport, PodError> {
        let loaded = self.store.load()?;
        let mut report = RestoreReport::default();
        let patience = Instant::now() + LAST_MOMENT;
        for strange in loaded.unreadable {
            // Its pod may be alive: nobody else may get its addresses.
            let claimed = self.records().ipam.claim(&strange.key, &strange.addresses);
            let errors = [Some(strange.error), claimed.err()];
            let errors = errors.iter().flatten().map(PodError::chain);
            report.problems.extend(errors);
        }
        for attachment in loaded.attachments {
            let key = Key::of(&attachment);
            let _turn = self.busy.turn(&key);
            let claimed = self.claim(&key, &attachment);
            match self.reason_to_remove(&attachment, claimed, patience) {
                Ok(None) => {
                    report.kept += 1;
                    if let Err(error) = check::limit(&attachment) {
                        report.problems.push(described(&attachment, &error.chain()));
                    }
                }
                Ok(Some(reason)) => match self.take_down(&attachment) {
                    Ok(()) => report.removed.push(described(&attachment, &reason)),
                    Err(error) => report.problems.push(described(&attachment, &error.chain())),
                },
                Err(error) => report.problems.push(described(&attachment, &error.chain())),
            }
        }
        let ports = self.repair_ports().err();
        report.problems.extend(ports.as_ref().map(PodError::chain));
        Ok(report)
    }

    /// Detaches what has ended without a DEL: neither its interface nor its namespace is there.
    ///
    /// A runtime whose DEL met no agent believes that it has detached the container, and ends the
    /// namespace afterwards, perhaps under the eyes of the next agent.
    pub(super) fn drop_ended(&self) -> RestoreReport {
        let ready: Vec<Attachment> = {
            let records = self.records();
            let all = records.attachments.values();
            all.filter(|a| a.phase == Phase::Ready).cloned().collect()
        };
        let mut report = RestoreReport::default();
        for attachment in ready {
            if Path::new(&attachment.netns).exists() {
                report.kept += 1;
                continue;
            }
            let key = Key::of(&attachment);
            let _turn = self.busy.turn(&key);
            let ended = self.is_alive(&attachment).and_then(|alive| {
                if !alive {
                    self.take_down(&attachment)?;
                }
                Ok(!alive)
            });
            match ended {
                Ok(true) => report
                    .removed
                    .push(described(&attachment, "its network namespace has ended")),
                Ok(false) => report.kept += 1,
                Err(error) => report.problems.push(described(&attachment, &error.chain())),
            }
        }
        report
    }

    fn claim(&self, key: &Key, attachment: &Attachment) -> Result<(), PodError> {
        let mut records = self.records();
        records.attachments.insert(key.clone(), attachment.clone());
        records.ipam.claim(key, &attachment.addresses)
    }

    fn reason_to_remove(
        &self,
        attachment: &Attachment,
        claimed: Result<(), PodError>,
        patience: Instant,
    ) -> Result<Option<String>, PodError> {
        if let Err(double) = claimed {
            return Ok(Some(double.to_string()));
        }
        Ok(match attachment.phase {
            Phase::Adding => Some("its ADD had not been completed".into()),
            Phase::Removing => Some("its DEL had not been completed".into()),
            Phase::Ready if self.has_survived(attachment, patience)? => None,
            Phase::Ready => Some("its network namespace has ended".into()),
        })
    }

    /// Whether a pod is still there: its interface is, and, unless patience ends, so is its namespace's
    /// name, for the kernel takes the interface away some time after the name.
    fn has_survived(&self, attachment: &Attachment, patience: Instant) -> Result<bool, PodError> {
        while self.is_alive(attachment)? {
            if Path::new(&attachment.netns).exists() || Instant::now() > patience {
                return Ok(true);
            }
            std::thread::sleep(LAST_MOMENT / 50);
        }
        Ok(false)
    }
}

fn described(attachment: &Attachment, reason: &str) -> String {
    let Attachment {
        container_id,
        ifname,
        addresses,
        ..
    } = attachment;
    let addresses = super::joined(addresses);
    format!("{ifname} of container {container_id} ({addresses}): {reason}")
}
