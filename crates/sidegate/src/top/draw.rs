//! How `sidegate top` looks. Colours only repeat what the words say.

use std::time::{Duration, SystemTime};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState, Wrap};
use sidegate_admin::{Keep, expires, shortened, span, v1};
use sidegate_core::{Reason, counted, without_controls};

use super::view::{Open, Refusal, Tab, View, explanation};

/// The colours, if there are any.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn of(self, colour: Color) -> Style {
        if self.0 { Style::new().fg(colour).add_modifier(Modifier::BOLD) } else { Style::new().add_modifier(Modifier::BOLD) }
    }
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

const DAY: Duration = Duration::from_secs(86_400);

/// Draws all of it. Returns how far its paragraph can be scrolled.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View, coloured: bool) -> usize {
    let paint = Paint(coloured);
    let [head, tabs, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(2), Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(head_line(view, paint, usize::from(head.width)), head);
    frame.render_widget(Text::from(vec![tab_line(view), notice_line(view, paint)]), tabs);
    frame.render_widget(foot_line(view), foot);
    let text = match view.tab {
        Tab::Connections if view.detailed => view.detailed_connection().map_or_else(|| gone(view), connection),
        Tab::Refusals if view.detailed => {
            view.detailed_refusal().map_or_else(|| "This refusal is no longer remembered: others came after it.".into(), refused)
        }
        Tab::Identity => identity(&view.status, paint),
        Tab::Connections => {
            connections(frame, body, view);
            return 0;
        }
        Tab::Refusals => {
            refusals(frame, body, view, paint);
            return 0;
        }
        Tab::Tunnels => {
            tunnels(frame, body, &view.activity);
            return 0;
        }
    };
    paragraph(frame, body, text, view.scroll)
}

/// The connection of which all was shown is not there any more.
fn gone(view: &View) -> Text<'static> {
    let or = if view.not_shown() > 0 { ", or is too old to be shown here" } else { "" };
    format!("This connection has ended{or}.").into()
}

/// Whose sidecar it is, and how it is.
fn head_line(view: &View, paint: Paint, width: usize) -> Line<'static> {
    let status = &view.status;
    let svid = status.identities.as_ref().and_then(|identities| identities.svid.as_ref());
    let (state, colour) = if status.ready { ("ready", Color::Green) } else { ("NOT READY", Color::Red) };
    let mut right = vec![Span::styled(state, paint.of(colour)), Span::raw(format!(", {}", without_controls(&status.phase)))];
    match svid {
        Some(svid) if svid.seconds_left < 0 => right.push(Span::styled(" EXPIRED", paint.of(Color::Red))),
        Some(svid) => right.push(Span::raw(format!(", expires in {}", span(svid.seconds_left)))),
        None => {}
    }
    if view.silence.is_some() {
        let seconds = i64::try_from(view.answered.elapsed().as_secs()).unwrap_or(i64::MAX);
        right.push(Span::styled(format!(" NO ANSWER for {}", span(seconds)), paint.of(Color::Red)));
    }
    let taken: usize = right.iter().map(Span::width).sum();
    let id = svid.map_or_else(|| "no identity".to_owned(), |svid| without_controls(&svid.spiffe_id));
    let id = shortened(&id, width.saturating_sub(taken + 2), Keep::End);
    Line::from([vec![Span::styled(id, BOLD), Span::raw("  ")], right].concat())
}

fn tab_line(view: &View) -> Line<'static> {
    let name = |tab: Tab| match tab {
        Tab::Connections => format!(" 1 Connections {} ", view.open),
        Tab::Refusals => format!(" 2 Refusals {} ", view.refusals().len()),
        Tab::Identity => " 3 Identity ".to_owned(),
        Tab::Tunnels => " 4 Tunnels ".to_owned(),
    };
    let style = |tab| if tab == view.tab { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
    Line::from(Tab::ALL.map(|tab| Span::styled(name(tab), style(tab))).to_vec())
}

/// What is missing in what is shown.
fn notice_line(view: &View, paint: Paint) -> Line<'static> {
    let mut spans = Vec::new();
    if let Some(why) = &view.silence {
        spans.push(Span::styled(format!(" no answer: {why}  "), paint.of(Color::Red)));
    }
    if view.not_shown() > 0 && view.tab == Tab::Connections {
        spans.push(Span::raw(format!(" {} not shown: the oldest", view.not_shown())));
    }
    Line::from(spans)
}

