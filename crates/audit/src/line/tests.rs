//! Lines as the writer makes them, and as somebody else does.

use super::*;
use crate::chain::{Chain, Position};
use crate::event::{ConnectionFacts, Event, FileDigest, NewEvent};

/// `count` linked lines, each with its newline, from record `seq` on.
pub(crate) fn lines(seq: u64, count: u64) -> Vec<u8> {
    let mut chain = Chain::new(Position { seq, prev: [0; 32] }, EpochKey::random().unwrap());
    let mut out = Vec::new();
    for rules in 0..count {
        let event: NewEvent = Event::PolicyLoaded { rules, files: Vec::new() };
        chain.append(&mut out, SystemTime::now(), &event, 1, None).unwrap();
    }
    out
}

#[test]
fn a_line_is_read_within_its_limit() {
    let long = vec![b'x'; LONGEST + 1];
    let mut text = Vec::new();
    for (file, then, len) in [
        (&b""[..], Next::End, 0),
        (b"ab", Next::Part, 2),
        (b"ab\n", Next::Whole, 2),
        (b"\n", Next::Whole, 0),
        (&[&long[1..], b"\n"].concat(), Next::Whole, LONGEST),
        (&long[1..], Next::Part, LONGEST),
        (&[&long[..], b"\n"].concat(), Next::TooLong, LONGEST + 1),
    ] {
        let next = next(&mut &file[..], &mut text).unwrap();
        assert_eq!((next, text.len()), (then, len));
    }
}

#[test]
fn no_line_is_made_that_could_not_be_read() {
    let event: Event<ConnectionFacts> = Event::PolicyLoaded { rules: 1, files: vec![FileDigest::new(&"x".repeat(LONGEST), b"")] };
    let error = begin(&mut Vec::new(), 1, SystemTime::now(), &event).unwrap_err();
    assert!(error.to_string().contains("longer than a line may be"), "{error}");
}

#[test]
fn a_number_that_no_record_has_is_refused() {
    let text = String::from_utf8(lines(1, 1)).unwrap();
    let text = text.trim_end();
    assert!(LogLine::parse(text.as_bytes()).is_ok());
    for (number, more) in [("0", ""), ("18446744073709551615", ""), ("9223372036854775807", ""), ("2", "\"records\":18446744073709551615,")]
    {
        let forged = text.replace("\"seq\":1,", &format!("\"seq\":{number},{more}"));
        let error = LogLine::parse(forged.as_bytes()).unwrap_err();
        assert_eq!(error, format!("no record has the number {number}"));
    }
}
