//! Percentiles in the format of HdrHistogram's tools, in milliseconds.

use std::io::{self, Write};

use hdrhistogram::Histogram;

/// Lines for each halving of the distance to 100 %.
const TICKS_PER_HALF: u32 = 5;
/// Sub-buckets that three significant digits need.
const SUB_BUCKETS: usize = 2_048;
const NS_PER_MS: f64 = 1e6;

/// Writes the distribution of nanoseconds.
///
/// # Errors
/// When `out` fails.
pub fn write(histogram: &Histogram<u64>, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let mut total = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF) {
        total += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 / NS_PER_MS;
        let quantile = step.quantile_iterated_to();
        write!(out, "{value:12.3} {quantile:2.12} {total:10}")?;
        if quantile < 1.0 {
            write!(out, " {:14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(out)?;
    }
    let (mean, deviation) = (histogram.mean() / NS_PER_MS, histogram.stdev() / NS_PER_MS);
    let max = histogram.max() as f64 / NS_PER_MS;
    writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")?;
    writeln!(out, "#[Max     = {max:12.3}, Total count    = {:12}]", histogram.len())?;
    let buckets = histogram.buckets();
    writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {SUB_BUCKETS:12}]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::histogram;

    #[test]
    fn the_text_is_what_plotters_read() {
        let mut latency = histogram();
        for us in 1..=1000 {
            latency.saturating_record(us * 1_000);
        }
        let mut text = Vec::new();
        write(&latency, &mut text).expect("a vector takes every byte");
        let text = String::from_utf8(text).expect("ASCII");
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("       Value     Percentile TotalCount 1/(1-Percentile)"));
        assert_eq!(lines.next(), Some(""));
        let rows: Vec<Vec<f64>> = lines
            .by_ref()
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|n| n.parse().expect("a number")).collect())
            .collect();
        for pair in rows.windows(2) {
            assert!(pair.is_sorted_by(|a, b| a[0] <= b[0] && a[1] < b[1] && a[2] <= b[2]));
        }
        let median = rows.iter().find(|row| row[1] >= 0.5).expect("it is there");
        assert!((median[0] - 0.5).abs() < 0.001 && median[2] == 500.0, "{median:?}");
        let (first, last) = (&rows[0], &rows[rows.len() - 1]);
        assert_eq!((first.len(), last.len(), last[2]), (4, 3, 1000.0));
        assert!(text.contains("Total count    =         1000]"), "{text}");
    }
}
