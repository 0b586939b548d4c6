//! Everything, for programs.

use serde_json::{Map, Value, json};

use super::machine::Machine;
use super::summary::{Cell, Summary};
use crate::cli::Options;
use crate::figures::{Better, Figure};
use crate::products::{BASELINE, Product};
use crate::run::{Results, Round};

/// The machine, the products, the medians and every round.
pub(crate) fn json(machine: &Machine, options: &Options, summary: &Summary, results: &Results) -> Value {
    let pairs =
        |all: &[(Product, String)]| -> Map<String, Value> { all.iter().map(|(product, text)| (product.name(), json!(text))).collect() };
    let figure = |(figure, cells): &(Figure, Vec<Option<Cell>>)| {
        let cell = |cell: &Cell| {
            let ratio = cell.ratio.map(|r| json!({ "median": r.median, "least": r.least, "greatest": r.greatest }));
            json!({ "median": cell.median, "ratio": ratio })
        };
        let products = summary.products.iter().zip(cells).filter_map(|(product, c)| Some((product.name(), cell(c.as_ref()?))));
        let better = match figure.better {
            Better::More => "more",
            Better::Less => "less",
            Better::Neither => "neither",
        };
        (figure.key.clone(), json!({ "label": figure.label, "better": better, "products": products.collect::<Map<_, _>>() }))
    };
    let round = |round: &Round| round.iter().map(|(product, figures)| (product.name(), json!(figures))).collect::<Map<_, _>>();
    json!({
        "machine": { "kernel": machine.kernel, "processor": machine.processor, "cores": machine.cores },
        "quick": options.quick,
        "versions": pairs(&results.versions),
        "skipped": pairs(&results.skipped),
        "baseline": BASELINE.name(),
        "figures": summary.rows.iter().map(figure).collect::<Map<_, _>>(),
        "rounds": results.rounds.iter().map(round).collect::<Vec<_>>(),
        "failures": results.failures,
    })
}
