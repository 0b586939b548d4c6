//! The instruments as an OTLP request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    self as proto, AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, exemplar, number_data_point,
};
use opentelemetry_semantic_conventions::SCHEMA_URL;
use prost::Message;
use sidegate_config::schema::telemetry::{HistogramShape, Temporality};

use super::scope;
use crate::catalog::InstrumentKind;
use crate::instruments::{Distribution, Exemplar, ZERO_THRESHOLD};
use crate::metrics::Metrics;
use crate::prometheus::{BOUNDS, bound};
use crate::resource::Resource;
use crate::stream::{Attribute, AttributeValue, Point, PointValue, Stream};
use crate::wire::nanos;

/// A point by its stream's name, its attributes and its generation.
type PointKey = (String, Vec<Attribute>, u64);

/// Makes requests; for delta temporality it remembers what has arrived.
pub(crate) struct MetricsEncoder {
    temporality: Temporality,
    resource: Arc<Resource>,
    arrived: Sent,
    /// What was sent last, until it is known whether it arrived.
    sent: Option<Sent>,
}

/// The state of all sums and histograms at one moment.
#[derive(Default)]
struct Sent {
    time: Option<SystemTime>,
    values: HashMap<PointKey, PointValue>,
}

impl MetricsEncoder {
    pub(crate) fn new(temporality: Temporality, resource: Arc<Resource>) -> Self {
        Self { temporality, resource, arrived: Sent::default(), sent: None }
    }

    /// What was encoded last has arrived: the next delta counts from there. What did not is in the next one.
    pub(crate) fn arrived(&mut self) {
        if let Some(sent) = self.sent.take() {
            self.arrived = sent;
        }
    }

    /// A request, and how many points it holds.
    pub(crate) fn encode(&mut self, metrics: &Metrics) -> (Bytes, u64) {
        let now = SystemTime::now();
        let mut streams = metrics.collect();
        if self.temporality == Temporality::Delta {
            self.subtract(&mut streams, now);
        }
        let points = streams.iter().map(|stream| stream.points.len() as u64).sum();
        let start = match self.temporality {
            Temporality::Cumulative => metrics.started(),
            Temporality::Delta => self.arrived.time.unwrap_or(metrics.started()),
        };
        let time = Times { start, now };
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.message()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope()),
                    metrics: streams.into_iter().map(|s| metric(s, metrics, self.temporality, &time)).collect(),
                    schema_url: SCHEMA_URL.to_owned(),
                }],
                schema_url: SCHEMA_URL.to_owned(),
            }],
        };
        (request.encode_to_vec().into(), points)
    }

    /// Makes of sums and histograms what came since the last time. Up-down counters stay (OpenTelemetry's "delta"
    /// preference is for what only grows).
    fn subtract(&mut self, streams: &mut [Stream], now: SystemTime) {
        let mut sent = Sent { time: Some(now), values: HashMap::new() };
        for stream in streams {
            if !matches!(stream.instrument.kind, InstrumentKind::Counter | InstrumentKind::Histogram) {
                continue;
            }
            for point in &mut stream.points {
                let key = (stream.name.clone(), point.attributes.clone(), point.generation);
                let before = self.arrived.values.get(&key);
                sent.values.insert(key, point.value.clone());
                match (&mut point.value, before) {
                    (PointValue::Sum(sum), Some(PointValue::Sum(old))) => *sum = sum.saturating_sub(*old),
                    (PointValue::Number(sum), Some(PointValue::Number(old))) => *sum -= old,
                    (PointValue::Distribution(values), Some(PointValue::Distribution(old))) => values.since(old),
                    _ => {}
                }
            }
        }
        self.sent = Some(sent);
    }
}

struct Times {
    start: SystemTime,
    now: SystemTime,
}

impl Times {
    fn of(&self, point: &Point) -> (u64, u64) {
        (nanos(point.start.map_or(self.start, |own| own.max(self.start))), nanos(self.now))
    }
}

