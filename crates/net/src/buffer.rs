//! Buffers for bytes under way, from a pool of the worker.
//!
//! A connection holds one only while it has bytes to move, so that an idle one costs none. What the pool keeps is bounded;
//! what is beyond, or has lain there unused, goes back to the system.

use std::cell::RefCell;
use std::ops::Range;

use crate::budget;

/// The longest TLS record of any peer, bytes (RFC 8446 §5.2).
pub const LONGEST_RECORD: usize = 5 + (1 << 14) + 256;
/// A full TLS record of ours, bytes: header, plaintext, content type, tag.
pub const SEALED_RECORD: usize = 5 + (1 << 14) + 1 + 16;

/// How much a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Size {
    /// The beginning of a handshake, which may be all that ever comes.
    Tiny,
    /// One record of any peer.
    #[default]
    Small,
    /// Three such: the longest certificate message of a handshake that is taken, in records as its sender likes.
    Medium,
    /// Eight of ours: for a connection that fills small ones.
    Large,
}

/// How many records a large buffer holds. More made no transfer faster, and the processor's cache is finite.
pub const RECORDS: usize = 8;

impl Size {
    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Tiny => 4096,
            Self::Small => LONGEST_RECORD,
            Self::Medium => 3 * LONGEST_RECORD,
            Self::Large => RECORDS * SEALED_RECORD,
        }
    }

    /// How many free ones a worker keeps.
    const fn kept(self) -> usize {
        match self {
            Self::Tiny | Self::Small => 16,
            Self::Medium | Self::Large => 4,
        }
    }

    /// The largest that a connection may have now, to read from an application.
    #[must_use]
    pub fn generous() -> Self {
        if budget::is_tight() { Self::Small } else { Self::Large }
    }

    /// The smallest that holds `length` bytes, if one does.
    #[must_use]
    pub fn of(length: usize) -> Option<Self> {
        [Self::Tiny, Self::Small, Self::Medium, Self::Large].into_iter().find(|size| length <= size.bytes())
    }
}

/// Free buffers of one size.
struct Free {
    buffers: Vec<Inner>,
    /// How many of them were not needed since [`Buffer::trim`] looked last.
    spare: usize,
}

impl Free {
    const NONE: Self = Self { buffers: Vec::new(), spare: 0 };
}

thread_local! {
    static FREE: RefCell<[Free; 4]> = const { RefCell::new([Free::NONE; 4]) };
}

#[derive(Debug, Default)]
struct Inner {
    bytes: Box<[u8]>,
    chunks: Vec<Range<u32>>,
}

/// A buffer; dropping it gives it back.
#[derive(Debug)]
pub struct Buffer {
    inner: Inner,
    size: Size,
}

impl Buffer {
    /// One from the pool. Its content means nothing.
    #[must_use]
    pub fn take(size: Size) -> Self {
        let free = FREE.with_borrow_mut(|free| {
            let free = &mut free[size as usize];
            let buffer = free.buffers.pop();
            free.spare = free.spare.min(free.buffers.len());
            buffer
        });
        budget::add(size.bytes());
        let inner = free.unwrap_or_else(|| Inner { bytes: vec![0; size.bytes()].into_boxed_slice(), chunks: Vec::new() });
        Self { inner, size }
    }

    /// Gives back what this worker's pool holds and was not needed since the last time.
    pub fn trim() {
        FREE.with_borrow_mut(|free| {
            for free in free {
                free.buffers.drain(..free.spare);
                free.spare = free.buffers.len();
            }
        });
    }

    /// How much it holds.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// All of it.
    #[must_use]
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.inner.bytes
    }

    /// How many ranges of it are plaintext that has not been taken.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.inner.chunks.len()
    }

    /// The bytes, and which of them are plaintext that has not been taken yet, in order.
    pub fn parts(&mut self) -> (&mut [u8], &mut Vec<Range<u32>>) {
        (&mut self.inner.bytes, &mut self.inner.chunks)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut inner = std::mem::take(&mut self.inner);
        inner.chunks.clear();
        budget::subtract(self.size.bytes());
        // A thread that ends has no pool any more.
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut() {
                let free = &mut free[self.size as usize];
                if free.buffers.len() < self.size.kept() {
                    free.buffers.push(inner);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_counted_wherever_it_is_given_back() {
        let before = budget::held();
        let (one, other) = (Buffer::take(Size::Large), Buffer::take(Size::Tiny));
        assert!(budget::held() >= before + Size::Large.bytes() + Size::Tiny.bytes());
        std::thread::spawn(move || drop(one)).join().unwrap();
        drop(other);
        // Other tests of this process take and give back, too.
        assert!(budget::held() < before + Size::Large.bytes() * 64);
    }

    fn free() -> [usize; 2] {
        FREE.with_borrow(|free| [Size::Small, Size::Large].map(|size| free[size as usize].buffers.len()))
    }

    #[test]
    fn the_pool_keeps_what_is_used_and_no_more() {
        drop([Buffer::take(Size::Small), Buffer::take(Size::Small), Buffer::take(Size::Large)]);
        Buffer::trim();
        assert_eq!(free(), [2, 1]);
        drop(Buffer::take(Size::Small));
        Buffer::trim();
        assert_eq!(free(), [1, 0]);
        drop((0..100).map(|_| Buffer::take(Size::Small)).collect::<Vec<_>>());
        assert_eq!(free(), [Size::Small.kept(), 0]);
        Buffer::trim();
        Buffer::trim();
        assert_eq!(free(), [0, 0]);
    }
}
