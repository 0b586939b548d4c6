//! Streams: the values of an instrument at one moment, a point for each set of attributes.

use std::sync::Arc;
use std::time::SystemTime;

use crate::bounded::Series;
use crate::catalog::Instrument;
use crate::instruments::Distribution;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum AttributeValue {
    Text(Arc<str>),
    Boolean(bool),
}

impl AttributeValue {
    /// As text, for a format that has no other type.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Boolean(true) => "true",
            Self::Boolean(false) => "false",
        }
    }
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<Arc<str>> for AttributeValue {
    fn from(text: Arc<str>) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for AttributeValue {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

/// An attribute of a point: name and value.
pub(crate) type Attribute = (&'static str, AttributeValue);

/// An attribute from whatever its value is made of.
pub(crate) fn attribute(key: &'static str, value: impl Into<AttributeValue>) -> Attribute {
    (key, value.into())
}

/// The value of a point.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PointValue {
    Sum(u64),
    Number(f64),
    Distribution(Distribution),
}

/// A point of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) value: PointValue,
    /// Since when it counts; none for the start of the process.
    pub(crate) start: Option<SystemTime>,
    /// Tells a series from a former one with the same attributes.
    pub(crate) generation: u64,
}

/// An instrument's points at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) instrument: &'static Instrument,
    /// Its name, which a view may change.
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
    /// Of series that were given up: they count where a view does not tell keys apart, so that its sums never fall.
    pub(crate) retired: Vec<Point>,
}

/// Points on their way into their streams.
pub(crate) struct Streams(pub(crate) Vec<Stream>);

impl Streams {
    pub(crate) fn push<const N: usize>(&mut self, instrument: &'static Instrument, attributes: [Attribute; N], value: PointValue) {
        self.of(instrument).points.push(Point { attributes: attributes.into(), value, start: None, generation: 0 });
    }

    fn of(&mut self, instrument: &'static Instrument) -> &mut Stream {
        let at = self.0.iter().position(|stream| std::ptr::eq(stream.instrument, instrument)).unwrap_or_else(|| {
            self.0.push(Stream { instrument, name: instrument.name.to_owned(), points: Vec::new(), retired: Vec::new() });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    pub(crate) fn sum<const N: usize>(&mut self, instrument: &'static Instrument, attributes: [Attribute; N], sum: u64) {
        self.push(instrument, attributes, PointValue::Sum(sum));
    }

    /// As [`Streams::sum`], unless it is nothing: of the many reasons most never come.
    pub(crate) fn some<const N: usize>(&mut self, instrument: &'static Instrument, attributes: [Attribute; N], sum: u64) {
        if sum > 0 {
            self.sum(instrument, attributes, sum);
        }
    }

    pub(crate) fn counted<const N: usize>(
        &mut self,
        instrument: &'static Instrument,
        attributes: [Attribute; N],
        count: u64,
        series: &Series,
    ) {
        if count == 0 {
            return;
        }
        let point = |start, generation| Point { attributes: attributes.into(), value: PointValue::Sum(count), start, generation };
        let stream = self.of(instrument);
        match series {
            Series::Shared => stream.points.push(point(None, 0)),
            Series::Own { start, generation } => stream.points.push(point(Some(*start), *generation)),
            Series::Retired => stream.retired.push(point(None, 0)),
        }
    }

    pub(crate) fn level<const N: usize>(&mut self, instrument: &'static Instrument, attributes: [Attribute; N], level: i64) {
        #[allow(clippy::cast_precision_loss, reason = "counts of open things are small")]
        self.number(instrument, attributes, level as f64);
    }

    pub(crate) fn number<const N: usize>(&mut self, instrument: &'static Instrument, attributes: [Attribute; N], value: f64) {
        self.push(instrument, attributes, PointValue::Number(value));
    }
}
