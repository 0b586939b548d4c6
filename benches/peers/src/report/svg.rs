//! The picture: how many times better or worse than the baseline, as bars on a logarithmic scale.

use std::fmt::Write;

use super::summary::Summary;
use crate::figures::Figure;
use crate::products::{BASELINE, Product};

const BAR: f64 = 11.0;
const GAP: f64 = 16.0;
const LABELS: f64 = 330.0;
const WIDTH: f64 = 960.0;
/// Room for a number beside a bar.
const NUMBER: f64 = 44.0;
const HEAD: f64 = 64.0;
/// The scale ends between these, to both sides of one; what is beyond is drawn up to there.
const RANGE: (f64, f64) = (2.0, 16.0);

/// Dull for others, bright for sidegate; all are legible on white and on black.
const OTHERS: [&str; 4] = ["#8b929e", "#a98d5d", "#a36f78", "#6f8f86"];
const OURS: [&str; 4] = ["#0e9f6e", "#2f80ed", "#c27803", "#9061f9"];

/// Draws the figures that are to be drawn.
pub(crate) fn svg(summary: &Summary) -> String {
    let products: Vec<(usize, Product)> =
        summary.products.iter().copied().enumerate().filter(|(_, p)| ![BASELINE, Product::Direct].contains(p)).collect();
    let colours = colours(&products);
    let groups: Vec<(&Figure, Vec<(f64, &str)>)> = summary
        .rows
        .iter()
        .filter(|(figure, _)| figure.drawn)
        .map(|(figure, cells)| {
            let bars = products
                .iter()
                .zip(&colours)
                .filter_map(|((column, _), colour)| Some((cells[*column]?.ratio?.times_better(figure.better), *colour)));
            (figure, bars.collect())
        })
        .filter(|(_, bars): &(_, Vec<_>)| !bars.is_empty())
        .collect();
    let range = groups.iter().flat_map(|(_, bars)| bars).map(|(times, _)| times.max(1.0 / times)).fold(RANGE.0, f64::max).min(RANGE.1);
    // Whole powers of two, so that the grid ends with the scale.
    let range = range.log2().ceil();
    let middle = f64::midpoint(LABELS + NUMBER, WIDTH - NUMBER);
    let unit = (WIDTH - NUMBER - middle) / range;
    let bars: usize = groups.iter().map(|(_, bars)| bars.len()).sum();
    let height = HEAD + bars.to_string().parse().unwrap_or(0.0) * BAR + groups.len().to_string().parse().unwrap_or(0.0) * GAP + 8.0;
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">
<style>text {{ fill: #24292f }} .grid {{ stroke: #8b929e; stroke-opacity: .35 }} .one {{ stroke: #24292f }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} .one {{ stroke: #e6edf3 }} }}</style>
<text x=\"8\" y=\"18\" font-size=\"14\" font-weight=\"600\">Times better than {}</text>
",
        BASELINE.name()
    );
    legend(&mut svg, &products, &colours);
    grid(&mut svg, range, middle, unit, height);
    let mut y = HEAD + GAP / 2.0;
    for (figure, bars) in &groups {
        let centre = y + BAR * f64::from(u32::try_from(bars.len()).unwrap_or(0)) / 2.0 + 4.0;
        let _ = writeln!(svg, "<text x=\"8\" y=\"{centre:.1}\">{}</text>", full_label(summary, figure));
        for (times, colour) in bars {
            bar(&mut svg, *times, colour, middle, (unit, range), y);
            y += BAR;
        }
        y += GAP;
    }
    svg + "</svg>\n"
}

fn bar(svg: &mut String, times: f64, colour: &str, middle: f64, (unit, range): (f64, f64), y: f64) {
    let length = times.log2().clamp(-range, range) * unit;
    let (x, width) = (middle + length.min(0.0), length.abs().max(1.0));
    let _ = write!(svg, "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>", BAR - 1.5);
    let (x, anchor) = if length < 0.0 { (x - 4.0, "end") } else { (x + width + 4.0, "start") };
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" font-size=\"10\" text-anchor=\"{anchor}\">{times:.2}</text>", y + BAR - 2.5);
}

fn grid(svg: &mut String, range: f64, middle: f64, unit: f64, height: f64) {
    let mut power = -range;
    while power <= range {
        let x = middle + power * unit;
        let class = if power == 0.0 { "one" } else { "grid" };
        let label = if power < 0.0 { format!("1/{}×", (-power).exp2()) } else { format!("{}×", power.exp2()) };
        let _ = writeln!(svg, "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{HEAD}\" y2=\"{height}\"/>");
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" font-size=\"10\" text-anchor=\"middle\">{label}</text>", HEAD - 5.0);
        power += 1.0;
    }
}

fn legend(svg: &mut String, products: &[(usize, Product)], colours: &[&str]) {
    let mut x = 8.0;
    for ((_, product), colour) in products.iter().zip(colours) {
        let name = product.name();
        let _ = write!(svg, "<rect x=\"{x:.1}\" y=\"28\" width=\"10\" height=\"10\" fill=\"{colour}\"/>");
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"37\">{name}</text>", x + 14.0);
        x += 34.0 + 6.6 * f64::from(u32::try_from(name.len()).unwrap_or(0));
    }
}

fn colours(products: &[(usize, Product)]) -> Vec<&'static str> {
    let (mut others, mut ours) = (OTHERS.iter().cycle(), OURS.iter().cycle());
    let choose = |(_, product): &(usize, Product)| {
        let from = if product.is_ours() { &mut ours } else { &mut others };
        from.next().copied().unwrap_or_default()
    };
    products.iter().map(choose).collect()
}

/// The label; one that goes on where another has begun says so in tables only.
fn full_label(summary: &Summary, figure: &Figure) -> String {
    let Some(rest) = figure.label.strip_prefix("… ") else { return figure.label.clone() };
    let before = summary.rows.iter().take_while(|(other, _)| other.key != figure.key);
    let start = before.map(|(other, _)| other.label.as_str()).filter(|label| !label.starts_with("… ")).last().unwrap_or_default();
    let start = start.split([':', ',']).next().unwrap_or_default();
    format!("{start}: {rest}")
}
