//! Protection of TLS 1.3 records (RFC 8446 §5.2, §5.3), in place.
//!
//! rustls agrees on the keys and derives their successors; records are sealed and opened here, because rustls hands out
//! each record's plaintext as a vector of its own and copies what it seals twice. Here a record lies where the socket
//! wrote it, and where the next socket reads it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use rustls::{AlertDescription, ConnectionTrafficSecrets, Error};
use zeroize::Zeroizing;

/// Type, legacy version, length.
pub(crate) const HEADER: usize = 5;
/// Plaintext that one record carries at most (RFC 8446 §5.1).
pub(crate) const PLAINTEXT: usize = 1 << 14;
const TAG: usize = 16;
/// What a record is longer than its plaintext: header, content type, tag.
pub(crate) const OVERHEAD: usize = HEADER + 1 + TAG;
/// The longest record that we make; we never pad.
pub(crate) const SEALED: usize = PLAINTEXT + OVERHEAD;
/// The longest record that a peer may make (RFC 8446 §5.2).
pub(crate) const LONGEST: usize = HEADER + PLAINTEXT + 256;

// Buffers are made for these.
const _: () = assert!(LONGEST == sidegate_net::LONGEST_RECORD && SEALED == sidegate_net::SEALED_RECORD);

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Alert = 21,
    Handshake = 22,
    Data = 23,
}

/// How many keys a worker has expanded: those that were used last, as far as their places differ.
const EXPANDED: usize = 128;

thread_local! {
    static PLACES: RefCell<[Option<(u64, LessSafeKey)>; EXPANDED]> = const { RefCell::new([const { None }; EXPANDED]) };
}

/// Keys of one direction.
///
/// A key expanded for its cipher takes half a KiB, and less than a microsecond to make: idle connections have none.
struct Keys {
    /// Of these keys alone.
    id: u64,
    sequence: u64,
    cipher: Cipher,
    iv: [u8; NONCE_LEN],
    /// As many bytes of it as the cipher wants. In a place of its own: a session moves, and would leave copies behind.
    key: Box<Zeroizing<[u8; 32]>>,
}

#[derive(Clone, Copy)]
enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

impl Keys {
    fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (cipher, secret, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Cipher::Chacha20Poly1305, key, iv),
            _ => return Err(Error::General("the cipher suite is none of TLS 1.3".to_owned())),
        };
        let iv = iv.as_ref().try_into().map_err(|_| Error::General("a traffic IV has the wrong length".to_owned()))?;
        let mut key = Box::new(Zeroizing::new([0; 32]));
        key.iter_mut().zip(secret.as_ref()).for_each(|(to, from)| *to = *from);
        Ok(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), sequence, cipher, iv, key })
    }

    fn expand(&self) -> Result<LessSafeKey, Error> {
        let algorithm: &'static Algorithm = match self.cipher {
            Cipher::Aes128Gcm => &AES_128_GCM,
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::Chacha20Poly1305 => &CHACHA20_POLY1305,
        };
        let unusable = |_| Error::General("a traffic key does not fit its cipher".to_owned());
        UnboundKey::new(algorithm, &self.key[..algorithm.key_len()]).map(LessSafeKey::new).map_err(unusable)
    }

    /// Calls `with` with the key and the next record's nonce (RFC 8446 §5.3). None is used twice: the sequence number only
    /// grows, and never wraps.
    fn next<T>(&mut self, with: impl FnOnce(&LessSafeKey, Nonce) -> Result<T, Unspecified>) -> Result<T, Error> {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence = self.sequence.checked_add(1).ok_or(Error::EncryptError)?;
        PLACES.with_borrow_mut(|places| {
            let place = &mut places[place(self.id)];
            let (_, key) = match place {
                Some(expanded) if expanded.0 == self.id => expanded,
                other => other.insert((self.id, self.expand()?)),
            };
            with(key, Nonce::assume_unique_for_key(nonce)).map_err(|_| Error::EncryptError)
        })
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // No key outlives its session.
        let _ = PLACES.try_with(|places| {
            if let Ok(mut places) = places.try_borrow_mut()
                && let place = &mut places[place(self.id)]
                && place.as_ref().is_some_and(|(id, _)| *id == self.id)
            {
                *place = None;
            }
        });
    }
}

fn place(id: u64) -> usize {
    (id % EXPANDED as u64) as usize
}

/// Seals what goes out.
pub(crate) struct Sealer {
    keys: Keys,
    /// After so many records the key has done its work (RFC 8446 §5.5).
    limit: u64,
}

impl Sealer {
    /// Goes on at `sequence`; a key seals `limit` records at most.
    pub(crate) fn new(sequence: u64, secrets: &ConnectionTrafficSecrets, limit: u64) -> Result<Self, Error> {
        Ok(Self { keys: Keys::new(sequence, secrets)?, limit })
    }

    /// How many records may still be sealed before the key has to be replaced. One is kept back, for the message that
    /// says so.
    pub(crate) fn left(&self) -> u64 {
        self.limit.saturating_sub(self.keys.sequence + 1)
    }

