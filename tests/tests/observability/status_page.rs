//! The status page in a real browser: what it shows, who may see it, and that it is of use to everybody who looks.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use serde_json::Value;
use sidegate_tests::{
    Chromium, DEADLINE, Echo, Identities, Sidecar, client_config, echo_bytes, eventually, free_port, id, program, read_all, server_config,
    skipped,
};

const HOUR: Duration = Duration::from_secs(3600);
const DESKTOP: (u32, u32) = (1280, 900);
const PHONE: (u32, u32) = (375, 812);
/// Names that an operator or a peer could choose to become a part of the page.
const HOSTILE_NAME: &str = "<img src=x onerror=\"window.hacked=1\">";
const HOSTILE_RULE: &str = "<script>window.hacked=2</script>";

/// `web` may call `api`, `other` may not.
struct Mesh {
    api: Sidecar,
    web: Sidecar,
    other: Sidecar,
    entries: [SocketAddr; 2],
    _identities: Identities,
    _echo: Echo,
}

impl Mesh {
    fn start() -> Self {
        let echo = Echo::start();
        let identities = Identities::start(&["web", "api", "other"], HOUR);
        let loopback = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let (port, entries, folder) = (loopback(), [loopback(), loopback()], identities.folder());
        let more = "audit: { file: { folder: '{folder}/{name}.audit' } }\ntelemetry: { otlp: { endpoint: \"http://127.0.0.1:1\" } }\n";
        let config = server_config(&identities, port, echo.address);
        let rule = format!("rules:\n  - name: '{HOSTILE_RULE}'\n    action: allow\n    from: {{ spiffeIds: [\"{}\"] }}\n", id("web"));
        std::fs::write(folder.join("api.policy.yaml"), rule).unwrap();
        let api = Sidecar::start(folder, "api", &format!("{config}{more}"));
        let hostile = |config: String| config.replace("{ name: api,", &format!("{{ name: '{HOSTILE_NAME}',"));
        let web = Sidecar::start(folder, "web", &hostile(client_config(&identities, entries[0], port)));
        let config = client_config(&identities, entries[1], port).replace("web.sock", "other.sock");
        let other = Sidecar::start(folder, "other", &hostile(config));
        for sidecar in [&api, &web, &other] {
            sidecar.wait_ready();
        }
        Self { api, web, other, entries, _identities: identities, _echo: echo }
    }

    /// Traffic: connections that stay open, some that ended, some that were refused.
    fn traffic(&self) -> Vec<TcpStream> {
        let held = (0..3).map(|_| {
            let mut tcp = TcpStream::connect(self.entries[0]).unwrap();
            tcp.set_read_timeout(Some(DEADLINE)).unwrap();
            tcp.write_all(b"hello").unwrap();
            tcp.read_exact(&mut [0; 5]).unwrap();
            tcp
        });
        let held = held.collect();
        (0..6).for_each(|seed| echo_bytes(self.entries[0], 2000, seed).unwrap());
        for _ in 0..2 {
            let _ = read_all(&mut TcpStream::connect(self.entries[1]).unwrap());
        }
        self.api.reason("closed");
        self.api.reason("denied_by_default");
        held
    }
}

fn chromium() -> Option<Chromium> {
    let Some(program) = program("chromium") else {
        skipped("no chromium on PATH or in SIDEGATE_TEST_CHROMIUM");
        return None;
    };
    Some(Chromium::start(&program))
}

fn url(sidecar: &Sidecar) -> String {
    format!("http://{}/status", sidecar.admin)
}

