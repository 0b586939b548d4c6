//! `sidegate redirect`.

use anyhow::Result;
use sidegate_checks::Unusable;
use sidegate_core::counted;
use sidegate_redirect::Plan;

use crate::cli::{self, RedirectAction};
use crate::exit_status::ExitStatus;
use crate::output::{say, say_lines};

/// Applies, shows, verifies or removes the rules.
pub(crate) fn redirect(arguments: &cli::RedirectArgs) -> Result<ExitStatus> {
    if let RedirectAction::Remove = arguments.action {
        let there = sidegate_redirect::remove()?;
        err!("{}", if there { "removed" } else { "there were no rules" });
        return Ok(ExitStatus::Good);
    }
    let config = sidegate_config::load(&arguments.config.config).map_err(Unusable)?;
    let plan = Plan::new(&config);
    match arguments.action {
        RedirectAction::Show => say_lines(&sidegate_redirect::render(&plan)?)?,
        RedirectAction::Apply => {
            let is_new = sidegate_redirect::apply(&plan)?;
            err!("{}", if is_new { "applied" } else { "unchanged: the kernel had these rules already" });
        }
        RedirectAction::Verify => {
            if !sidegate_redirect::is_applied()? {
                err!("this network namespace has no kernel rules of sidegate; `sidegate redirect apply` puts them in place");
                return Ok(ExitStatus::Finding);
            }
            let differences = sidegate_redirect::verify(&plan)?;
            differences.iter().try_for_each(|difference| say(&difference.to_string()))?;
            if !differences.is_empty() {
                let lines = counted(differences.len() as u64, "line");
                err!("the kernel's rules differ from what is wanted in {lines}; `sidegate redirect apply` replaces them");
                return Ok(ExitStatus::Finding);
            }
            err!("the kernel has what is wanted");
        }
        RedirectAction::Remove => {}
    }
    Ok(ExitStatus::Good)
}