    /// Makes a record of `room`, whose plaintext, `length` bytes, lies behind the [`HEADER`]. Room for the rest
    /// ([`OVERHEAD`] in all) must be there. Returns the record's length.
    pub(crate) fn seal(&mut self, room: &mut [u8], length: usize, content: Content) -> Result<usize, Error> {
        let inner = length + 1;
        let Some((record, _)) = room.split_at_mut_checked(length + OVERHEAD) else {
            return Err(Error::EncryptError);
        };
        let (header, body) = record.split_at_mut(HEADER);
        header.copy_from_slice(&header_of(inner + TAG)?);
        body[length] = content as u8;
        let (text, tag) = body.split_at_mut(inner);
        let sealed = self.keys.next(|key, nonce| key.seal_in_place_separate_tag(nonce, Aad::from(&*header), text))?;
        tag.copy_from_slice(sealed.as_ref());
        Ok(length + OVERHEAD)
    }

    /// Appends a record with `plaintext` to `out`.
    pub(crate) fn append(&mut self, out: &mut Vec<u8>, plaintext: &[u8], content: Content) -> Result<(), Error> {
        let start = out.len();
        out.resize(start + HEADER, 0);
        out.extend_from_slice(plaintext);
        out.resize(start + plaintext.len() + OVERHEAD, 0);
        self.seal(&mut out[start..], plaintext.len(), content).map(drop)
    }

    /// Replaces the key (RFC 8446 §4.6.3).
    pub(crate) fn replace(&mut self, secrets: &ConnectionTrafficSecrets) -> Result<(), Error> {
        self.keys = Keys::new(0, secrets)?;
        Ok(())
    }
}

fn header_of(length: usize) -> Result<[u8; HEADER], Error> {
    let length = u16::try_from(length).map_err(|_| Error::EncryptError)?;
    let [high, low] = length.to_be_bytes();
    // To all outside every protected record is application data of TLS 1.2.
    Ok([Content::Data as u8, 3, 3, high, low])
}

/// Opens what comes in.
pub(crate) struct Opener(Keys);

