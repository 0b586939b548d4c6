//! The rounds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::cli::Options;
use crate::figures::{ADDED, Figures};
use crate::identity::Side;
use crate::measure::{Outcome, Subject, measure};
use crate::products::{Choice, Product};
use crate::rig::Rig;

/// What one round brought, by product.
pub(crate) type Round = BTreeMap<Product, Figures>;

/// Everything that was measured.
#[derive(Default)]
pub(crate) struct Results {
    /// Products with what they say of their version, in the order of the tables.
    pub(crate) versions: Vec<(Product, String)>,
    /// Those that could not be measured, and why.
    pub(crate) skipped: Vec<(Product, String)>,
    /// The rounds.
    pub(crate) rounds: Vec<Round>,
    /// What went wrong in which round.
    pub(crate) failures: Vec<String>,
}

/// Measures all products, round after round, each round in another order.
pub(crate) fn run(options: &Options, rig: &Rig) -> Result<Results> {
    let sidegate = match &options.sidegate {
        Some(path) => path.clone(),
        None if options.chosen().into_iter().any(Product::is_ours) => build()?,
        None => PathBuf::new(),
    };
    let choice = Choice { sidegate, without_tunnel_key: options.without_tunnel_key };
    let mut results = Results::default();
    for product in options.chosen() {
        match product.version(&choice) {
            Ok(version) => results.versions.push((product, version)),
            Err(why) => results.skipped.push((product, format!("{why:#}"))),
        }
    }
    for (product, why) in &results.skipped {
        eprintln!("{}: skipped: {why}", product.name());
    }
    for number in 1..=options.rounds {
        let mut round = Round::new();
        let mut order: Vec<Product> = results.versions.iter().map(|(product, _)| *product).collect();
        fastrand::shuffle(&mut order);
        for product in order {
            eprint!("round {number}: {} … ", product.name());
            let start = Instant::now();
            match one(options, rig, &choice, product) {
                Ok(outcome) => {
                    eprintln!("{:.0} s", start.elapsed().as_secs_f64());
                    for failure in outcome.failures {
                        eprintln!("  {failure}");
                        results.failures.push(format!("round {number}: {}: {failure}", product.name()));
                    }
                    round.insert(product, outcome.figures);
                }
                Err(error) => {
                    eprintln!("failed: {error:#}");
                    results.failures.push(format!("round {number}: {}: {error:#}", product.name()));
                }
            }
        }
        add_differences(&mut round);
        results.rounds.push(round);
    }
    Ok(results)
}

fn one(options: &Options, rig: &Rig, choice: &Choice, product: Product) -> Result<Outcome> {
    let pair = product.start(rig, choice)?;
    let subject = Subject { entry: pair.entry, processes: pair.processes()?, open: rig.open() };
    let options = options.clone();
    subject.settle()?;
    let measuring = rig.pod(Side::Client).spawn(move || measure(&subject, &options))?;
    let outcome = measuring.join().ok().context("the load generator panicked")?;
    Ok(outcome)
}

/// What each product adds to the same round's direct connections.
fn add_differences(round: &mut Round) {
    let Some(direct) = round.get(&Product::Direct).cloned() else { return };
    for (product, figures) in round {
        for (key, of) in ADDED {
            if let (Some(here), Some(there)) = (figures.get(*of), direct.get(*of))
                && *product != Product::Direct
            {
                figures.insert((*key).to_owned(), here - there);
            }
        }
    }
}

/// Builds sidegate as it is released.
fn build() -> Result<PathBuf> {
    eprintln!("building sidegate …");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--package", "sidegate"]).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    ensure!(cargo.status().context("cargo can't be started")?.success(), "sidegate can't be built; give one by --sidegate");
    // This program lies in TARGET/PROFILE.
    let here = std::env::current_exe()?;
    match here.ancestors().nth(2).map(|target| target.join("release/sidegate")) {
        Some(built) if built.exists() => Ok(built),
        _ => bail!("the sidegate that was built is not where it should be; give one by --sidegate"),
    }
}
