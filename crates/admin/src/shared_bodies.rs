//! Makes bodies that take the control plane's time, the scrape and the status page's data, and shares them among concurrent clients.

use std::io::{self, Write};
use std::time::Instant;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::Mutex;
use tokio::time::sleep_until;

use crate::negotiate::Form;

/// Making a body occupies the control plane's thread, and any client may ask for one. After each body the thread has this many
/// times its duration for other work.
const REST: u32 = 3;

/// Which body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyKind {
    /// The scrape in this form.
    Scrape(Form),
    /// What the status page shows.
    StatusData,
}

/// The last body of each kind.
#[derive(Default)]
pub(crate) struct SharedBodies(Mutex<BodyCache>);

#[derive(Default)]
struct BodyCache {
    /// At most one of each kind.
    made: Vec<MadeBody>,
    rest_until: Option<Instant>,
}

struct MadeBody {
    kind: BodyKind,
    begun: Instant,
    body: Bytes,
}

impl SharedBodies {
    /// The body of this kind that `make` makes, made after this call began. All callers that wait meanwhile share it.
    pub(crate) async fn body(&self, kind: BodyKind, make: impl FnOnce() -> io::Result<Bytes>) -> io::Result<Bytes> {
        let asked = Instant::now();
        let mut state = self.0.lock().await;
        if let Some(made) = state.made.iter().find(|made| made.kind == kind && made.begun >= asked) {
            return Ok(made.body.clone());
        }
        if let Some(until) = state.rest_until {
            sleep_until(until.into()).await;
        }
        let begun = Instant::now();
        let body = make()?;
        state.rest_until = Some(Instant::now() + begun.elapsed() * REST);
        state.made.retain(|made| made.kind != kind);
        state.made.push(MadeBody { kind, begun, body: body.clone() });
        Ok(body)
    }
}

pub(crate) fn compressed(text: &str) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use sidegate_telemetry::ScrapeFormat;

    use super::*;

    const TEXT: BodyKind = BodyKind::Scrape(Form { format: ScrapeFormat::Text, gzip: false });

    #[tokio::test]
    async fn many_share_one_text_that_is_never_older_than_the_question() {
        let bodies = SharedBodies::default();
        let made = Cell::new(0);
        let make = || {
            made.set(made.get() + 1);
            std::thread::sleep(Duration::from_millis(20));
            Ok(made.get().to_string().into())
        };
        let start = Instant::now();
        assert_eq!(bodies.body(TEXT, make).await.unwrap(), "1");
        // Two ask while nothing is made: the first waits for the thread's rest, the second has its text.
        let (second, third) = tokio::join!(bodies.body(TEXT, make), bodies.body(TEXT, make));
        assert_eq!((&second.unwrap()[..], &third.unwrap()[..]), (&b"2"[..], &b"2"[..]));
        assert!(start.elapsed() >= Duration::from_millis(20 + 60 + 20));
        assert_eq!(bodies.body(TEXT, make).await.unwrap(), "3");
    }

    /// A client that alternates between kinds gets no more of the thread than a client of one kind.
    #[tokio::test]
    async fn each_kind_is_made_once_for_all_that_wait_for_it() {
        let bodies = SharedBodies::default();
        let made = Cell::new(0);
        let make = || {
            made.set(made.get() + 1);
            std::thread::sleep(Duration::from_millis(20));
            Ok(made.get().to_string().into())
        };
        let other = BodyKind::StatusData;
        let start = Instant::now();
        bodies.body(TEXT, make).await.unwrap();
        // All four ask while the thread rests.
        let (a, b, c, d) =
            tokio::join!(bodies.body(TEXT, make), bodies.body(other, make), bodies.body(TEXT, make), bodies.body(other, make));
        assert!(start.elapsed() >= Duration::from_millis(20 + 60 + 20 + 60 + 20));
        assert_eq!((a.unwrap(), c.unwrap(), made.get()), ("2".into(), "2".into(), 3));
        assert_eq!((b.unwrap(), d.unwrap()), ("3".into(), "3".into()));
    }
}
