//! A series as an SVG: the curve, its anomalous stretches, and where each detector alarmed.

use std::fmt::Write;

use crate::events::{self, EventRules};
use crate::series::Series;

const WIDTH: f64 = 1_200.0;
const CURVE_HEIGHT: f64 = 240.0;
const LANE_HEIGHT: f64 = 18.0;
const MARGIN: f64 = 90.0;
/// More points than pixels show nothing more: extremes of each column are drawn.
const COLUMNS: usize = 600;

/// Draws it, with a lane of marks for each detector: its name, and whether each value is an anomaly.
pub fn svg(series: &Series, lanes: &[(&str, Vec<bool>)]) -> String {
    let len = series.values.len().max(1);
    let x = |row: usize| MARGIN + (WIDTH - MARGIN) * row as f64 / len as f64;
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for &value in &series.values {
        (low, high) = (low.min(value), high.max(value));
    }
    let spread = if high > low { high - low } else { 1.0 };
    let y = |value: f64| 20.0 + CURVE_HEIGHT * (1.0 - (value - low) / spread);
    let height = CURVE_HEIGHT + 40.0 + LANE_HEIGHT * lanes.len() as f64;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>\n<text x=\"4\" y=\"14\">{}</text>\n",
        series.name.replace('&', "&amp;").replace('<', "&lt;")
    );
    let labelled = events::events(&series.labels, EventRules::DEFAULT.merge);
    for &(first, last) in series.windows.iter().chain(&labelled) {
        let (from, to) = (x(first), x(last + 1));
        line(
            &mut svg,
            format_args!(
                "<rect x=\"{from:.1}\" y=\"20\" width=\"{:.1}\" height=\"{CURVE_HEIGHT}\" fill=\"#fdd\"/>",
                (to - from).max(1.0)
            ),
        );
    }
    let mut points = String::new();
    let column = len.div_ceil(COLUMNS);
    for (number, values) in series.values.chunks(column).enumerate() {
        let extremes = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &value| {
            (a.min(value), b.max(value))
        });
        for value in [extremes.0, extremes.1] {
            let at = x(number * column);
            points += &format!("{at:.1},{:.1} ", y(value));
        }
    }
    line(
        &mut svg,
        format_args!(
            "<polyline fill=\"none\" stroke=\"#234\" stroke-width=\"0.8\" points=\"{points}\"/>"
        ),
    );
    for (number, (name, flags)) in lanes.iter().enumerate() {
        let top = 30.0 + CURVE_HEIGHT + LANE_HEIGHT * number as f64;
        line(&mut svg, format_args!("<text x=\"4\" y=\"{:.1}\">{name}</text>", top + 12.0));
        for (row, _) in flags.iter().enumerate().filter(|(_, is_anomaly)| **is_anomaly) {
            let at = x(row);
            line(
                &mut svg,
                format_args!(
                    "<path d=\"M{at:.1} {top:.1}v14\" stroke=\"#c00\" stroke-width=\"1.2\"/>"
                ),
            );
        }
    }
    svg += "</svg>\n";
    svg
}

fn line(svg: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(svg, "{text}").expect("a String takes everything");
}
