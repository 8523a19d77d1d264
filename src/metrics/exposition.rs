//! Writes the metrics in the form that whoever asks understands: Prometheus's text, or OpenMetrics.
//!
//! The second is written here, since the crate has only the first. They differ in little: counters lose `_total` in
//! their head, units are named, timestamps are seconds, and the end is marked, so that half a page is noticed.

use std::fmt::Write;

use prometheus::TextEncoder;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    OpenMetrics,
}

impl Format {
    /// What an `Accept` header asks for. Prometheus names both, the better one first.
    pub fn asked(accept: Option<&str>) -> Self {
        let weight = |kind: &str| {
            let parts = accept.unwrap_or_default().split(',').map(str::trim);
            parts.filter(|part| part.starts_with(kind)).filter_map(quality).fold(0.0, f32::max)
        };
        match weight("application/openmetrics-text") {
            open if open > 0.0 && open >= weight("text/plain") => Self::OpenMetrics,
            _ => Self::Text,
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

fn quality(part: &str) -> Option<f32> {
    match part.split(';').map(str::trim).find_map(|parameter| parameter.strip_prefix("q=")) {
        Some(text) => text.parse().ok(),
        None => Some(1.0),
    }
}

pub(super) fn write(families: &[MetricFamily], format: Format) -> String {
    match format {
        // Writing text into a String cannot fail.
        Format::Text => TextEncoder::new().encode_to_string(families).unwrap_or_default(),
        Format::OpenMetrics => families.iter().map(open_family).collect::<String>() + "# EOF\n",
    }
}

fn open_family(family: &MetricFamily) -> String {
    let (name, kind) = (family.name(), family.get_field_type());
    let (head, kind) = match kind {
        MetricType::COUNTER => (name.strip_suffix("_total").unwrap_or(name), "counter"),
        MetricType::HISTOGRAM => (name, "histogram"),
        _ if name.ends_with("_info") => (name.strip_suffix("_info").unwrap_or(name), "info"),
        _ => (name, "gauge"),
    };
    let mut text = format!("# TYPE {head} {kind}\n");
    if let Some(unit) = ["seconds", "bytes"].into_iter().find(|unit| head.ends_with(&format!("_{unit}"))) {
        text += &format!("# UNIT {head} {unit}\n");
    }
    text += &format!("# HELP {head} {}\n", escaped(family.help()));
    for metric in family.get_metric() {
        match family.get_field_type() {
            MetricType::HISTOGRAM => histogram(&mut text, name, metric),
            MetricType::COUNTER => line(&mut text, name, metric, None, metric.get_counter().get_value()),
            _ => line(&mut text, name, metric, None, metric.get_gauge().get_value()),
        }
    }
    text
}

fn histogram(text: &mut String, name: &str, metric: &Metric) {
    let histogram = metric.get_histogram();
    let mut all = false;
    for bucket in histogram.get_bucket() {
        all |= bucket.upper_bound().is_infinite();
        let bound = number(bucket.upper_bound());
        let count = bucket.cumulative_count() as f64;
        line(text, &format!("{name}_bucket"), metric, Some(("le", &bound)), count);
    }
    let count = histogram.get_sample_count() as f64;
    if !all {
        line(text, &format!("{name}_bucket"), metric, Some(("le", "+Inf")), count);
    }
    line(text, &format!("{name}_sum"), metric, None, histogram.get_sample_sum());
    line(text, &format!("{name}_count"), metric, None, count);
}

fn line(text: &mut String, name: &str, metric: &Metric, more: Option<(&str, &str)>, value: f64) {
    let own = metric.get_label().iter().map(|label: &LabelPair| (label.name(), label.value()));
    let labels: Vec<String> = own.chain(more).map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let _ = writeln!(text, "{name}{labels} {}", number(value)); // writing into a String cannot fail
}

/// A whole number without a point for values, as the text form writes them; bounds have one.
fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".into(),
        value if value.is_infinite() => (if value > 0.0 { "+Inf" } else { "-Inf" }).into(),
        value => format!("{value:?}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
