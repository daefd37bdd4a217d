//! OpenMetrics text 1.0.0, as the [specification](https://prometheus.io/docs/specs/om/open_metrics_spec/) has it.
//!
//! Differs from Prometheus text in that a counter's family is named without `_total`, in the order
//! and the escaping of comments, and in the end mark.

use std::fmt::Write;

use prometheus::proto::{LabelPair, MetricFamily, MetricType};

/// The families, and the end mark.
pub fn encode(families: &[MetricFamily]) -> String {
    let mut text = String::new();
    for family in families {
        write_family(&mut text, family);
    }
    text.push_str("# EOF\n");
    text
}

fn write_family(text: &mut String, family: &MetricFamily) {
    let kind = match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "unknown",
    };
    let name = match family.get_field_type() {
        MetricType::COUNTER => family.name().strip_suffix("_total").unwrap_or(family.name()),
        _ => family.name(),
    };
    push(text, format_args!("# TYPE {name} {kind}\n"));
    if !family.help().is_empty() {
        push(text, format_args!("# HELP {name} "));
        escape(text, family.help());
        text.push('\n');
    }
    for metric in family.get_metric() {
        let labels = metric.get_label();
        let mut line = |suffix: &str, extra: Option<(&str, &str)>, value: f64| {
            push(text, format_args!("{name}{suffix}"));
            write_labels(text, labels, extra);
            text.push(' ');
            write_number(text, value);
            text.push('\n');
        };
        match family.get_field_type() {
            MetricType::COUNTER => line("_total", None, metric.get_counter().get_value()),
            MetricType::GAUGE => line("", None, metric.get_gauge().get_value()),
            MetricType::HISTOGRAM => {
                let histogram = metric.get_histogram();
                let buckets = histogram.get_bucket().iter();
                for bucket in buckets.filter(|bucket| bucket.upper_bound().is_finite()) {
                    let edge = number(bucket.upper_bound());
                    line("_bucket", Some(("le", &edge)), bucket.cumulative_count() as f64);
                }
                let count = histogram.get_sample_count() as f64;
                line("_bucket", Some(("le", "+Inf")), count);
                line("_count", None, count);
                line("_sum", None, histogram.get_sample_sum());
            }
            MetricType::SUMMARY => {
                let summary = metric.get_summary();
                for quantile in summary.get_quantile() {
                    let share = number(quantile.quantile());
                    line("", Some(("quantile", &share)), quantile.value());
                }
                line("_count", None, summary.sample_count() as f64);
                line("_sum", None, summary.sample_sum());
            }
            // The prometheus crate makes none.
            MetricType::UNTYPED => {}
        }
    }
}

fn write_labels(text: &mut String, labels: &[LabelPair], extra: Option<(&str, &str)>) {
    let mut mark = '{';
    let all = labels.iter().map(|label| (label.name(), label.value())).chain(extra);
    for (name, value) in all {
        push(text, format_args!("{mark}{name}=\""));
        escape(text, value);
        text.push('"');
        mark = ',';
    }
    if mark == ',' {
        text.push('}');
    }
}

fn escape(text: &mut String, raw: &str) {
    for character in raw.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

fn write_number(text: &mut String, number: f64) {
    if number.is_nan() {
        text.push_str("NaN");
    } else if number.is_infinite() {
        text.push_str(if number > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        push(text, format_args!("{number}"));
    }
}

/// The value of `le` or `quantile`: always with a fraction, so that 1 is `1.0` for everyone.
fn number(number: f64) -> String {
    if number.fract() == 0.0 { format!("{number:.1}") } else { number.to_string() }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use prometheus::core::Collector;
    use prometheus::{Gauge, HistogramOpts, IntCounterVec, Opts};

    use super::*;

    #[test]
    fn each_kind_as_the_specification_shows_it() {
        let counter = IntCounterVec::new(Opts::new("hits_total", "Hits \"x\"\n\\."), &["path"])
            .expect("a name");
        counter.with_label_values(&["/a\"\\\n☃"]).inc_by(3);
        let gauge = Gauge::new("level", "Level.").expect("a name");
        gauge.set(-0.5);
        let options = HistogramOpts::new("took_seconds", "Took.").buckets(vec![0.25, 1.0]);
        let histogram = prometheus::Histogram::with_opts(options).expect("a name");
        histogram.observe(0.5);
        let families: Vec<_> = [counter.collect(), gauge.collect(), histogram.collect()].concat();
        assert_eq!(
            encode(&families),
            r#"# TYPE hits counter
# HELP hits Hits \"x\"\n\\.
hits_total{path="/a\"\\\n☃"} 3
# TYPE level gauge
# HELP level Level.
level -0.5
# TYPE took_seconds histogram
# HELP took_seconds Took.
took_seconds_bucket{le="0.25"} 0
took_seconds_bucket{le="1.0"} 1
took_seconds_bucket{le="+Inf"} 1
took_seconds_count 1
took_seconds_sum 0.5
# EOF
"#
        );
    }

    #[test]
    fn numbers_have_one_form() {
        for (value, text) in [
            (1e15, "1000000000000000"),
            (0.1, "0.1"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            let mut written = String::new();
            write_number(&mut written, value);
            assert_eq!(written, text);
        }
        assert_eq!((&*number(1.0), &*number(0.000_032_768)), ("1.0", "0.000032768"));
    }
}