fn foot_line(view: &View) -> Line<'static> {
    if view.typing {
        return Line::from(format!("/{}_   Enter: keep  Esc: clear", view.filter));
    }
    let filter = if view.filter.is_empty() { String::new() } else { format!("filter: {}  ", view.filter) };
    let order = if view.reversed { ", reversed" } else { "" };
    let missed = if view.missed > 0 { format!("{} missed  ", counted(view.missed, "end")) } else { String::new() };
    let keys = match view.tab {
        _ if view.detailed => "arrows scroll  Esc back  q quit".to_owned(),
        Tab::Connections => format!("by {}{order}  s sort  r reverse  / filter  Enter all of it  q quit", view.sort.label()),
        Tab::Refusals => "r reverse  / filter  Enter why and what to do  q quit".to_owned(),
        Tab::Identity => "arrows scroll  Tab next  q quit".to_owned(),
        Tab::Tunnels => "Tab next  q quit".to_owned(),
    };
    Line::from(format!("{filter}{missed}{keys}"))
}

/// Draws a text below `scroll` of its lines. Returns how far it can be scrolled.
fn paragraph(frame: &mut Frame<'_>, area: Rect, text: Text<'static>, scroll: usize) -> usize {
    let paragraph = Paragraph::new(text).wrap(Wrap { trim: false });
    let furthest = paragraph.line_count(area.width).saturating_sub(area.height.into());
    let above = u16::try_from(scroll.min(furthest)).unwrap_or(u16::MAX);
    frame.render_widget(paragraph.scroll((above, 0)), area);
    furthest
}