/// Why a record can't be opened: what the peer is told, and what we say.
pub(crate) type Refused = (AlertDescription, &'static str);

impl Opener {
    /// Goes on at `sequence`.
    pub(crate) fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, Error> {
        Keys::new(sequence, secrets).map(Self)
    }

    /// The length of the record that `bytes` begin with, once all of it is there.
    pub(crate) fn complete(bytes: &[u8]) -> Result<Option<usize>, Refused> {
        let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
        if header[0] != Content::Data as u8 {
            return Err((AlertDescription::UnexpectedMessage, "a record is not protected"));
        }
        let length = HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length > LONGEST {
            return Err((AlertDescription::RecordOverflow, "a record is longer than TLS allows"));
        }
        Ok((length <= bytes.len()).then_some(length))
    }

    /// Opens one whole record. Its plaintext lies behind the [`HEADER`] then; what it is, and how long.
    pub(crate) fn open(&mut self, record: &mut [u8]) -> Result<(Content, usize), Refused> {
        const FORGED: Refused = (AlertDescription::BadRecordMac, "a record was not sealed with the peer's key");
        let (header, body) = record.split_at_mut_checked(HEADER).ok_or(FORGED)?;
        let opened = self.0.next(|key, nonce| key.open_in_place(nonce, Aad::from(&*header), body).map(|inner| inner.len()));
        let inner = &body[..opened.map_err(|_| FORGED)?];
        if inner.len() > PLAINTEXT + 1 {
            return Err((AlertDescription::RecordOverflow, "a record's plaintext is longer than TLS allows"));
        }
        // Zeros behind the content type are padding (RFC 8446 §5.4).
        let Some(length) = inner.iter().rposition(|byte| *byte != 0) else {
            return Err((AlertDescription::UnexpectedMessage, "a record has no content type"));
        };
        let content = match inner[length] {
            21 => Content::Alert,
            22 => Content::Handshake,
            23 => Content::Data,
            _ => return Err((AlertDescription::UnexpectedMessage, "a record's content type is unknown")),
        };
        Ok((content, length))
    }

    /// Replaces the key (RFC 8446 §4.6.3).
    pub(crate) fn replace(&mut self, secrets: &ConnectionTrafficSecrets) -> Result<(), Error> {
        self.0 = Keys::new(0, secrets)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::crypto::cipher::{AeadKey, Iv};

    fn secrets() -> ConnectionTrafficSecrets {
        ConnectionTrafficSecrets::Chacha20Poly1305 { key: AeadKey::from([7; 32]), iv: Iv::from([9; 12]) }
    }

    fn pair() -> (Sealer, Opener) {
        (Sealer::new(0, &secrets(), 100).unwrap(), Opener::new(0, &secrets()).unwrap())
    }

    #[test]
    fn what_is_sealed_opens_in_order_only() {
        let (mut sealer, mut opener) = pair();
        let mut records: Vec<Vec<u8>> = Vec::new();
        for text in [&b"one"[..], b"", &[3; PLAINTEXT]] {
            let mut record = Vec::new();
            sealer.append(&mut record, text, Content::Data).unwrap();
            assert_eq!(record.len(), text.len() + OVERHEAD);
            assert_eq!(Opener::complete(&record), Ok(Some(record.len())));
            records.push(record);
        }
        let mut second = records[1].clone();
        assert!(Opener::new(0, &secrets()).unwrap().open(&mut second).is_err());
        for (record, text) in records.iter_mut().zip([&b"one"[..], b"", &[3; PLAINTEXT]]) {
            assert_eq!(opener.open(record), Ok((Content::Data, text.len())));
            assert_eq!(&record[HEADER..][..text.len()], text);
        }
    }

    /// Of more keys than have a place, each used in turn, and each with its own.
    #[test]
    fn any_number_of_sessions_take_turns() {
        let secrets =
            |n: u16| ConnectionTrafficSecrets::Chacha20Poly1305 { key: AeadKey::from([n.to_be_bytes()[1]; 32]), iv: Iv::from([9; 12]) };
        let mut pairs: Vec<_> =
            (0..200).map(|n| (Sealer::new(0, &secrets(n), 100).unwrap(), Opener::new(0, &secrets(n)).unwrap())).collect();
        for round in 0..3_u8 {
            for (n, (sealer, opener)) in pairs.iter_mut().enumerate() {
                let mut record = Vec::new();
                sealer.append(&mut record, &[round], Content::Data).unwrap();
                let mut others = Opener::new(round.into(), &secrets(u16::try_from(n).unwrap() + 1)).unwrap();
                assert!(others.open(&mut record.clone()).is_err());
                assert_eq!(opener.open(&mut record), Ok((Content::Data, 1)));
            }
        }
        let held = || PLACES.with_borrow(|places| places.iter().flatten().count());
        assert!(held() > EXPANDED / 2);
        drop(pairs);
        assert_eq!(held(), 0);
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let (mut sealer, _) = pair();
        let mut record = Vec::new();
        sealer.append(&mut record, b"text", Content::Alert).unwrap();
        for bit in 0..record.len() * 8 {
            let mut forged = record.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            // A changed length is refused for what is then no whole record.
            let whole = Opener::complete(&forged).ok().flatten() == Some(forged.len());
            assert!(!whole || Opener::new(0, &secrets()).unwrap().open(&mut forged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_prefix_of_a_record_waits() {
        let (mut sealer, _) = pair();
        let mut record = Vec::new();
        sealer.append(&mut record, b"text", Content::Data).unwrap();
        for end in 0..record.len() {
            assert_eq!(Opener::complete(&record[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn padding_is_taken_off_and_must_leave_something() {
        let (mut sealer, mut opener) = pair();
        let mut record = Vec::new();
        // The content type that `append` adds becomes padding if it is 0; here the plaintext brings its own.
        for (plaintext, opened) in [(&b"x\x17\0\0"[..], Ok((Content::Data, 1))), (b"\0\0", Err(()))] {
            record.clear();
            record.resize(HEADER, 0);
            record.extend_from_slice(plaintext);
            record.resize(plaintext.len() + OVERHEAD, 0);
            seal_as(&mut sealer, &mut record, plaintext.len());
            assert_eq!(opener.open(&mut record).map_err(drop), opened);
        }
    }

    /// As [`Sealer::seal`], with padding where the content type belongs.
    fn seal_as(sealer: &mut Sealer, record: &mut [u8], length: usize) {
        let header = header_of(length + 1 + TAG).unwrap();
        record[..HEADER].copy_from_slice(&header);
        let (text, tag) = record[HEADER..].split_at_mut(length + 1);
        let sealed = sealer.keys.next(|key, nonce| key.seal_in_place_separate_tag(nonce, Aad::from(&header), text)).unwrap();
        tag.copy_from_slice(sealed.as_ref());
    }

    #[test]
    fn a_key_says_when_it_has_done_its_work() {
        let mut sealer = Sealer::new(97, &secrets(), 100).unwrap();
        assert_eq!(sealer.left(), 2);
        sealer.append(&mut Vec::new(), b"", Content::Data).unwrap();
        sealer.append(&mut Vec::new(), b"", Content::Data).unwrap();
        assert_eq!(sealer.left(), 0);
        sealer.replace(&secrets()).unwrap();
        assert_eq!(sealer.left(), 99);
    }

    #[test]
    fn lengths_and_types_that_tls_forbids_are_refused_before_they_are_read() {
        assert_eq!(Opener::complete(&[23, 3, 3, 0x41, 0x01]).unwrap_err().0, AlertDescription::RecordOverflow);
        assert_eq!(Opener::complete(&[23, 3, 3, 0x41, 0x00]), Ok(None));
        for other in (0..=255).filter(|t| *t != 23) {
            assert_eq!(Opener::complete(&[other, 3, 3, 0, 1]).unwrap_err().0, AlertDescription::UnexpectedMessage);
        }
    }
}
