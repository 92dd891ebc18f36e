//! The page of results: what stands between two marks is generated, the rest is written by people.

use anyhow::{Context, Result};

const BEGIN: &str = "<!-- `cargo xtask bench --write` replaces everything from here -->";
const END: &str = "<!-- to here -->";

/// The page with new results in the place of the old ones.
pub(super) fn with(page: &str, results: &str) -> Result<String> {
    let marked = || {
        let (head, rest) = page.split_once(BEGIN)?;
        let (_, tail) = rest.split_once(END)?;
        Some((head, tail))
    };
    let (head, tail) =
        marked().with_context(|| format!("the page has no lines `{BEGIN}` and `{END}`"))?;
    let results = results.trim();
    Ok(format!("{head}{BEGIN}\n\n{results}\n\n{END}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_stays() {
        let page = format!("# Head\n\n{BEGIN}\nold\n{END}\n\n## Why\n\nBecause.\n");
        let new = with(&page, "\nnew\n\n").unwrap();
        assert_eq!(
            new,
            format!("# Head\n\n{BEGIN}\n\nnew\n\n{END}\n\n## Why\n\nBecause.\n")
        );
        assert_eq!(with(&new, "new").unwrap(), new, "again and again");
        with("# Head\n", "new").unwrap_err();
    }
}