/// A column: its head, its width (none for what is left), and whether it is a number.
type Column = (&'static str, Option<u16>, bool);

/// A table of which the column without a width gets what the others leave; its cells keep their end.
fn table(frame: &mut Frame<'_>, area: Rect, columns: &[Column], rows: Vec<Vec<String>>, selected: Option<usize>) {
    let taken: u16 = columns.iter().map(|(_, width, _)| width.unwrap_or(0) + 1).sum::<u16>().saturating_sub(1);
    let rest = usize::from(area.width.saturating_sub(taken));
    let cell = |text: String, (_, width, is_number): &Column| {
        let text = shortened(&text, width.map_or(rest, usize::from), if width.is_none() { Keep::End } else { Keep::Start });
        Cell::from(if *is_number { Line::from(text).right_aligned() } else { Line::from(text) })
    };
    let row = |texts: Vec<String>| Row::new(texts.into_iter().zip(columns).map(|(text, column)| cell(text, column)));
    let head = row(columns.iter().map(|(head, ..)| (*head).to_owned()).collect()).style(BOLD);
    let widths = columns.iter().map(|(_, width, _)| width.map_or(Constraint::Fill(1), Constraint::Length));
    let shown =
        Table::new(rows.into_iter().map(row), widths).header(head).row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(shown, area, &mut TableState::default().with_selected(selected));
}

fn connections(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let open = view.connections();
    if open.is_empty() {
        let none = if view.filter.is_empty() { "No open connection." } else { "No connection fits the filter." };
        return frame.render_widget(none, area);
    }
    let columns: &[Column] = match area.width {
        0..60 => &[("DIR", Some(3), false), ("PEER", None, false), ("AGE", Some(6), true)],
        60..100 => {
            &[("DIR", Some(3), false), ("PEER", None, false), ("TO", Some(21), false), ("AGE", Some(6), true), ("RATE", Some(10), true)]
        }
        _ => &[
            ("DIR", Some(3), false),
            ("PEER", None, false),
            ("FROM", Some(21), false),
            ("TO", Some(21), false),
            ("AGE", Some(6), true),
            ("RATE", Some(10), true),
            ("BYTES", Some(10), true),
        ],
    };
    let text = |open: &Open, head: &str| match head {
        "DIR" => direction(&open.direction),
        "PEER" if open.admitted && open.peer == "-" => open.transport.clone(),
        "PEER" if !open.admitted => "opening".to_owned(),
        "PEER" => open.peer.clone(),
        "FROM" => open.from.clone(),
        "TO" => open.to.clone(),
        "AGE" => age(open),
        "RATE" => open.rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", bytes(rate))),
        _ => bytes(open.up + open.down),
    };
    let rows = open.iter().map(|open| columns.iter().map(|(head, ..)| text(open, head)).collect()).collect();
    table(frame, area, columns, rows, view.selected());
}

fn refusals(frame: &mut Frame<'_>, area: Rect, view: &View, paint: Paint) {
    let (all, selected) = (view.refusals(), view.selected());
    let Some(refusal) = selected.and_then(|at| all.get(at)) else {
        let none = if view.filter.is_empty() { "Nothing was refused since this began." } else { "No refusal fits the filter." };
        return frame.render_widget(none, area);
    };
    let [list, why] = Layout::vertical([Constraint::Min(3), Constraint::Length(6)]).areas(area);
    let columns: &[Column] = if area.width < 60 {
        &[("TIME (UTC)", Some(10), false), ("REASON", Some(20), false), ("PEER", None, false)]
    } else {
        &[("TIME (UTC)", Some(10), false), ("DIR", Some(3), false), ("REASON", Some(26), false), ("PEER", None, false)]
    };
    let now = SystemTime::now();
    let text = |refusal: &Refusal, head: &str| match head {
        "TIME (UTC)" => moment(refusal, now),
        "DIR" => direction(&refusal.direction),
        "REASON" => refusal.reason.clone(),
        _ => refusal.peer.clone(),
    };
    let rows = all.iter().map(|refusal| columns.iter().map(|(head, ..)| text(refusal, head)).collect()).collect();
    table(frame, list, columns, rows, selected);
    // The answer to the question that follows is there without a key.
    let known = explanation(&refusal.reason);
    let meaning = known.map_or("This reason is not known here.", Reason::meaning);
    let todo = known.map_or(String::new(), |reason| reason.remedy().to_owned());
    let lines = vec![Line::styled(meaning, paint.of(Color::Yellow)), Line::from(format!("What to do: {todo}"))];
    paragraph(frame, why, lines.into(), 0);
}

/// When it was refused or failed, in UTC: the time of day; the date if that was more than a day ago.
fn moment(refusal: &Refusal, now: SystemTime) -> String {
    let is_old = refusal.ended.and_then(|ended| now.duration_since(ended).ok()).is_some_and(|age| age >= DAY);
    // Of an RFC 3339 time.
    refusal.time.get(if is_old { 0..10 } else { 11..19 }).unwrap_or("-").to_owned()
}

fn tunnels(frame: &mut Frame<'_>, area: Rect, activity: &v1::Activity) {
    let columns: &[Column] =
        &[("DIRECTION", None, false), ("WAITING", Some(8), true), ("NEW SESSION", Some(12), true), ("REUSED", Some(12), true)];
    let row = |one: &v1::Tunnels| vec![without_controls(&one.direction), one.idle.to_string(), one.new.to_string(), one.reused.to_string()];
    table(frame, area, columns, activity.tunnels.iter().map(row).collect(), None);
}

/// All that is known of an open connection.
fn connection(open: &Open) -> Text<'static> {
    let state = if open.admitted { "open" } else { "opening" };
    facts(&[
        ("connection", open.id.clone()),
        ("state", format!("{state}, {} for {}, since {}", open.direction, age(open), open.since)),
        ("from", open.from.clone()),
        ("to", open.to.clone()),
        ("peer", open.peer.clone()),
        ("transport", open.transport.clone()),
        ("rule", open.rule.clone()),
        ("up", format!("{} ({})", bytes(open.up), open.up)),
        ("down", format!("{} ({})", bytes(open.down), open.down)),
        ("rate", open.rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", bytes(rate)))),
        ("", format!("sidegate cut {} resets it", open.id)),
    ])
}

/// Why a connection was refused, and what to do.
fn refused(refusal: &Refusal) -> Text<'static> {
    let known = explanation(&refusal.reason);
    let of = |text: Option<&'static str>| text.unwrap_or("not known here").to_owned();
    let mut all = vec![
        ("reason", refusal.reason.clone()),
        ("meaning", of(known.map(Reason::meaning))),
        ("cause", of(known.map(Reason::cause))),
        ("what to do", of(known.map(Reason::remedy))),
        ("time", refusal.time.clone()),
        ("peer", refusal.peer.clone()),
        ("direction", refusal.direction.clone()),
        ("from", refusal.from.clone()),
        ("to", refusal.to.clone()),
        ("detail", refusal.detail.clone()),
        ("rule", refusal.rule.clone()),
    ];
    all.extend(refusal.nearest.iter().map(|near| ("nearest", near.clone())));
    facts(&all)
}

