//! Views: what is dropped, renamed, or told apart by fewer attributes, for export and scrape alike.

use sidegate_config::schema::telemetry::{HistogramShape, Metrics, View};

use crate::instruments::SCALE;
use crate::metrics::{Point, Stream, Value};

/// The configured views.
#[derive(Debug)]
pub(crate) struct Views {
    views: Vec<View>,
    histograms: HistogramShape,
}

impl Views {
    pub(crate) fn new(config: &Metrics) -> Self {
        Self { views: config.views.clone(), histograms: config.histograms }
    }

    fn of<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a View> {
        self.views.iter().filter(move |view| match view.instrument.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => view.instrument == name,
        })
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
                stream.points = only(stream.points, kept);
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
fn only(points: Vec<Point>, kept: &[String]) -> Vec<Point> {
    let mut fewer: Vec<Point> = Vec::new();
    for mut point in points {
        point.attributes.retain(|(key, _)| kept.iter().any(|k| k == key));
        match fewer.iter_mut().find(|p| p.attributes == point.attributes) {
            Some(same) => {
                // A series that began later does not make the sum younger.
                same.start = same.start.zip(point.start).map(|(a, b)| a.min(b));
                match (&mut same.value, point.value) {
                    (Value::Sum(sum), Value::Sum(more)) => *sum += more,
                    (Value::Number(sum), Value::Number(more)) => *sum += more,
                    (Value::Distribution(sum), Value::Distribution(more)) => sum.add(&more),
                    _ => {}
                }
            }
            None => fewer.push(point),
        }
    }
    fewer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;
    use sidegate_core::{ConnectionRecord, Direction, Reason};

    fn view(instrument: &str) -> View {
        View { instrument: instrument.to_owned(), drop: false, name: None, attributes: None, histogram: None, scale: None }
    }

    #[test]
    fn views_drop_rename_and_add_up() {
        let config = Metrics {
            views: vec![
                View { drop: true, ..view("process.*") },
                View {
                    name: Some("mesh.connections".to_owned()),
                    attributes: Some(vec!["direction".to_owned()]),
                    ..view("sidegate.connections")
                },
                View { scale: Some(0), ..view("sidegate.*") },
                View { histogram: Some(HistogramShape::Explicit), ..view("sidegate.handshake.duration") },
            ],
            ..Metrics::default()
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
        assert_eq!((renamed.points[0].value.clone(), renamed.points[0].attributes.len()), (Value::Sum(3), 1));
        let views = metrics.views();
        assert_eq!(views.histogram("sidegate.handshake.duration"), (HistogramShape::Explicit, 0));
        assert_eq!(views.histogram("sidegate.connection.duration"), (HistogramShape::Exponential, 0));
    }
}
