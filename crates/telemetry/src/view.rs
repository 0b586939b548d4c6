//! Views: drop, rename or aggregate instruments by fewer attributes, for export and scrape alike.

use std::collections::{BTreeSet, HashMap};

use sidegate_config::schema::telemetry::{self as schema, HistogramShape, View};

use crate::attributes::{PEER_ID, RULE};
use crate::catalog::{INSTRUMENTS, InstrumentKind};
use crate::instruments::SCALE;
use crate::stream::{Point, PointValue, Stream};

/// Whether a view's `instrument` means the instrument `name`.
fn covers(view: &View, name: &str) -> bool {
    match view.instrument.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => view.instrument == name,
    }
}

/// What views keep though no instrument that they name has it: the key in the configuration, and what is wrong.
#[must_use]
pub fn unknown_attributes(config: &schema::Metrics) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    for (i, view) in config.views.iter().enumerate() {
        let known: BTreeSet<&str> =
            INSTRUMENTS.iter().filter(|one| covers(view, one.name)).flat_map(|one| one.attributes).copied().collect();
        for (j, attribute) in view.attributes.iter().flatten().enumerate().filter(|(_, attribute)| !known.contains(attribute.as_str())) {
            let has = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let has = if has.is_empty() { "it has none".to_owned() } else { format!("it has {has}") };
            wrong.push((
                format!("telemetry.metrics.views[{i}].attributes[{j}]"),
                format!("`{attribute}` is no attribute of `{}`; {has}", view.instrument),
            ));
        }
    }
    wrong
}

/// The configured views.
#[derive(Debug)]
pub(crate) struct Views {
    views: Vec<View>,
    histograms: HistogramShape,
}

impl Views {
    pub(crate) fn new(config: &schema::Metrics) -> Self {
        Self { views: config.views.clone(), histograms: config.histograms }
    }

    fn of<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a View> {
        self.views.iter().filter(move |view| covers(view, name))
    }

    /// The stream as the views want it; none if they don't.
    pub(crate) fn apply(&self, mut stream: Stream) -> Option<Stream> {
        for view in self.of(stream.instrument.name) {
            if view.drop {
                return None;
            }
            if let Some(name) = &view.name {
                stream.name.clone_from(name);
            }
            if let Some(kept) = &view.attributes {
                let bounded = [PEER_ID, RULE];
                if stream.instrument.attributes.iter().any(|key| bounded.contains(key) && !kept.iter().any(|k| k == key)) {
                    stream.points.append(&mut stream.retired);
                    // An aggregated series does not come and go: it starts with the process.
                    for point in &mut stream.points {
                        (point.start, point.generation) = (None, 0);
                    }
                }
                stream.points = only(stream.points, kept, stream.instrument.kind);
            }
        }
        Some(stream)
    }

    /// What a histogram becomes in OTLP, and at what scale if it stays exponential.
    pub(crate) fn histogram(&self, name: &str) -> (HistogramShape, u8) {
        let last = |field: fn(&View) -> Option<HistogramShape>| self.of(name).rev().find_map(field);
        (last(|view| view.histogram).unwrap_or(self.histograms), self.of(name).rev().find_map(|view| view.scale).unwrap_or(SCALE))
    }
}

/// The points without the attributes that are not `kept`; what then has the same attributes is one.
fn only(points: Vec<Point>, kept: &[String], kind: InstrumentKind) -> Vec<Point> {
    let mut places = HashMap::new();
    let mut fewer: Vec<Point> = Vec::new();
    for mut point in points {
        point.attributes.retain(|(key, _)| kept.iter().any(|k| k == key));
        let place = *places.entry(point.attributes.clone()).or_insert(fewer.len());
        let Some(same) = fewer.get_mut(place) else {
            fewer.push(point);
            continue;
        };
        match (&mut same.value, point.value) {
            (PointValue::Sum(sum), PointValue::Sum(more)) => *sum += more,
            // What is left until expiry, whether all are healthy: the smallest is what matters.
            (PointValue::Number(least), PointValue::Number(other)) if kind == InstrumentKind::Gauge => *least = least.min(other),
            (PointValue::Number(sum), PointValue::Number(more)) => *sum += more,
            (PointValue::Distribution(sum), PointValue::Distribution(more)) => sum.add(&more),
            _ => {}
        }
    }
    fewer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::DIRECTION;
    use crate::metrics;
    use sidegate_core::{ConnectionRecord, Direction, Reason};

    fn view(instrument: &str) -> View {
        View { instrument: instrument.to_owned(), drop: false, name: None, attributes: None, histogram: None, scale: None }
    }

    /// Whichever peers come and go: where they are not told apart the sum only grows.
    #[test]
    fn what_is_added_up_never_falls() {
        let views = vec![View { attributes: Some(vec![DIRECTION.to_owned()]), ..view("sidegate.peer.connections") }];
        let metrics = metrics::Metrics::new(&schema::Metrics { peers: 2, views, ..schema::Metrics::default() });
        let sum = || -> Vec<PointValue> {
            let stream = metrics.collect().into_iter().find(|s| s.name == "sidegate.peer.connections");
            stream.unwrap().points.into_iter().map(|p| p.value).collect()
        };
        for round in 0..5u64 {
            for i in 0..30u64 {
                let mut record = ConnectionRecord::new(Direction::Inbound, ([127, 0, 0, 1], 1).into());
                record.peer = crate::attributes::tests::peer(&format!("spiffe://a.b/{round}/{}", i % 3));
                record.reason = Reason::Closed;
                metrics.count_names(&record);
                assert_eq!(sum(), [PointValue::Sum(round * 30 + i + 1)]);
            }
            metrics.rebalance();
            assert_eq!(sum(), [PointValue::Sum((round + 1) * 30)]);
        }
    }

    #[test]
    fn views_drop_rename_and_add_up() {
        let config = schema::Metrics {
            views: vec![
                View { drop: true, ..view("process.*") },
                View {
                    name: Some("mesh.connections".to_owned()),
                    attributes: Some(vec![DIRECTION.to_owned()]),
                    ..view("sidegate.connections")
                },
                View { scale: Some(0), ..view("sidegate.*") },
                View { histogram: Some(HistogramShape::Explicit), ..view("sidegate.handshake.duration") },
            ],
            ..schema::Metrics::default()
        };
        let metrics = metrics::Metrics::new(&config);
        for reason in [Reason::Closed, Reason::Expired, Reason::Closed] {
            let mut record = ConnectionRecord::new(Direction::Outbound, ([127, 0, 0, 1], 1).into());
            record.reason = reason;
            metrics.count(&record);
        }
        let streams = metrics.collect();
        assert!(!streams.iter().any(|s| s.name.starts_with("process.") || s.name == "sidegate.connections"));
        let renamed = streams.iter().find(|s| s.name == "mesh.connections").unwrap();
        assert_eq!(renamed.points.len(), 1);
        assert_eq!((renamed.points[0].value.clone(), renamed.points[0].attributes.len()), (PointValue::Sum(3), 1));
        let views = metrics.views();
        assert_eq!(views.histogram("sidegate.handshake.duration"), (HistogramShape::Explicit, 0));
        assert_eq!(views.histogram("sidegate.connection.duration"), (HistogramShape::Exponential, 0));
    }
}
