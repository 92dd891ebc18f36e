//! One thing that is wrong with a description of the cluster.

use std::fmt;

/// A field, what it says, and what it may say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which field of which table, as `node "node-b": pod_cidrs[0]`.
    pub place: String,
    /// Its value as it stands in the source; none when the field itself is missing or unwanted.
    pub value: Option<String>,
    /// Why that cannot be, and what is wanted instead.
    pub wanted: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        write!(f, ": {}", self.wanted)
    }
}

/// Collects problems while a description is read.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    /// Notes that the value of a field cannot be.
    pub(super) fn value(
        &mut self,
        place: &str,
        value: impl fmt::Display,
        wanted: impl Into<String>,
    ) {
        self.0.push(Problem {
            place: place.to_owned(),
            value: Some(value.to_string()),
            wanted: wanted.into(),
        });
    }

    /// Notes that something is missing, or there and unwanted.
    pub(super) fn place(&mut self, place: &str, wanted: impl Into<String>) {
        self.0.push(Problem {
            place: place.to_owned(),
            value: None,
            wanted: wanted.into(),
        });
    }

    /// Whether a problem's place begins so.
    pub(super) fn concern(&self, beginning: &str) -> bool {
        self.0.iter().any(|p| p.place.starts_with(beginning))
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes over what others have found.
    pub(super) fn extend(&mut self, others: Vec<Problem>) {
        self.0.extend(others);
    }

    pub(super) fn into_vec(self) -> Vec<Problem> {
        self.0
    }
}

/// All problems on one line each, indented, below a heading; a single one without a line of its own.
pub(super) fn list(problems: &[Problem]) -> String {
    match problems {
        [one] => format!(" {one}"),
        many => many.iter().map(|p| format!("\n  {p}")).collect(),
    }
}

/// The beginning of a text, for what others have written may be of any length.
pub(super) fn shortened(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
    }
}
