//! Which form of the scrape a client wants, by `Accept` and `Accept-Encoding` (RFC 9110, 12.5).

use hyper::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderName};
use sidegate_telemetry::ScrapeFormat;

/// A form of the scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) format: ScrapeFormat,
    pub(crate) gzip: bool,
}

/// An element of a list such as `text/plain;version=0.0.4;q=0.5`.
struct Element {
    value: String,
    parameters: Vec<(String, String)>,
    /// Thousandths.
    quality: u16,
}

/// How much a client wants a format.
#[derive(Default)]
struct Wish {
    quality: u16,
    /// Whether the client names the format itself, not only a range such as `*/*`.
    is_named: bool,
    asks_for_escaping: bool,
}

/// The form for a client that sends `headers`, and its `Content-Type`.
pub(crate) fn negotiate(headers: &HeaderMap) -> (Form, &'static str) {
    let accepted = elements(headers, &ACCEPT);
    let open_metrics = wish(&accepted, "application", "openmetrics-text", "1.0.0");
    let text = wish(&accepted, "text", "plain", "0.0.4");
    // Of equal weights OpenMetrics is taken, since it says more, but only for a client that names it: a browser says `*/*`.
    let is_preferred = open_metrics.quality > text.quality || (open_metrics.is_named && open_metrics.quality == text.quality);
    // Names have letters, digits and underscores only. A client that asks for an escaping is told so.
    let (format, content_type) = if open_metrics.quality > 0 && is_preferred {
        let kind = match open_metrics.asks_for_escaping {
            false => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            true => "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
        };
        (ScrapeFormat::OpenMetrics, kind)
    } else {
        let kind = match text.asks_for_escaping {
            false => "text/plain; version=0.0.4; charset=utf-8",
            true => "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
        };
        (ScrapeFormat::Text, kind)
    };
    (Form { format, gzip: accepts_gzip(&elements(headers, &ACCEPT_ENCODING)) }, content_type)
}

/// What the most specific of the ranges that cover a format says.
fn wish(accepted: &[Element], kind: &str, subtype: &str, version: &str) -> Wish {
    let covering = accepted.iter().filter_map(|element| {
        let specific = match element.value.split_once('/')? {
            ("*", "*") => 0,
            (k, "*") if k == kind => 1,
            (k, s) if k == kind && s == subtype => 2 + element.parameters.len(),
            _ => return None,
        };
        let fits = element.parameters.iter().all(|(name, value)| match name.as_str() {
            "version" => value == version,
            "charset" => value.eq_ignore_ascii_case("utf-8"),
            _ => true,
        });
        fits.then_some((specific, element))
    });
    covering.max_by_key(|(specific, element)| (*specific, element.quality)).map_or_else(Wish::default, |(specific, element)| Wish {
        quality: element.quality,
        is_named: specific >= 2,
        asks_for_escaping: element.parameters.iter().any(|(name, _)| name == "escaping"),
    })
}

fn accepts_gzip(accepted: &[Element]) -> bool {
    let find = |names: &[&str]| accepted.iter().find(|element| names.contains(&element.value.as_str()));
    find(&["gzip", "x-gzip"]).or_else(|| find(&["*"])).is_some_and(|element| element.quality > 0)
}

/// The elements of a header, which may come in several lines. What has no valid weight is left out.
fn elements(headers: &HeaderMap, name: &HeaderName) -> Vec<Element> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter_map(element).collect()
}

fn element(text: &str) -> Option<Element> {
    let mut parts = text.split(';').map(str::trim);
    let value = parts.next().filter(|value| !value.is_empty())?.to_ascii_lowercase();
    let mut element = Element { value, parameters: Vec::new(), quality: 1000 };
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        if name.eq_ignore_ascii_case("q") {
            element.quality = quality(value)?;
        } else {
            element.parameters.push((name.to_ascii_lowercase(), value.trim_matches('"').to_owned()));
        }
    }
    Some(element)
}

/// A weight in thousandths (RFC 9110, 12.4.2).
fn quality(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{fraction:0<3}").parse().ok()?;
    match (whole, thousandths) {
        ("0", thousandths) => Some(thousandths),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn with(name: HeaderName, value: &'static str) -> (Form, &'static str) {
        negotiate(&HeaderMap::from_iter([(name, HeaderValue::from_static(value))]))
    }

    #[test]
    fn a_client_gets_the_format_that_it_prefers() {
        let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        let text = "text/plain; version=0.0.4; charset=utf-8";
        for (accept, wanted) in [
            ("*/*", text),
            ("", text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", text),
            ("application/json", text),
            ("application/openmetrics-text;version=2.0.0", text),
            ("application/openmetrics-text; version=1.0.0; charset=utf-16", text),
            ("application/openmetrics-text;q=0", text),
            ("application/openmetrics-text;q=0.3, text/plain;q=0.5", text),
            ("application/openmetrics-text;q=0.3, */*;q=0.5", text),
            // The more specific range counts, whichever weight the other has.
            ("application/openmetrics-text;q=0.9, application/openmetrics-text;version=1.0.0;q=0.1, text/plain;q=0.5", text),
            ("application/openmetrics-text;q=nan", text),
            ("application/openmetrics-text;q=2, text/plain;q=0.1", text),
            ("application/openmetrics-text", open_metrics),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"; Q=0.001", open_metrics),
            ("application/*", open_metrics),
            ("application/openmetrics-text, text/plain, */*", open_metrics),
            ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", open_metrics),
            ("application/openmetrics-text;q=0.2, text/plain;q=0.5, text/plain;version=0.0.4;q=0.1", open_metrics),
        ] {
            assert_eq!(with(ACCEPT, accept).1, wanted, "{accept}");
        }
        assert_eq!(negotiate(&HeaderMap::new()), (Form { format: ScrapeFormat::Text, gzip: false }, text));
        let lines = ["text/plain;q=0.5", "application/openmetrics-text"].map(|line| (ACCEPT, HeaderValue::from_static(line)));
        let mut headers = HeaderMap::new();
        lines.into_iter().for_each(|(name, line)| _ = headers.append(name, line));
        assert_eq!(negotiate(&headers).1, open_metrics);
    }

    /// What Prometheus 3 sends.
    #[test]
    fn a_client_that_asks_for_an_escaping_is_told_which() {
        let (form, kind) = with(
            ACCEPT,
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
        );
        assert_eq!(form.format, ScrapeFormat::OpenMetrics);
        assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores");
        let (_, kind) = with(ACCEPT, "text/plain;version=0.0.4;escaping=values");
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
    }

    #[test]
    fn gzip_is_for_a_client_that_accepts_it() {
        for (accept, wanted) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.001, br", true),
            ("x-gzip", true),
            ("*", true),
            ("gzip;q=0, *", false),
            ("gzip;q=0.000", false),
            ("br, identity", false),
            ("*;q=0", false),
            ("", false),
        ] {
            assert_eq!(with(ACCEPT_ENCODING, accept).0.gzip, wanted, "{accept}");
        }
    }
}
