//! Compares the kernel's rules with the wanted ones.

use crate::diff::{Difference, diff};
use crate::error::RedirectError;
use crate::nft::{self, TABLE, VERIFY_TABLE};
use crate::plan::Plan;
use crate::render::{render, table};

/// Compares the kernel's rules with the plan's. An empty list means that they are equal.
///
/// The kernel and `nft` write rules in their own way, which changes from version to version. So the wanted rules are
/// loaded too, into a second table that is dormant (no packet ever sees it) and deleted at once, and both are read
/// back the same way.
pub fn verify(plan: &Plan) -> Result<Vec<Difference>, RedirectError> {
    render(plan)?;
    let wanted = load_and_list(plan)?;
    let found = if nft::has_table(TABLE)? { nft::list(TABLE)? } else { String::new() };
    Ok(diff(&lines(&as_if_live(&wanted)), &lines(&found)))
}

fn load_and_list(plan: &Plan) -> Result<String, RedirectError> {
    nft::load(&format!("{}{}", nft::clear(VERIFY_TABLE), table(plan, VERIFY_TABLE, true)))?;
    let listing = nft::list(VERIFY_TABLE);
    // It is deleted in any case. If both steps fail, the first error says more.
    let cleared = nft::load(&nft::clear(VERIFY_TABLE));
    let listing = listing?;
    cleared.map(|()| listing)
}

/// Undoes the changes that make the second table dormant. It is applied to the wanted text only: a live table that is dormant is
/// a difference.
fn as_if_live(listing: &str) -> String {
    listing.replacen(&format!("table inet {VERIFY_TABLE} "), &format!("table inet {TABLE} "), 1).replacen("\tflags dormant\n", "", 1)
}

/// Each line with its block, without comments.
fn lines(listing: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut block = String::new();
    for line in listing.lines() {
        let line = line.trim();
        let line = line.split_once(" comment \"").map_or(line, |(rule, _)| rule);
        match line.strip_suffix(" {") {
            Some(header) => {
                block = header.to_owned();
                lines.push(header.to_owned());
            }
            None if line.is_empty() || line == "}" || line.starts_with("comment \"") => {}
            None => lines.push(format!("{block}: {line}")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_know_their_block_and_forget_comments() {
        let listing = "table inet sidegate {\n\tcomment \"ours\"\n\tchain a {\n\t\taccept comment \"why\"\n\t}\n}\n";
        assert_eq!(lines(listing), ["table inet sidegate", "chain a", "chain a: accept"]);
    }
}