fn identity(status: &v1::Status, paint: Paint) -> Text<'static> {
    let identities = status.identities.clone().unwrap_or_default();
    // What is wrong comes first.
    let mut all: Vec<(&str, String)> = status.missing.iter().map(|line| ("missing", line.clone())).collect();
    let (healthy, troubled): (Vec<_>, Vec<_>) = identities.sources.iter().partition(|source| source.healthy);
    all.extend(troubled.iter().map(|source| ("source", format!("{}: TROUBLE: {}", source.name, source.message))));
    for load in &status.loads {
        all.extend(load.refused.iter().map(|refusal| ("refused", format!("{}: {}", load.subject, refusal.why))));
    }
    match &identities.svid {
        Some(svid) => {
            let until = svid.not_after.as_ref().map_or_else(String::new, |until| format!(", at {until}"));
            all.push(("identity", svid.spiffe_id.clone()));
            all.push(("", format!("{}{until}, {} so far", expires(svid.seconds_left), counted(identities.rotations, "rotation"))));
            all.push(("serial", svid.serial.clone()));
        }
        None => all.push(("identity", "none".to_owned())),
    }
    for bundle in &identities.bundles {
        let authorities = counted(bundle.authorities.into(), "CA");
        all.push(("bundle", format!("{}: {authorities}, the last {}", bundle.trust_domain, expires(bundle.seconds_left))));
    }
    all.extend(healthy.iter().map(|source| ("source", format!("{}: {}", source.name, source.message))));
    if let Some(directory) = &status.directory {
        let health = directory.unavailable.as_ref().map_or_else(String::new, |why| format!("; UNAVAILABLE: {why}"));
        all.push(("directory", format!("{} known{health}", counted(directory.addresses, "address"))));
    }
    let mut text = facts(&all);
    for line in &mut text.lines {
        if ["TROUBLE", "EXPIRED", "UNAVAILABLE"].iter().any(|word| line.to_string().contains(word)) {
            *line = std::mem::take(line).style(paint.of(Color::Red));
        }
    }
    text
}

/// Names and values, one a line.
fn facts(facts: &[(&str, String)]) -> Text<'static> {
    let line =
        |(name, value): &(&str, String)| Line::from(vec![Span::styled(format!("{name:<12}"), BOLD), Span::raw(without_controls(value))]);
    facts.iter().map(line).collect::<Vec<_>>().into()
}

fn direction(direction: &str) -> String {
    match direction {
        "inbound" => "in".to_owned(),
        "outbound" => "out".to_owned(),
        other => other.to_owned(),
    }
}

fn age(open: &Open) -> String {
    span(i64::try_from(open.age.as_secs()).unwrap_or(i64::MAX))
}

/// A number of bytes in at most eight characters.
#[allow(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    let mut size = count as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_identity_comes_first() {
        let source = |name: &str, healthy| v1::Source { name: name.to_owned(), healthy, message: "m".to_owned() };
        let refused = v1::Refusal { why: "bad".to_owned(), ..v1::Refusal::default() };
        let status = v1::Status {
            missing: vec!["no policy".to_owned()],
            identities: Some(v1::Identities {
                svid: Some(v1::Svid { spiffe_id: "spiffe://a/b".to_owned(), seconds_left: -60, ..v1::Svid::default() }),
                bundles: vec![v1::Bundle { trust_domain: "a".to_owned(), authorities: 1, seconds_left: -61, not_after: None }],
                sources: vec![source("good", true), source("poor", false)],
                rotations: 1,
            }),
            loads: vec![v1::Load { subject: "policy".to_owned(), refused: vec![refused], ..v1::Load::default() }],
            directory: Some(v1::Directory { addresses: 2, unavailable: Some("gone".to_owned()) }),
            ..v1::Status::default()
        };
        let lines: Vec<String> = identity(&status, Paint(false)).lines.iter().map(ToString::to_string).collect();
        let expected = [
            "missing     no policy",
            "source      poor: TROUBLE: m",
            "refused     policy: bad",
            "identity    spiffe://a/b",
            "            EXPIRED 60s ago, 1 rotation so far",
            "serial      ",
            "bundle      a: 1 CA, the last EXPIRED 61s ago",
            "source      good: m",
            "directory   2 addresses known; UNAVAILABLE: gone",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn an_old_refusal_has_a_date() {
        let at = |time: &str| humantime::parse_rfc3339(time).unwrap();
        let time = "2026-01-31T08:01:01.500Z";
        let mut refusal = Refusal::default();
        (refusal.time, refusal.ended) = (time.to_owned(), Some(at(time)));
        assert_eq!(moment(&refusal, at("2026-02-01T08:00:00Z")), "08:01:01");
        assert_eq!(moment(&refusal, at("2026-02-01T09:00:00Z")), "2026-01-31");
    }

    #[test]
    fn bytes_are_short() {
        let shown = [0, 1023, 1024, 1_023_999, 1_330_000, u64::from(u32::MAX)].map(bytes);
        assert_eq!(shown, ["0B", "1023B", "1.0KiB", "1000.0KiB", "1.3MiB", "4.0GiB"].map(str::to_owned));
    }
}
