//! Renders the rules as a script for nft: the capture, and the chain that proves it.

use crate::capture::{capture, own};
use crate::check::check;
use crate::error::RedirectError;
use crate::nft::{self, TABLE};
use crate::plan::Plan;
use crate::proof::Proof;
use crate::set::set;
use crate::text::Text;

/// The plan's rules as a script for `nft -f`, which replaces the table in one transaction. It needs no privilege.
pub fn render(plan: &Plan) -> Result<String, RedirectError> {
    check(plan)?;
    Ok(format!(
        "# sidegate's capture rules. One transaction: the old table goes and the new one comes at the same moment.\n\
         {}\n{}",
        nft::clear(TABLE),
        table(plan, TABLE, false)
    ))
}

/// The table of a plan that has been checked.
pub(crate) fn table(plan: &Plan, name: &str, dormant: bool) -> String {
    let mut text = Text::default();
    text.open(format_args!("table inet {name}"));
    if dormant {
        text.line("flags dormant");
    }
    capture(&mut text, plan);
    proof(&mut text, plan);
    text.close();
    text.text
}

fn proof(text: &mut Text, plan: &Plan) {
    text.open("chain proof");
    text.note("The sidecar reaches itself at these addresses only while these rules are in place: so it proves them without");
    text.note("a privilege. All but the first are digests of the rules above.");
    text.line("type nat hook output priority -101; policy accept;");
    let addresses = set(Proof::of_checked(plan).addresses());
    text.line(format_args!("{} ip daddr {addresses} meta l4proto tcp dnat ip to 127.0.0.1", own(plan)));
    text.close();
}
