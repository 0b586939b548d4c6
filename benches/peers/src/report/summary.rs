//! Medians over the rounds, and ratios to the baseline.

use crate::figures::{Better, Figure};
use crate::products::{BASELINE, Product};
use crate::run::Results;

/// Ratios to the baseline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ratio {
    /// The median of the rounds' ratios.
    pub(crate) median: f64,
    /// The least.
    pub(crate) least: f64,
    /// The greatest.
    pub(crate) greatest: f64,
}

/// One figure of one product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cell {
    /// The median.
    pub(crate) median: f64,
    /// None for the baseline itself, where it has no such figure, and where none is better.
    pub(crate) ratio: Option<Ratio>,
}

/// All figures of all products: a row each figure that anybody has, a column each product.
pub(crate) struct Summary {
    /// The columns.
    pub(crate) products: Vec<Product>,
    /// The rows.
    pub(crate) rows: Vec<(Figure, Vec<Option<Cell>>)>,
}

impl Summary {
    /// Of these results.
    pub(crate) fn of(catalog: &[Figure], results: &Results) -> Self {
        let measured = |product: &Product| results.rounds.iter().any(|round| round.contains_key(product));
        let products: Vec<Product> = results.versions.iter().map(|(product, _)| *product).filter(measured).collect();
        let row = |figure: &Figure| {
            let cells: Vec<_> = products.iter().map(|product| cell(results, *product, figure)).collect();
            cells.iter().any(Option::is_some).then(|| (figure.clone(), cells))
        };
        Self { rows: catalog.iter().filter_map(row).collect(), products }
    }
}

fn cell(results: &Results, product: Product, figure: &Figure) -> Option<Cell> {
    let of = |product: Product| results.rounds.iter().map(move |round| round.get(&product)?.get(&figure.key).copied());
    let values: Vec<f64> = of(product).flatten().collect();
    // Ratios are of the same round, in which the machine was in the same mood. What is not above zero has none.
    let pairs = of(product).zip(of(BASELINE)).filter_map(|(here, there)| Some((here?, there?)));
    let ratios: Vec<f64> = pairs.filter(|(here, there)| *here > 0.0 && *there > 0.0).map(|(here, there)| here / there).collect();
    let ratio = median(&ratios).filter(|_| product != BASELINE && figure.better != Better::Neither).map(|median| Ratio {
        median,
        least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
        greatest: ratios.iter().copied().fold(0.0, f64::max),
    });
    Some(Cell { median: median(&values)?, ratio })
}

/// The middle one, or the mean of the two in the middle; none of none.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

impl Ratio {
    /// How many times better than the baseline: above one is better, whichever way the figure goes.
    pub(crate) fn times_better(self, better: Better) -> f64 {
        match better {
            Better::More => self.median,
            Better::Less => 1.0 / self.median,
            Better::Neither => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::catalog;
    use crate::run::Round;

    #[test]
    fn ratios_are_of_the_same_round() {
        let round = |envoy: f64, other: f64| -> Round {
            [(Product::Envoy, envoy), (Product::Sidegate, other)].map(|(p, v)| (p, [("requests".to_owned(), v)].into())).into()
        };
        let results = Results {
            versions: vec![(Product::Envoy, "1".to_owned()), (Product::Sidegate, "2".to_owned())],
            rounds: vec![round(100.0, 200.0), round(50.0, 150.0), round(200.0, 200.0)],
            ..Results::default()
        };
        let summary = Summary::of(&catalog(&[]), &results);
        let [(figure, cells)] = &summary.rows[..] else { unreachable!() };
        assert_eq!(figure.key, "requests");
        assert_eq!(cells[0], Some(Cell { median: 100.0, ratio: None }));
        let ratio = Ratio { median: 2.0, least: 1.0, greatest: 3.0 };
        assert_eq!(cells[1], Some(Cell { median: 200.0, ratio: Some(ratio) }));
        assert!((ratio.times_better(Better::Less) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
    }
}
