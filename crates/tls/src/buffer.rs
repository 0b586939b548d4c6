//! Buffers for bytes under way, from a pool of the worker.
//!
//! A connection holds one only while it has bytes to move, so that an idle one costs none. What the pool keeps is bounded;
//! what is beyond goes back to the system.

use std::cell::RefCell;
use std::ops::Range;

use crate::record::{LONGEST, SEALED};

/// How much a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Size {
    /// One record of any peer.
    #[default]
    Small,
    /// Eight of ours: for a connection that fills small ones.
    Large,
}

/// How many records a large buffer holds. More made no transfer faster, and the processor's cache is finite.
pub(crate) const RECORDS: usize = 8;

impl Size {
    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small => LONGEST,
            Self::Large => RECORDS * SEALED,
        }
    }

    /// How many free ones a worker keeps.
    const fn kept(self) -> usize {
        match self {
            Self::Small => 16,
            Self::Large => 4,
        }
    }
}

thread_local! {
    static FREE: RefCell<[Vec<Inner>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
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
    /// One from the pool. What is in it is of no meaning.
    #[must_use]
    pub fn take(size: Size) -> Self {
        let free = FREE.with_borrow_mut(|free| free[size as usize].pop());
        let inner = free.unwrap_or_else(|| Inner { bytes: vec![0; size.bytes()].into_boxed_slice(), chunks: Vec::new() });
        Self { inner, size }
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

    pub(crate) fn pieces(&self) -> usize {
        self.inner.chunks.len()
    }

    /// The bytes, and which of them are plaintext that has not been taken yet, in order.
    pub(crate) fn parts(&mut self) -> (&mut [u8], &mut Vec<Range<u32>>) {
        (&mut self.inner.bytes, &mut self.inner.chunks)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut inner = std::mem::take(&mut self.inner);
        inner.chunks.clear();
        // A thread that ends has no pool any more.
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut() {
                let free = &mut free[self.size as usize];
                if free.len() < self.size.kept() {
                    free.push(inner);
                }
            }
        });
    }
}
