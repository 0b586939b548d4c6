//! The status page: one page for browsers and the data that its script asks for. It only reads.
//!
//! The page has no outside assets, and its policy allows no script, style or request but its own. Its script puts all that others can
//! choose, such as names of peers, into the page as text.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, LOCATION,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use sidegate_config::schema::{self, ServePage};
use sidegate_core::Reason;

use crate::answers::{activity, latest, newest, status};
use crate::controls::Controls;
use crate::response::text;
use crate::shared_bodies::{BodyKind, SharedBodies};
use crate::v1;

const PAGE: &str = include_str!("status_page/page.html");
const STYLE: &str = include_str!("status_page/page.css");
const SCRIPT: &str = include_str!("status_page/page.js");
/// As many open connections are shown.
const CONNECTIONS: usize = 200;

/// The status page.
pub struct StatusPage {
    controls: Arc<Controls>,
    /// Whether only clients on loopback may see it.
    only_loopback: bool,
    /// By which a browser may ask, besides addresses and `localhost`.
    names: Vec<String>,
    page: Bytes,
    policy: HeaderValue,
}

/// What the page shows.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PageData {
    /// RFC 3339, to the millisecond: rates are made of differences.
    time: String,
    status: v1::Status,
    connections: v1::ListConnectionsResponse,
    activity: v1::Activity,
    /// The records of the latest connections, as in the access log.
    handshakes: Vec<Box<RawValue>>,
    refusals: Vec<Box<RawValue>>,
    /// What each reason that occurs means.
    reasons: BTreeMap<&'static str, Explanation>,
}

#[derive(Serialize)]
struct Explanation {
    meaning: &'static str,
    cause: &'static str,
    remedy: &'static str,
}

impl StatusPage {
    /// The page of a sidecar.
    ///
    /// # Errors
    /// If its policy is no header, which can't be.
    pub fn new(controls: Arc<Controls>, config: &schema::StatusPage) -> Result<Self, InvalidHeaderValue> {
        let page = PAGE.replacen("{style}", STYLE, 1).replacen("{script}", SCRIPT, 1);
        let names = config.names.iter().map(ToString::to_string).collect();
        Ok(Self {
            controls,
            only_loopback: config.serve != ServePage::On,
            names,
            page: page.into(),
            policy: HeaderValue::try_from(policy())?,
        })
    }

    /// Whether a client at this address may see the page.
    pub(crate) fn is_for(&self, from: IpAddr) -> bool {
        !self.only_loopback || from.to_canonical().is_loopback()
    }

    /// The answer to a request for the page or its data; none if it is for something else.
    pub(crate) async fn answer(&self, request: &Request<Incoming>, bodies: &SharedBodies) -> Option<Response<Full<Bytes>>> {
        let path = request.uri().path();
        if !["/", "/status", "/status/data"].contains(&path) {
            return None;
        }
        let authority = request.uri().authority().map(hyper::http::uri::Authority::as_str);
        if !self.may_ask(request.headers(), authority) {
            let why = "ask by an IP address, by localhost, or by a name in admin.statusPage.names\n";
            return Some(text(StatusCode::MISDIRECTED_REQUEST, why));
        }
        let mut response = match path {
            "/status" => self.typed(self.page.clone(), "text/html; charset=utf-8"),
            "/status/data" => match bodies.body(BodyKind::StatusData, || self.data()).await {
                Ok(body) => self.typed(body, "application/json"),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the data can't be made: {error}\n")),
            },
            _ => {
                let mut response = text(StatusCode::TEMPORARY_REDIRECT, "see /status\n");
                response.headers_mut().insert(LOCATION, HeaderValue::from_static("/status"));
                response
            }
        };
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Some(response)
    }

    fn typed(&self, body: Bytes, content_type: &'static str) -> Response<Full<Bytes>> {
        let mut response = text(StatusCode::OK, body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        for name in ["cross-origin-resource-policy", "cross-origin-opener-policy"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("same-origin"));
        }
        response
    }

    /// Whether a browser asks by an address or a name that is known. A web site can give its own name the address of this port, but its
    /// pages then say that name.
    fn may_ask(&self, headers: &HeaderMap, authority: Option<&str>) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(Ok(host)), None) = (hosts.next().map(HeaderValue::to_str), hosts.next()) else { return false };
        is_known(host, &self.names) && authority.is_none_or(|authority| is_known(authority, &self.names))
    }

    fn data(&self) -> io::Result<Bytes> {
        let shared = &self.controls.shared;
        let status = status(&self.controls);
        let latest = latest(shared).unwrap_or_default();
        let records = |ended: Vec<v1::EndedConnection>| {
            ended.into_iter().map(|ended| RawValue::from_string(ended.json)).collect::<serde_json::Result<Vec<_>>>()
        };
        let occurs = |reason: &&Reason| status.traffic.iter().flat_map(|traffic| &traffic.ended).any(|e| e.reason == reason.label());
        let explained =
            |reason: &Reason| (reason.label(), Explanation { meaning: reason.meaning(), cause: reason.cause(), remedy: reason.remedy() });
        let reasons = Reason::ALL.iter().filter(|reason| reason.is_failure()).filter(occurs).map(explained).collect();
        let data = PageData {
            time: humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string(),
            connections: newest(shared, CONNECTIONS),
            activity: activity(shared),
            handshakes: records(latest.handshakes)?,
            refusals: records(latest.refusals)?,
            reasons,
            status,
        };
        Ok(serde_json::to_vec(&data)?.into())
    }
}

/// What the page may do: run its own script and style, and ask where it comes from.
fn policy() -> String {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())));
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
}

/// Whether `host`, with or without a port, is an IP address, `localhost` or one of `names`.
fn is_known(host: &str, names: &[String]) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        return address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'));
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost") || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_names_are_answered() {
        let names = ["web.example".to_owned()];
        for good in
            ["127.0.0.1:15020", "127.0.0.1", "[::1]:15020", "[::1]", "localhost:15020", "LOCALHOST", "web.example:80", "Web.Example"]
        {
            assert!(is_known(good, &names), "{good}");
        }
        for bad in
            ["", "evil.example", "evil.example:15020", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", "[evil]", "[::1]x"]
        {
            assert!(!is_known(bad, &names), "{bad}");
        }
    }

    /// A marker in script or style would be replaced too, and the hashes would be of something else.
    #[test]
    fn the_page_has_one_place_for_each_part() {
        for marker in ["{style}", "{script}"] {
            assert_eq!(PAGE.matches(marker).count(), 1, "{marker}");
            assert!(!STYLE.contains(marker) && !SCRIPT.contains(marker), "{marker}");
        }
        assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("insertAdjacentHTML") && !SCRIPT.contains("outerHTML"));
        assert!(!SCRIPT.contains("</script") && !STYLE.contains("</style"));
    }
}
