//! How many bytes all buffers hold together, and what follows when that is too much.
//!
//! Nothing that is open stops for want of memory: with half of the limit in use, connections get by with small buffers, so that each
//! peer that takes nothing holds little; with all of it, no more handshakes begin.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
/// What each thread holds. A thread that has ended holds nothing.
static THREADS: Mutex<Vec<Arc<AtomicUsize>>> = Mutex::new(Vec::new());

thread_local! {
    /// Written by this thread only, so that workers don't share a line of the processor's cache.
    static HELD: OnceCell<Arc<AtomicUsize>> = const { OnceCell::new() };
}

/// Sets the limit, in bytes.
pub fn set_limit(bytes: usize) {
    LIMIT.store(bytes, Ordering::Relaxed);
}

/// The limit, in bytes.
#[must_use]
pub fn limit() -> usize {
    LIMIT.load(Ordering::Relaxed)
}

/// What all buffers hold together now, in bytes. Free buffers of the workers' pools do not count.
#[must_use]
pub fn held() -> usize {
    let threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    threads.iter().map(|held| held.load(Ordering::Relaxed)).fold(0, usize::wrapping_add)
}

/// Whether large buffers have to do without.
#[must_use]
pub fn is_tight() -> bool {
    let limit = limit();
    limit < usize::MAX && held() >= limit / 2
}

/// Whether no more handshakes should begin.
#[must_use]
pub fn is_spent() -> bool {
    let limit = limit();
    limit < usize::MAX && held() >= limit
}

/// Counts a buffer that was taken.
pub(crate) fn add(bytes: usize) {
    change(|held| held.wrapping_add(bytes));
}

/// Counts a buffer that was given back, perhaps on another thread: the sum is right all the same.
pub(crate) fn subtract(bytes: usize) {
    change(|held| held.wrapping_sub(bytes));
}

fn change(by: impl FnOnce(usize) -> usize) {
    // A thread that ends counts no more.
    let _ = HELD.try_with(|held| {
        let held = held.get_or_init(|| {
            let held = Arc::new(AtomicUsize::new(0));
            THREADS.lock().unwrap_or_else(PoisonError::into_inner).push(held.clone());
            held
        });
        held.store(by(held.load(Ordering::Relaxed)), Ordering::Relaxed);
    });
}
