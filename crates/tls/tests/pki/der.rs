//! As much DER as a certificate needs.

use time::OffsetDateTime;

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTF8: u8 = 0x0c;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 128 => der.push(short),
        Ok(one) => der.extend([0x81, one]),
        Err(_) => {
            der.push(0x82);
            der.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        }
    }
    der.extend(content);
    der
}

pub(crate) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

/// A bit string of whole bytes.
pub(crate) fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0], bytes].concat())
}

/// GeneralizedTime from 2050 on, else UTCTime, as RFC 5280 wants it.
pub(crate) fn time(unix: i64) -> Vec<u8> {
    let t = OffsetDateTime::from_unix_timestamp(unix).unwrap();
    let rest = format!("{:02}{:02}{:02}{:02}{:02}Z", u8::from(t.month()), t.day(), t.hour(), t.minute(), t.second());
    if t.year() >= 2050 {
        tlv(0x18, format!("{:04}{rest}", t.year()).as_bytes())
    } else {
        tlv(0x17, format!("{:02}{rest}", t.year() % 100).as_bytes())
    }
}