fn metric(stream: Stream, metrics: &Metrics, temporality: Temporality, time: &Times) -> Metric {
    let grows = match temporality {
        Temporality::Cumulative => AggregationTemporality::Cumulative,
        Temporality::Delta => AggregationTemporality::Delta,
    } as i32;
    let (shape, scale) = metrics.views().histogram(stream.instrument.name);
    let points = stream.points;
    let data = match (stream.instrument.kind, shape) {
        (InstrumentKind::Counter, _) => {
            Data::Sum(Sum { data_points: numbers(&points, time), aggregation_temporality: grows, is_monotonic: true })
        }
        (InstrumentKind::UpDownCounter, _) => Data::Sum(Sum {
            data_points: numbers(&points, &Times { start: metrics.started(), now: time.now }),
            aggregation_temporality: AggregationTemporality::Cumulative as i32,
            is_monotonic: false,
        }),
        (InstrumentKind::Gauge, _) => Data::Gauge(Gauge { data_points: numbers(&points, time) }),
        (InstrumentKind::Histogram, HistogramShape::Exponential) => Data::ExponentialHistogram(ExponentialHistogram {
            data_points: distributions(points, |point, values| exponential(point, values.at_scale(scale), time)),
            aggregation_temporality: grows,
        }),
        (InstrumentKind::Histogram, HistogramShape::Explicit) => Data::Histogram(proto::Histogram {
            data_points: distributions(points, |point, values| explicit(point, &values, time)),
            aggregation_temporality: grows,
        }),
    };
    Metric {
        name: stream.name,
        description: stream.instrument.description.to_owned(),
        unit: stream.instrument.unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn distributions<T>(points: Vec<Point>, make: impl Fn(&Point, Distribution) -> T) -> Vec<T> {
    let values = |mut point: Point| match std::mem::replace(&mut point.value, PointValue::Sum(0)) {
        PointValue::Distribution(values) => Some(make(&point, values)),
        _ => None,
    };
    points.into_iter().filter_map(values).collect()
}

fn attributes(point: &Point) -> Vec<KeyValue> {
    let message = |(key, value): &Attribute| {
        let value = match value {
            AttributeValue::Text(text) => any_value::Value::StringValue(text.to_string()),
            AttributeValue::Boolean(value) => any_value::Value::BoolValue(*value),
        };
        KeyValue { key: (*key).to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    };
    point.attributes.iter().map(message).collect()
}

fn numbers(points: &[Point], time: &Times) -> Vec<NumberDataPoint> {
    let number = |point: &Point| {
        let (start_time_unix_nano, time_unix_nano) = time.of(point);
        let value = match &point.value {
            PointValue::Sum(sum) => number_data_point::Value::AsInt(i64::try_from(*sum).unwrap_or(i64::MAX)),
            PointValue::Number(number) => number_data_point::Value::AsDouble(*number),
            PointValue::Distribution(_) => return None,
        };
        Some(NumberDataPoint {
            attributes: attributes(point),
            start_time_unix_nano,
            time_unix_nano,
            value: Some(value),
            ..NumberDataPoint::default()
        })
    };
    points.iter().filter_map(number).collect()
}

fn exponential(point: &Point, values: Distribution, time: &Times) -> ExponentialHistogramDataPoint {
    let (start_time_unix_nano, time_unix_nano) = time.of(point);
    ExponentialHistogramDataPoint {
        attributes: attributes(point),
        start_time_unix_nano,
        time_unix_nano,
        count: values.count(),
        sum: Some(values.sum),
        scale: values.scale.into(),
        zero_count: values.zero,
        zero_threshold: ZERO_THRESHOLD,
        exemplars: exemplars(&values, start_time_unix_nano),
        positive: Some(Buckets { offset: values.offset, bucket_counts: values.counts }),
        ..ExponentialHistogramDataPoint::default()
    }
}

fn explicit(point: &Point, values: &Distribution, time: &Times) -> HistogramDataPoint {
    let (start_time_unix_nano, time_unix_nano) = time.of(point);
    let up_to: Vec<u64> = BOUNDS.map(|exponent| values.up_to(exponent)).chain([values.count()]).collect();
    let below = std::iter::once(&0).chain(&up_to);
    HistogramDataPoint {
        attributes: attributes(point),
        start_time_unix_nano,
        time_unix_nano,
        count: values.count(),
        sum: Some(values.sum),
        bucket_counts: up_to.iter().zip(below).map(|(end, start)| end - start).collect(),
        explicit_bounds: BOUNDS.map(bound).collect(),
        exemplars: exemplars(values, start_time_unix_nano),
        ..HistogramDataPoint::default()
    }
}

/// Those of the time that the point is about.
fn exemplars(values: &Distribution, since: u64) -> Vec<proto::Exemplar> {
    let message = |e: &Exemplar| proto::Exemplar {
        time_unix_nano: nanos(e.time),
        trace_id: e.trace_id.bytes().to_vec(),
        span_id: e.span_id.0.to_vec(),
        value: Some(exemplar::Value::AsDouble(e.seconds)),
        ..proto::Exemplar::default()
    };
    values.exemplars.iter().filter(|e| nanos(e.time) >= since).map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{DIRECTION, PEER_ID, TLS_RESUMED};
    use sidegate_config::schema::telemetry as schema;
    use sidegate_core::{ConnectionRecord, Direction, Reason};

    fn request(encoder: &mut MetricsEncoder, metrics: &Metrics) -> HashMap<String, Data> {
        let (body, points) = encoder.encode(metrics);
        assert!(points > 10);
        let request = ExportMetricsServiceRequest::decode(body).unwrap();
        request.resource_metrics[0].scope_metrics[0].metrics.iter().map(|m| (m.name.clone(), m.data.clone().unwrap())).collect()
    }

    fn sum(data: &Data) -> i64 {
        let Data::Sum(sum) = data else { panic!("{data:?}") };
        let value = |p: &NumberDataPoint| if let Some(number_data_point::Value::AsInt(n)) = p.value { n } else { 0 };
        sum.data_points.iter().map(value).sum()
    }

    fn count(metrics: &Metrics, connections: usize) {
        for _ in 0..connections {
            let mut record = ConnectionRecord::new(Direction::Inbound, ([127, 0, 0, 1], 1).into());
            record.reason = Reason::Closed;
            record.peer = crate::attributes::tests::peer("spiffe://a.b/web");
            record.stages.total = std::time::Duration::from_millis(7);
            metrics.count(&record);
            metrics.count_names(&record);
        }
    }

    /// Series that come later are a part of the same sum.
    #[test]
    fn a_delta_of_what_is_added_up_counts_once() {
        for kept in [&[DIRECTION][..], &[DIRECTION, PEER_ID]] {
            let view = schema::View {
                instrument: "sidegate.peer.connections".to_owned(),
                drop: false,
                name: None,
                attributes: Some(kept.iter().map(|k| (*k).to_owned()).collect()),
                histogram: None,
                scale: None,
            };
            let metrics = Metrics::new(&schema::Metrics { peers: 2, views: vec![view], ..schema::Metrics::default() });
            let mut encoder = encoder(Temporality::Delta);
            let mut total = 0;
            for (peer, reason, count) in
                [("a", Reason::Closed, 5), ("b", Reason::Closed, 3), ("a", Reason::Expired, 2), ("c", Reason::Closed, 40)]
            {
                for _ in 0..count {
                    let mut record = ConnectionRecord::new(Direction::Inbound, ([127, 0, 0, 1], 1).into());
                    record.reason = reason;
                    record.peer = crate::attributes::tests::peer(&format!("spiffe://a.b/{peer}"));
                    metrics.count_names(&record);
                }
                total += sum(&request(&mut encoder, &metrics)["sidegate.peer.connections"]);
                encoder.arrived();
            }
            assert_eq!(total, 50, "{kept:?}");
        }
    }

    #[test]
    fn a_boolean_attribute_is_one() {
        let metrics = Metrics::new(&schema::Metrics::default());
        metrics.handshake_established(Direction::Inbound, true, std::time::Duration::from_millis(3));
        let data = request(&mut encoder(Temporality::Cumulative), &metrics);
        let Data::ExponentialHistogram(h) = &data["sidegate.handshake.duration"] else { panic!() };
        let resumed = h.data_points.iter().filter(|p| p.count > 0).flat_map(|p| &p.attributes).find(|a| a.key == TLS_RESUMED);
        let value = resumed.and_then(|attribute| attribute.value.clone()?.value);
        assert_eq!(value, Some(any_value::Value::BoolValue(true)));
    }

    fn encoder(temporality: Temporality) -> MetricsEncoder {
        MetricsEncoder::new(temporality, Arc::new(Resource::new(&schema::Telemetry::default(), |_| None)))
    }

    #[test]
    fn a_delta_counts_from_what_arrived() {
        let metrics = Metrics::new(&schema::Metrics::default());
        let mut encoder = encoder(Temporality::Delta);
        for (more, arrives, seen) in [(2, true, 2), (3, false, 3), (4, true, 7), (0, true, 0)] {
            count(&metrics, more);
            let data = request(&mut encoder, &metrics);
            let sums = [&data["sidegate.connections"], &data["sidegate.peer.connections"]].map(sum);
            assert_eq!(sums, [seen; 2]);
            let Data::ExponentialHistogram(h) = &data["sidegate.connection.duration"] else { panic!() };
            assert_eq!(h.data_points.iter().map(|p| p.count).sum::<u64>(), u64::try_from(seen).unwrap());
            if arrives {
                encoder.arrived();
            }
        }
    }

    #[test]
    fn cumulative_values_and_both_shapes_agree() {
        let config = schema::Metrics { histograms: HistogramShape::Explicit, ..schema::Metrics::default() };
        let (metrics, classic) = (Metrics::new(&schema::Metrics::default()), Metrics::new(&config));
        let mut encoder = encoder(Temporality::Cumulative);
        for round in 1..=2 {
            count(&metrics, 5);
            count(&classic, 5);
            let data = request(&mut encoder, &metrics);
            encoder.arrived();
            assert_eq!(sum(&data["sidegate.connections"]), 5 * round);
        }
        let Data::ExponentialHistogram(h) = &request(&mut encoder, &metrics)["sidegate.connection.duration"] else { panic!() };
        let point = &h.data_points[0];
        let bucket = point.positive.clone().unwrap();
        let base = 2f64.powf(2f64.powi(-point.scale));
        assert_eq!((point.count, bucket.bucket_counts.as_slice()), (10, &[10][..]));
        assert!(base.powi(bucket.offset) < 0.007 && 0.007 <= base.powi(bucket.offset + 1));
        let Data::Histogram(h) = &request(&mut encoder, &classic)["sidegate.connection.duration"] else { panic!() };
        let point = &h.data_points[0];
        let place = point.explicit_bounds.iter().position(|b| 0.007 <= *b).unwrap();
        assert_eq!((point.count, point.bucket_counts[place], point.bucket_counts.len()), (10, 10, point.explicit_bounds.len() + 1));
    }
}
