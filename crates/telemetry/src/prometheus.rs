//! The instruments as text for Prometheus: OpenMetrics 1.0 with exemplars, or the older text format 0.0.4 without.

use std::collections::HashSet;
use std::fmt::Write;
use std::time::UNIX_EPOCH;

use crate::catalog::{InstrumentKind, prometheus_name};
use crate::instruments::{Distribution, Exemplar};
use crate::metrics::Metrics;
use crate::stream::{Point, PointValue, Stream};

/// The classic buckets end at these powers of two, in seconds: from a quarter of a millisecond to a quarter of an hour.
pub(crate) const BOUNDS: std::ops::RangeInclusive<i32> = -12..=10;

/// A bucket's upper bound.
pub(crate) fn bound(exponent: i32) -> f64 {
    2f64.powi(exponent)
}

/// A format of the scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScrapeFormat {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus text format 0.0.4.
    Text,
}

impl Metrics {
    /// Everything in a text format. `resource` becomes the labels of `target_info`.
    #[must_use]
    pub fn scrape(&self, format: ScrapeFormat, resource: &[(String, String)]) -> String {
        let mut text = String::with_capacity(16 * 1024);
        let mut seen = HashSet::new();
        for stream in self.collect() {
            // Views may give two instruments one name; a family that comes twice would spoil the whole scrape.
            if seen.insert(prometheus_name(&stream.name, stream.instrument)) {
                family(&mut text, format, &stream);
            }
        }
        let (name, kind) = match format {
            ScrapeFormat::OpenMetrics => ("target", "info"),
            ScrapeFormat::Text => ("target_info", "gauge"),
        };
        let _ = writeln!(text, "# TYPE {name} {kind}\n# HELP {name} The sidecar that these metrics are of.");
        let labels = labels(resource.iter().map(|(key, value)| (key.as_str(), value.as_str())), None);
        let _ = writeln!(text, "target_info{labels} 1");
        if format == ScrapeFormat::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }
}

fn family(text: &mut String, format: ScrapeFormat, stream: &Stream) {
    let name = prometheus_name(&stream.name, stream.instrument);
    let family = match format {
        // OpenMetrics names a counter's family without its suffix.
        ScrapeFormat::OpenMetrics => name.strip_suffix("_total").unwrap_or(&name),
        ScrapeFormat::Text => &name,
    };
    let kind = match stream.instrument.kind {
        InstrumentKind::Counter => "counter",
        InstrumentKind::UpDownCounter | InstrumentKind::Gauge => "gauge",
        InstrumentKind::Histogram => "histogram",
    };
    let _ = writeln!(text, "# TYPE {family} {kind}");
    for (unit, suffix) in [("seconds", "_seconds"), ("bytes", "_bytes")] {
        if format == ScrapeFormat::OpenMetrics && family.ends_with(suffix) {
            let _ = writeln!(text, "# UNIT {family} {unit}");
        }
    }
    let _ = writeln!(text, "# HELP {family} {}", stream.instrument.description);
    for point in &stream.points {
        let plain = || labels(pairs(point), None);
        match &point.value {
            PointValue::Sum(sum) => {
                let _ = writeln!(text, "{name}{} {sum}", plain());
            }
            PointValue::Number(number) => {
                let _ = writeln!(text, "{name}{} {number}", plain());
            }
            PointValue::Distribution(values) => histogram(text, format, &name, point, values),
        }
    }
}

fn histogram(text: &mut String, format: ScrapeFormat, name: &str, point: &Point, values: &Distribution) {
    let exemplars = match format {
        ScrapeFormat::OpenMetrics => values.exemplars.as_slice(),
        ScrapeFormat::Text => &[],
    };
    for exponent in BOUNDS {
        let le = bound(exponent).to_string();
        let labels = labels(pairs(point), Some(&le));
        let inside = |e: &&Exemplar| e.seconds <= bound(exponent) && (exponent == *BOUNDS.start() || e.seconds > bound(exponent - 1));
        let exemplar = exemplars.iter().rev().find(inside).map_or_else(String::new, shown);
        let _ = writeln!(text, "{name}_bucket{labels} {}{exemplar}", values.up_to(exponent));
    }
    let above = exemplars.iter().rev().find(|e| e.seconds > bound(*BOUNDS.end())).map_or_else(String::new, shown);
    let _ = writeln!(text, "{name}_bucket{} {}{above}", labels(pairs(point), Some("+Inf")), values.count());
    let plain = labels(pairs(point), None);
    let _ = writeln!(text, "{name}_count{plain} {}\n{name}_sum{plain} {}", values.count(), values.sum);
}

