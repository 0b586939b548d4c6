//! Protobuf's wire format, as far as log records need it, written straight into one buffer.
//!
//! A busy sidecar makes thousands of them a second, one for each connection: to build messages of many small strings
//! first, and encode those, took about half of what telemetry cost. Tests decode the result with the generated types.

use std::time::{SystemTime, UNIX_EPOCH};

/// Messages under construction.
#[derive(Debug, Default)]
pub(crate) struct WireBuffer {
    bytes: Vec<u8>,
}

/// Wire types (protobuf encoding, "Message Structure").
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;
const FIXED32: u32 = 5;

/// Nanoseconds since the epoch.
pub(crate) fn nanos(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// A nested message's length takes this many bytes, whatever it is: then it can be filled in afterwards. Longer than need
/// be is allowed, and enough for 256 MiB.
const PADDED: usize = 4;

impl WireBuffer {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.bytes.push(value.to_le_bytes()[0]);
    }

    fn key(&mut self, field: u32, kind: u32) {
        self.raw_varint(u64::from(field << 3 | kind));
    }

    /// An integer, a boolean or an enumeration. What is zero is left out, as protobuf wants it.
    pub(crate) fn varint(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.key(field, VARINT);
            self.raw_varint(value);
        }
    }

    /// A value that is written even if it is zero: a member of a `oneof`.
    pub(crate) fn chosen_varint(&mut self, field: u32, value: u64) {
        self.key(field, VARINT);
        self.raw_varint(value);
    }

    pub(crate) fn fixed64(&mut self, field: u32, value: u64) {
        self.key(field, FIXED64);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn fixed32(&mut self, field: u32, value: u32) {
        self.key(field, FIXED32);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Bytes, a text or an encoded message.
    pub(crate) fn bytes(&mut self, field: u32, value: &[u8]) {
        self.key(field, LENGTH);
        self.raw_varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    /// A nested message, which `write` fills.
    pub(crate) fn message<T>(&mut self, field: u32, write: impl FnOnce(&mut Self) -> T) -> T {
        self.key(field, LENGTH);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; PADDED]);
        let result = write(self);
        let mut length = self.bytes.len() - start - PADDED;
        for (i, byte) in self.bytes[start..start + PADDED].iter_mut().enumerate() {
            let more = if i + 1 < PADDED { 0x80 } else { 0 };
            *byte = (length & 0x7f).to_le_bytes()[0] | more;
            length >>= 7;
        }
        result
    }

    /// A `KeyValue` whose value is a text: `AnyValue.string_value`.
    pub(crate) fn text_attribute(&mut self, field: u32, key: &str, value: &str) {
        let inner = 1 + varint_length(value.len() as u64) + value.len();
        self.key_value(field, key, inner);
        self.bytes(1, value.as_bytes());
    }

    /// A `KeyValue` whose value is a boolean (`AnyValue.bool_value`, field 2) or an integer (`AnyValue.int_value`, field 3).
    pub(crate) fn varint_attribute(&mut self, field: u32, key: &str, kind: u32, value: u64) {
        self.key_value(field, key, 1 + varint_length(value));
        self.chosen_varint(kind, value);
    }

    /// The beginning of a `KeyValue`, up to its value of `inner` bytes.
    fn key_value(&mut self, field: u32, key: &str, inner: usize) {
        let length = 1 + varint_length(key.len() as u64) + key.len() + 1 + varint_length(inner as u64) + inner;
        self.key(field, LENGTH);
        self.raw_varint(length as u64);
        self.bytes(1, key.as_bytes());
        self.key(2, LENGTH);
        self.raw_varint(inner as u64);
    }
}

fn varint_length(mut value: u64) -> usize {
    let mut length = 1;
    while value >= 0x80 {
        value >>= 7;
        length += 1;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::common::v1::{KeyValue, KeyValueList};
    use prost::Message;

    #[test]
    fn what_is_written_is_what_the_generated_types_read() {
        let long = "x".repeat(70_000);
        let mut buffer = WireBuffer::default();
        buffer.message(1, |kv| kv.bytes(1, b"nested"));
        for text in ["", "short", &"y".repeat(200), &long] {
            buffer.text_attribute(1, text, text);
        }
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), i64::MAX.unsigned_abs()] {
            buffer.varint_attribute(1, "n", 3, number);
        }
        buffer.varint_attribute(1, "b", 2, 1);
        buffer.varint_attribute(1, "b", 2, 0);
        let list = KeyValueList::decode(buffer.into_bytes().as_slice()).unwrap().values;
        let value = |kv: &KeyValue| kv.value.clone().unwrap().value.unwrap();
        assert_eq!((list[0].key.as_str(), list.len()), ("nested", 14));
        for (kv, text) in list[1..5].iter().zip(["", "short", &"y".repeat(200), &long]) {
            assert_eq!((kv.key.as_str(), value(kv)), (text, Value::StringValue(text.to_owned())));
        }
        let numbers: Vec<Value> = list[5..12].iter().map(value).collect();
        assert_eq!(numbers, [0, 1, 127, 128, 300, i64::from(u32::MAX), i64::MAX].map(Value::IntValue));
        assert_eq!([value(&list[12]), value(&list[13])], [true, false].map(Value::BoolValue));
    }
}
