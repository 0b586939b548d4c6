//! Applies the rules to the kernel, removes them, and reads their counters.

use crate::error::RedirectError;
use crate::nft::{self, TABLE, VERIFY_TABLE};
use crate::plan::Plan;
use crate::render::render;
use crate::verify::verify;

/// Replaces the kernel's table with the plan's rules in one transaction: there is never half a table, and no gap between two
/// tables. Returns false if the table was equal already; then nothing changes, counters included.
pub fn apply(plan: &Plan) -> Result<bool, RedirectError> {
    let rules = render(plan)?;
    if is_applied()? && verify(plan)?.is_empty() {
        return Ok(false);
    }
    nft::load(&format!("{}{rules}", nft::clear(VERIFY_TABLE)))?;
    Ok(true)
}

/// Whether the kernel has sidegate's rules, of any plan.
pub fn is_applied() -> Result<bool, RedirectError> {
    nft::has_table(TABLE)
}

/// Removes the table from the kernel; false if there was none. After that all traffic passes unprotected.
pub fn remove() -> Result<bool, RedirectError> {
    let had = nft::has_table(TABLE)?;
    if had || nft::has_table(VERIFY_TABLE)? {
        nft::load(&format!("{}{}", nft::clear(VERIFY_TABLE), nft::clear(TABLE)))?;
    }
    Ok(had)
}

/// How many packets the rules counted since they were applied, by name.
pub fn counters() -> Result<Vec<(String, u64)>, RedirectError> {
    if !nft::has_table(TABLE)? {
        return Err(RedirectError::NotApplied);
    }
    Ok(read_counters(&nft::list_counters(TABLE)?))
}

fn read_counters(listing: &str) -> Vec<(String, u64)> {
    let mut counters = Vec::new();
    let mut name = None;
    for line in listing.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["counter", counter, "{"] => name = Some(counter.to_owned()),
            ["packets", packets, ..] => {
                let packets = packets.parse().ok();
                counters.extend(name.take().zip(packets));
            }
            _ => {}
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_name() {
        let listing = "table inet sidegate {\n\tcounter a {\n\t\tpackets 3 bytes 180\n\t}\n\tcounter b {\n\
                       \t\tpackets 0 bytes 0\n\t}\n}\n";
        assert_eq!(read_counters(listing), [("a".to_owned(), 3), ("b".to_owned(), 0)]);
    }
}