fn shown(exemplar: &Exemplar) -> String {
    let time = exemplar.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let (trace, span) = (exemplar.trace_id, exemplar.span_id);
    format!(" # {{trace_id=\"{trace}\",span_id=\"{span}\"}} {} {time:.3}", exemplar.seconds)
}

fn pairs(point: &Point) -> impl Iterator<Item = (&str, &str)> {
    point.attributes.iter().map(|(key, value)| (*key, value.as_str()))
}

fn labels<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>, le: Option<&'a str>) -> String {
    let mut text = String::new();
    let mut seen = HashSet::new();
    for (key, value) in pairs.chain(le.map(|le| ("le", le))) {
        let mut key = key.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "_");
        if !key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            key.insert(0, '_');
        }
        if !seen.insert(key.clone()) {
            continue;
        }
        text.push(if text.is_empty() { '{' } else { ',' });
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{key}=\"{value}\"");
    }
    if !text.is_empty() {
        text.push('}');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::INSTRUMENTS;
    use sidegate_config::schema::telemetry as schema;
    use sidegate_core::{ConnectionRecord, Direction, Lap, Reason};
    use std::time::{Duration, Instant};

    #[test]
    fn names_are_those_of_the_compatibility_rules() {
        let name = |otel: &str| INSTRUMENTS.iter().find(|i| i.name == otel).unwrap().prometheus_name();
        assert_eq!(name("sidegate.connections"), "sidegate_connections_total");
        assert_eq!(name("sidegate.bytes"), "sidegate_bytes_total");
        assert_eq!(name("sidegate.handshake.duration"), "sidegate_handshake_duration_seconds");
        assert_eq!(name("process.cpu.time"), "process_cpu_time_seconds_total");
        assert_eq!(name("process.memory.usage"), "process_memory_usage_bytes");
    }

    #[test]
    fn a_scrape_has_buckets_and_exemplars() {
        let metrics = Metrics::new(&schema::Metrics::default());
        let mut record = ConnectionRecord::new(Direction::Inbound, ([127, 0, 0, 1], 1).into());
        record.reason = Reason::Closed;
        record.stages.handshake = Some(Lap { start: Instant::now(), took: Duration::from_millis(3) });
        metrics.handshake_failed(Direction::Inbound, Reason::Expired, Duration::from_millis(3));
        metrics.count(&record);
        metrics.exemplify(&record);
        let pairs = [("service.name", "a \"b\""), ("service_name", "twice"), ("1st", "x"), ("", "y")];
        let resource = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let text = metrics.scrape(ScrapeFormat::OpenMetrics, &resource);
        let trace = record.connection_id.to_string();
        let labels = "sidegate_direction=\"inbound\",sidegate_outcome=\"failed\",tls_resumed=\"false\"";
        let line = |le: &str| {
            let start = format!("sidegate_handshake_duration_seconds_bucket{{{labels},le=\"{le}\"}} ");
            text.lines().find_map(|l| l.strip_prefix(&start)).unwrap().to_owned()
        };
        assert_eq!(line("0.001953125"), "0");
        assert!(line("0.00390625").starts_with(&format!("1 # {{trace_id=\"{trace}\",span_id=\"")), "{text}");
        assert_eq!(line("0.0078125"), "1");
        assert_eq!(line("+Inf"), "1");
        assert!(text.contains("sidegate_connections_total{sidegate_direction=\"inbound\",sidegate_reason=\"closed\"} 1\n"), "{text}");
        assert!(text.contains("target_info{service_name=\"a \\\"b\\\"\",_1st=\"x\",_=\"y\"} 1\n# EOF\n"), "{text}");

        // The older format: the same samples without exemplars, and no line that it does not have.
        let plain = metrics.scrape(ScrapeFormat::Text, &resource);
        let samples = |text: &str| -> Vec<String> {
            let sample = |l: &str| l.split(" # ").next().unwrap().rsplit_once(' ').unwrap().0.to_owned();
            text.lines().filter(|l| !l.starts_with('#')).map(sample).collect()
        };
        assert_eq!(samples(&plain), samples(&text));
        assert!(!plain.contains(" # {") && !plain.contains("# EOF") && !plain.contains("# UNIT"), "{plain}");
        for line in ["# TYPE sidegate_connections_total counter\n", "# TYPE target_info gauge\n", "# HELP target_info "] {
            assert!(plain.contains(line), "{line} in {plain}");
        }
    }
}
