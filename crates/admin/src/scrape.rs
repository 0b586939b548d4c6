//! Makes the bodies of the scrape, and shares them among concurrent clients.

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

/// The last scrape in each form.
#[derive(Default)]
pub(crate) struct Scrape(Mutex<ScrapeCache>);

#[derive(Default)]
struct ScrapeCache {
    /// At most one of each form.
    made: Vec<ScrapeBody>,
    rest_until: Option<Instant>,
}

struct ScrapeBody {
    form: Form,
    begun: Instant,
    body: Bytes,
}

impl Scrape {
    /// The text of `make` in this form, made after this call began. All callers that wait meanwhile share it.
    pub(crate) async fn body(&self, form: Form, make: impl FnOnce() -> String) -> io::Result<Bytes> {
        let asked = Instant::now();
        let mut state = self.0.lock().await;
        if let Some(made) = state.made.iter().find(|made| made.form == form && made.begun >= asked) {
            return Ok(made.body.clone());
        }
        if let Some(until) = state.rest_until {
            sleep_until(until.into()).await;
        }
        let begun = Instant::now();
        let text = make();
        let body = Bytes::from(if form.gzip { compressed(&text)? } else { text.into_bytes() });
        state.rest_until = Some(Instant::now() + begun.elapsed() * REST);
        state.made.retain(|made| made.form != form);
        state.made.push(ScrapeBody { form, begun, body: body.clone() });
        Ok(body)
    }
}

fn compressed(text: &str) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Read;
    use std::time::Duration;

    use sidegate_telemetry::ScrapeFormat;

    use super::*;

    const TEXT: Form = Form { format: ScrapeFormat::Text, gzip: false };

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
        assert_eq!(scrape.body(TEXT, make).await.unwrap(), "1");
        // Two ask while nothing is made: the first waits for the thread's rest, the second has its text.
        let (second, third) = tokio::join!(scrape.body(TEXT, make), scrape.body(TEXT, make));
        assert_eq!((&second.unwrap()[..], &third.unwrap()[..]), (&b"2"[..], &b"2"[..]));
        assert!(start.elapsed() >= Duration::from_millis(20 + 60 + 20));
        assert_eq!(scrape.body(TEXT, make).await.unwrap(), "3");
    }

    /// A client that alternates between forms gets no more of the thread than a client of one form.
    #[tokio::test]
    async fn each_form_is_made_once_for_all_that_wait_for_it() {
        let scrape = Scrape::default();
        let made = Cell::new(0);
        let make = || {
            made.set(made.get() + 1);
            std::thread::sleep(Duration::from_millis(20));
            made.get().to_string()
        };
        let zipped = Form { gzip: true, ..TEXT };
        let start = Instant::now();
        scrape.body(TEXT, make).await.unwrap();
        // All four ask while the thread rests.
        let (a, b, c, d) =
            tokio::join!(scrape.body(TEXT, make), scrape.body(zipped, make), scrape.body(TEXT, make), scrape.body(zipped, make));
        assert!(start.elapsed() >= Duration::from_millis(20 + 60 + 20 + 60 + 20));
        assert_eq!((a.unwrap(), c.unwrap(), made.get()), ("2".into(), "2".into(), 3));
        for body in [b, d] {
            let mut text = String::new();
            flate2::read::GzDecoder::new(&body.unwrap()[..]).read_to_string(&mut text).unwrap();
            assert_eq!(text, "3");
        }
    }
}