/// Texts with too little contrast to what is behind them, by the formula of WCAG 2.2: 4.5 to 1 at least.
const CONTRAST: &str = r#"(() => {
  const parse = (color) => { const n = color.match(/[\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => { for (; node; node = node.parentElement) { const c = parse(getComputedStyle(node).backgroundColor); if (c[3] > 0) return c; } return [255, 255, 255, 1]; };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const poor = []; let checked = 0;
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    if (!text.data.trim() || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(node.tagName) || !node.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    checked++;
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(`${text.data.trim().slice(0, 40)}: ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
  }
  return { checked, poor };
})()"#;

/// A text of the page, for which a browser waits until it is shown.
fn shows(chromium: &mut Chromium, part: &str) {
    let text = Value::from(part);
    chromium.wait(&format!("document.body.innerText.includes({text})"));
}

#[test]
fn the_page_shows_what_is_so_and_what_to_do() {
    let Some(mut chromium) = chromium() else { return };
    let mesh = Mesh::start();
    let mut held = mesh.traffic();
    chromium.open(&url(&mesh.api), DESKTOP, "light");
    for part in [
        // What is wrong, and what an operator does about it.
        "Ready, serving: ",
        "denied_by_default: 2 connections in the last 5 minutes, peer spiffe://test.sidegate/other",
        "What to do: ",
        "Export of traces fails",
        // Identity, sources, connections, handshakes, rules, tunnels, exporters, audit log.
        &id("api"),
        "workload API unix://",
        "3 open",
        &id("web"),
        HOSTILE_RULE,
        "X25519MLKEM768",
        "Connections on a session that was there",
        "failing: ",
        "records written, 0 dropped",
    ] {
        shows(&mut chromium, part);
    }
    // Plots have points, and rates appear, once there is something to compare with.
    echo_bytes(mesh.entries[0], 2000, 9).unwrap();
    held[0].write_all(&[7; 4096]).unwrap();
    chromium.wait("document.querySelector('#plots polyline').getAttribute('points').includes(' ')");
    chromium
        .wait("[...document.querySelectorAll('#connections td:last-child')].some((td) => /^[\\d.]+ (B|KiB)\\/s$/.test(td.textContent))");

    // Light and dark, on a desktop and on a phone: enough contrast, and nothing to be scrolled for sideways.
    for (scheme, (width, height)) in [("light", DESKTOP), ("dark", DESKTOP), ("light", PHONE), ("dark", PHONE)] {
        chromium.look(width, height, scheme);
        chromium.value("document.querySelectorAll('details').forEach((details) => { details.open = true; })");
        let contrast = chromium.value(CONTRAST);
        assert!(contrast["checked"].as_u64().unwrap() > 100, "{contrast}");
        assert_eq!(contrast["poor"], serde_json::json!([]), "{scheme} {width}");
        let wide = chromium.value(
            "[document.documentElement.scrollWidth, [...document.querySelectorAll('body *')].filter((n) => n.checkVisibility() && !n.closest('thead, .skip') && n.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5).map((n) => n.outerHTML.slice(0, 80)), innerWidth]",
        );
        assert_eq!(wide, serde_json::json!([width, [], width]), "{scheme}");
        let dark = chromium.value("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 27)";
        assert_eq!(dark, scheme == "dark");
    }
    chromium.value("document.querySelectorAll('details').forEach((details) => { details.open = false; })");
    screenshots(&mut chromium);

    // Of a flood the latest are remembered, and the page says that there may have been more.
    for _ in 0..10 {
        let _ = read_all(&mut TcpStream::connect(mesh.entries[1]).unwrap());
    }
    shows(&mut chromium, "denied_by_default: at least 8 connections in the last 5 minutes");
    // What this sidecar can't have: a directory, and a bundle that has expired.
    let wrong = chromium.value(
        "attention({ ...data, refusals: [], status: { ...data.status, exports: [], directory: { addresses: 2, unavailable: 'gone' },
           identities: { ...data.status.identities, bundles: [{ trustDomain: 'other', authorities: 1, secondsLeft: -90 }] } } })
           .map(([isBad, what]) => `${isBad} ${what}`)",
    );
    assert_eq!(wrong, serde_json::json!(["true The bundle of other expired 90s ago", "false The directory can't be asked"]));
    // The moment of a refusal is its end; what is old has a date.
    let times = chromium.value(
        "[clock(endOf({ time: '2026-01-31T08:00:00Z', stages: { totalMicros: 61500000 } }), Date.parse('2026-01-31T09:00:00Z')),
          clock(Date.parse('2026-01-31T08:00:00Z'), Date.parse('2026-02-01T08:00:00Z'))]",
    );
    assert_eq!(times, serde_json::json!(["08:01:01 UTC", "2026-01-31 08:00 UTC"]));
    // A sidecar of another version has another page.
    chromium.value("window.mark = 1; data.status.version = 'another'");
    chromium.wait("typeof data === 'object' && data !== null && window.mark === undefined");
    // A mistake of the page is not told as silence of the sidecar.
    chromium.value("window.before = showVerdict; showVerdict = () => { throw new Error('a mistake'); }; 0");
    shows(&mut chromium, "This page has failed: Error: a mistake. What is below is from ");
    chromium.value("showVerdict = window.before; 0");

    // It says so when the sidecar is gone, and what is shown stays.
    chromium.wait("document.getElementById('stale').hidden");
    mesh.api.stop();
    shows(&mut chromium, "The sidecar does not answer. What is below is from ");
    shows(&mut chromium, &id("api"));
    mesh.api.signal(nix::sys::signal::Signal::SIGCONT);
    chromium.wait("document.getElementById('stale').hidden");
}

/// Every control can be reached, seen and used by the keyboard alone.
#[test]
fn the_keyboard_is_enough() {
    let Some(mut chromium) = chromium() else { return };
    let mesh = Mesh::start();
    let _held = mesh.traffic();
    chromium.open(&url(&mesh.api), DESKTOP, "light");
    shows(&mut chromium, "denied_by_default");
    let controls = "[...document.querySelectorAll('a[href], button, input, summary')].filter((n) => n.checkVisibility())";
    let count = chromium.value(&format!("{controls}.length")).as_u64().unwrap();
    assert!(count >= 4, "{count}");
    for index in 0..count {
        chromium.press("Tab", 9);
        let there = chromium.value(&format!("{controls}[{index}] === document.activeElement"));
        assert_eq!(there, true, "control {index} has no focus");
        let outline = chromium.value("getComputedStyle(document.activeElement).outlineStyle");
        assert_eq!(outline, "solid", "the focus of control {index} can't be seen");
    }
    // The last one shows the latest refusals of a reason, and keeps the focus while the page goes on.
    chromium.press("Enter", 13);
    let peer = serde_json::json!(id("other"));
    chromium.wait(&format!("document.activeElement.closest('details[open]')?.innerText.includes({peer}) ?? false"));
    chromium.value("window.before = document.getElementById('process').textContent");
    chromium.wait("document.getElementById('process').textContent !== window.before");
    assert_eq!(chromium.value("document.activeElement.tagName"), "SUMMARY");
    // The filter leaves what fits; the button stops the updates.
    chromium.value("document.getElementById('filter').focus()");
    chromium.call("Input.insertText", serde_json::json!({ "text": "nobody" }));
    chromium.wait("document.querySelectorAll('#connections tbody tr').length === 0");
    chromium.press("Tab", 9);
    chromium.press("Enter", 13);
    chromium.wait("document.activeElement.textContent.startsWith('Go on')");
    // Screen readers are told of parts, changes and tables.
    for selector in ["header", "main", "footer", "[role=search]", "h2[role=status]", "[role=alert]", "html[lang=en]", "label[for=filter]"] {
        assert_eq!(chromium.value(&format!("document.querySelectorAll('{selector}').length")), 1, "{selector}");
    }
    assert_eq!(
        chromium
            .value("[...document.querySelectorAll('section')].every((s) => document.getElementById(s.getAttribute('aria-labelledby')))"),
        true
    );
}

/// What peers and operators call themselves stays text, and nothing but the page's own script runs.
#[test]
fn names_become_no_markup_and_no_other_script_runs() {
    let Some(mut chromium) = chromium() else { return };
    let mesh = Mesh::start();
    let _held = mesh.traffic();
    mesh.other.record("a refusal", |r| r["reason"] != "closed");
    for (sidecar, name) in [(&mesh.api, HOSTILE_RULE), (&mesh.other, HOSTILE_NAME), (&mesh.web, HOSTILE_NAME)] {
        chromium.open(&url(sidecar), DESKTOP, "light");
        chromium.value("document.querySelectorAll('details').forEach((details) => { details.open = true; })");
        shows(&mut chromium, name);
        assert_eq!(
            chromium.value("[document.images.length, document.scripts.length, window.hacked ?? null]"),
            serde_json::json!([0, 1, null])
        );
    }
    let messages = |chromium: &Chromium| {
        let is_complaint = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            // A poll that a busy machine lets fail is logged too, as of the network.
            Some("Log.entryAdded") => event["params"]["entry"]["source"] == "security",
            _ => false,
        };
        chromium.events.iter().filter(is_complaint).cloned().collect::<Vec<_>>()
    };
    assert_eq!(messages(&chromium), Vec::<Value>::new());
    // Every request went to the sidecars themselves.
    let requests = chromium.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
    let urls: Vec<&str> = requests.map(|event| event["params"]["request"]["url"].as_str().unwrap()).collect();
    let own = [&mesh.api, &mesh.other, &mesh.web].map(url);
    let is_own = |url: &str| own.iter().any(|own| url == own || url == format!("{own}/data")) || url == "data:,";
    assert!(urls.len() >= 6 && urls.iter().all(|url| is_own(url)), "{urls:#?}");
    // If markup came through after all, the browser would still run nothing of it, and ask nobody else.
    let injected = chromium.value(
        "new Promise((done) => { const seen = []; document.addEventListener('securitypolicyviolation', (e) => { seen.push(e.effectiveDirective); if (seen.length === 5) done(seen.sort()); });
         const script = document.createElement('script'); script.textContent = 'window.hacked = 3'; document.body.append(script);
         const image = document.createElement('img'); image.src = 'http://127.0.0.1:9/x'; image.setAttribute('onerror', 'window.hacked = 4'); document.body.append(image);
         const style = document.createElement('style'); style.textContent = '* { color: red }'; document.body.append(style);
         fetch('http://127.0.0.1:9/x').catch(() => {});
         setTimeout(() => done(seen.sort()), 10000); })",
    );
    assert_eq!(injected, serde_json::json!(["connect-src", "img-src", "script-src-attr", "script-src-elem", "style-src-elem"]));
    assert_eq!(chromium.value("window.hacked ?? null"), Value::Null);
}

/// No browser is needed for what the server refuses.
#[test]
fn only_those_who_may_see_the_page_do() {
    let echo = Echo::start();
    let identities = Identities::start(&["web", "api"], HOUR);
    let port = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let config = server_config(&identities, port, echo.address);
    let named = "admin: { listen: '127.0.0.1:{admin}', socket: '{folder}/{name}.sock2', statusPage: { names: [side.example] } }\n";
    let api = Sidecar::start(identities.folder(), "api", &format!("{config}{named}"));
    api.wait_ready();
    let ask = |sidecar: &Sidecar, request: &str| {
        let mut tcp = TcpStream::connect(sidecar.admin).unwrap();
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        tcp.write_all(format!("{request}\r\n\r\n").as_bytes()).unwrap();
        String::from_utf8(read_all(&mut tcp).unwrap()).unwrap()
    };
    for path in ["/", "/status", "/status/data"] {
        for host in ["127.0.0.1:15020", "[::1]", "localhost:1", "side.example:15020"] {
            let answer = ask(&api, &format!("GET {path} HTTP/1.1\r\nHost: {host}"));
            assert!(answer.starts_with(if path == "/" { "HTTP/1.1 307" } else { "HTTP/1.1 200" }), "{path} {host} {answer}");
        }
        for head in ["Host: evil.example", "Host: localhost\r\nHost: evil.example", "Host: ", "X: y"] {
            let answer = ask(&api, &format!("GET {path} HTTP/1.1\r\n{head}"));
            assert!(!answer.contains("spiffe") && !answer.starts_with("HTTP/1.1 200"), "{path} {head} {answer}");
        }
        let answer = ask(&api, &format!("GET http://evil.example{path} HTTP/1.1\r\nHost: localhost"));
        assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
        assert!(ask(&api, &format!("POST {path} HTTP/1.1\r\nHost: localhost")).starts_with("HTTP/1.1 405"));
    }
    // A probe is answered by whatever name it asks.
    assert!(ask(&api, "GET /livez HTTP/1.1\r\nHost: evil.example").starts_with("HTTP/1.1 200"));
    let head = ask(&api, "HEAD /status HTTP/1.1\r\nHost: localhost").to_lowercase();
    for header in [
        "content-security-policy: default-src 'none'; script-src 'sha256-",
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
        "content-type: text/html; charset=utf-8",
    ] {
        assert!(head.contains(header), "{header}\n{head}");
    }
    // Clients on loopback see it wherever it listens, as `kubectl port-forward` does in a pod; others only if it says so. Off is off.
    let outside = outside();
    for (page, inside, beyond) in [
        ("listen: '0.0.0.0:{admin}'", "200", "404"),
        ("listen: '[::]:{admin}'", "200", "404"),
        ("listen: '0.0.0.0:{admin}', statusPage: { serve: on, reason: 'a test' }", "200", "200"),
        ("listen: '0.0.0.0:{admin}', statusPage: { serve: off }", "404", "404"),
    ] {
        let sidecar = Sidecar::start(identities.folder(), "web", &format!("{config}admin: {{ {page}, socket: null }}\n"));
        eventually("the admin port", || sidecar.ask("/livez"));
        for path in ["/status", "/status/data"] {
            let status = |address: IpAddr| {
                let mut tcp = TcpStream::connect((address, sidecar.admin.port())).unwrap();
                tcp.set_read_timeout(Some(DEADLINE)).unwrap();
                tcp.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
                String::from_utf8(read_all(&mut tcp).unwrap()).unwrap().split(' ').nth(1).unwrap().to_owned()
            };
            assert_eq!(status(Ipv4Addr::LOCALHOST.into()), inside, "{page} {path}");
            if let Some(address) = outside {
                assert_eq!(status(address), beyond, "{page} {path}");
            }
        }
    }
}

/// An address of this machine that is not loopback; a client that asks it has it too. No packet is sent.
fn outside() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let address = socket.connect(("192.0.2.1", 9)).and_then(|()| socket.local_addr()).ok().map(|address| address.ip());
    if address.is_none() {
        skipped("this machine has only loopback: nobody asks from beyond it");
    }
    address
}

/// The pictures in docs/how-to/status-page.md are of this very page.
fn screenshots(chromium: &mut Chromium) {
    if std::env::var_os("UPDATE").is_none() {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/images");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, scheme, (width, height)) in [("light", "light", DESKTOP), ("dark", "dark", DESKTOP), ("phone", "light", PHONE)] {
        chromium.look(width, height, scheme);
        chromium.value("scrollTo(0, 0)");
        let png = base64::engine::general_purpose::STANDARD.decode(chromium.screenshot()).unwrap();
        assert!(png.len() < 150 * 1024, "{name}: {}", png.len());
        std::fs::write(folder.join(format!("status-{name}.png")), png).unwrap();
    }
}
