//! Tables of nftables: read, compared and removed. What is in them: [`super::masquerade`], [`super::ports`].

use nftables::batch::Batch;
use nftables::helper::{self, NftablesError};
use nftables::schema::{NfListObject, Table};
use nftables::types::NfFamily;

/// Why the table cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program `nft` failed.
    #[error("cannot {action} the nftables table inet {table}: {}", reason(.source))]
    Nft {
        /// What was tried.
        action: &'static str,
        /// Name of the table.
        table: &'static str,
        /// What the program said.
        source: Box<NftablesError>,
    },
    /// Its answer is not what it documents.
    #[error("cannot read the answer of `nft -j list table inet`")]
    Answer(#[source] serde_json::Error),
}

/// The table as the kernel has it, in a form that can be compared with a later one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing(Vec<serde_json::Value>);

/// A table now; none when there is no such table.
///
/// # Errors
/// When `nft` is missing or its answer cannot be read.
pub fn list(table: &'static str) -> Result<Option<Listing>, NftError> {
    let arguments = ["list", "table", "inet", table];
    match helper::get_current_ruleset_raw(helper::DEFAULT_NFT, arguments) {
        Ok(text) => listing(&text).map(Some),
        Err(error) if is_missing(&error) => Ok(None),
        Err(source) => Err(failed("list", table)(source)),
    }
}

/// Writes a table by `write`, which returns its listing, and says which listing is right from now on.
///
/// Somebody may change the table between the writing and the listing, which must not pass for right. So a
/// listing that differs from the one `known` for the same rules counts only if it comes a second time.
///
/// # Errors
/// Those of `write`.
pub fn settle<L: Clone + PartialEq>(
    known: Option<&L>,
    mut write: impl FnMut() -> Result<L, NftError>,
) -> Result<L, NftError> {
    let listing = write()?;
    match known {
        Some(known) if *known != listing && write()? != listing => Ok(known.clone()),
        _ => Ok(listing),
    }
}

/// Removes a table; that it is gone is success. Says whether there was one.
///
/// # Errors
/// When `nft` is missing or the kernel refuses.
pub fn remove(table: &'static str) -> Result<bool, NftError> {
    if list(table)?.is_none() {
        return Ok(false);
    }
    let mut batch = Batch::new();
    batch.delete(NfListObject::Table(named(table)));
    let done = helper::apply_ruleset(&batch.to_nftables());
    done.map(|()| true).map_err(failed("remove", table))
}

/// Says what was tried on which table.
pub(super) fn failed(
    action: &'static str,
    table: &'static str,
) -> impl FnOnce(NftablesError) -> NftError {
    move |source| NftError::Nft {
        action,
        table,
        source: Box::new(source),
    }
}

/// A table of both families.
pub(super) fn named(name: &'static str) -> Table<'static> {
    Table {
        family: NfFamily::INet,
        name: name.into(),
        handle: None,
    }
}

/// Everything but what differs from one identical table to the next: handles, versions.
fn listing(text: &str) -> Result<Listing, NftError> {
    let mut value: serde_json::Value = serde_json::from_str(text).map_err(NftError::Answer)?;
    let objects = value.get_mut("nftables").and_then(|v| v.as_array_mut());
    let mut objects = objects.map(std::mem::take).unwrap_or_default();
    objects.retain(|object| object.get("metainfo").is_none());
    for object in &mut objects {
        for inner in object
            .as_object_mut()
            .into_iter()
            .flat_map(|o| o.values_mut())
        {
            if let Some(fields) = inner.as_object_mut() {
                fields.remove("handle");
            }
        }
    }
    Ok(Listing(objects))
}

fn is_missing(error: &NftablesError) -> bool {
    matches!(error, NftablesError::NftFailed { stderr, .. } if stderr.contains("No such file or directory"))
}

/// What `nft` wrote to its standard error is the reason; the rest is in the error's own text.
fn reason(error: &NftablesError) -> String {
    match error {
        NftablesError::NftFailed { stderr, .. } => {
            stderr.lines().next().unwrap_or_default().to_owned()
        }
        NftablesError::NftExecution { .. } => "is nftables installed?".to_owned(),
        NftablesError::NftOutputEncoding { .. } | NftablesError::NftInvalidJson(_) => {
            "does this version of nft speak JSON?".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_between_writing_and_listing_does_not_pass_for_right() {
        let settled = |known: Option<&u8>, listings: &[u8]| {
            let mut left = listings.iter().copied();
            let right = settle(known, || Ok(left.next().unwrap())).unwrap();
            assert_eq!(left.next(), None, "{listings:?}");
            right
        };
        assert_eq!(settled(None, &[1]), 1);
        assert_eq!(settled(Some(&1), &[1]), 1);
        // Somebody was in between; the kernel lists the same rules in another way now.
        assert_eq!(settled(Some(&1), &[2, 1]), 1);
        assert_eq!(settled(Some(&1), &[2, 2]), 2);
    }

    #[test]
    fn a_listing_forgets_handles_only() {
        let one = r#"{"nftables":[{"metainfo":{"version":"1"}},{"rule":{"handle":3,"expr":[1]}}]}"#;
        let two = r#"{"nftables":[{"metainfo":{"version":"2"}},{"rule":{"handle":9,"expr":[1]}}]}"#;
        let other = r#"{"nftables":[{"rule":{"handle":9,"expr":[2]}}]}"#;
        assert_eq!(listing(one).unwrap(), listing(two).unwrap());
        assert_ne!(listing(one).unwrap(), listing(other).unwrap());
    }
}
