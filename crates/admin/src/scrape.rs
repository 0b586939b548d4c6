//! The text of the scrape, for as many as ask.

use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::sleep_until;

/// To make the text takes the control plane's thread, and anyone may ask for it: after it was made the thread has this many
/// times as long for everything else.
const REST: u32 = 3;

/// The last scrape.
#[derive(Default)]
pub(crate) struct Scrape(Mutex<Option<Last>>);

struct Last {
    begun: Instant,
    ended: Instant,
    text: Bytes,
}

impl Scrape {
    /// What `make` says, not before this was called: all that wait meanwhile get the same.
    pub(crate) async fn text(&self, make: impl FnOnce() -> String) -> Bytes {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some(last) = &*last {
            if last.begun >= asked {
                return last.text.clone();
            }
            sleep_until((last.ended + (last.ended - last.begun) * REST).into()).await;
        }
        let begun = Instant::now();
        let text = Bytes::from(make());
        *last = Some(Last { begun, ended: Instant::now(), text: text.clone() });
        text
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn many_share_one_text_that_is_never_older_than_the_question() {
        let scrape = Scrape::default();
        let made = Cell::new(0);
        let make = || {
            made.set(made.get() + 1);
            std::thread::sleep(Duration::from_millis(20));
            made.get().to_string()
        };
        let start = Instant::now();
        assert_eq!(scrape.text(make).await, "1");
        // Two ask while nothing is made: the first waits for the thread's rest, the second has its text.
        let (second, third) = tokio::join!(scrape.text(make), scrape.text(make));
        assert_eq!((&second[..], &third[..]), (&b"2"[..], &b"2"[..]));
        assert!(start.elapsed() >= Duration::from_millis(20 + 60 + 20));
        assert_eq!(scrape.text(make).await, "3");
    }
}
