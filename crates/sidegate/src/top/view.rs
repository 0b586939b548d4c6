//! What `sidegate top` shows, and what keys change of it. No input or output.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::Value;
use sidegate_admin::v1;
use sidegate_core::{Reason, without_controls};

/// As many refusals are remembered.
const REFUSALS: usize = 500;
/// How far a page goes.
const PAGE: isize = 10;

/// One round of questions.
pub(super) struct Answer {
    pub(super) status: v1::Status,
    pub(super) activity: v1::Activity,
    pub(super) listed: v1::ListConnectionsResponse,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Connections,
    Refusals,
    Identity,
    Tunnels,
}

impl Tab {
    pub(super) const ALL: [Self; 4] = [Self::Connections, Self::Refusals, Self::Identity, Self::Tunnels];
}

/// By what connections are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Age,
    Rate,
    Bytes,
    Peer,
}

impl Sort {
    fn next(self) -> Self {
        match self {
            Self::Age => Self::Rate,
            Self::Rate => Self::Bytes,
            Self::Bytes => Self::Peer,
            Self::Peer => Self::Age,
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Rate => "rate",
            Self::Bytes => "bytes",
            Self::Peer => "peer",
        }
    }
}

/// Whether to go on after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    GoOn,
    Quit,
}

/// An open connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Open {
    key: String,
    pub(super) id: String,
    pub(super) since: String,
    pub(super) age: Duration,
    pub(super) direction: String,
    pub(super) admitted: bool,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) peer: String,
    pub(super) transport: String,
    pub(super) rule: String,
    pub(super) up: u64,
    pub(super) down: u64,
    /// Bytes a second; none before there are two answers.
    pub(super) rate: Option<u64>,
}

/// A connection that was refused or failed.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusal {
    key: String,
    json: String,
    /// When it was refused or failed, RFC 3339.
    pub(super) time: String,
    pub(super) ended: Option<SystemTime>,
    pub(super) direction: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) peer: String,
    pub(super) reason: String,
    pub(super) detail: String,
    pub(super) rule: String,
    pub(super) nearest: Vec<String>,
}

/// All that is shown.
pub(super) struct View {
    pub(super) tab: Tab,
    pub(super) status: v1::Status,
    pub(super) activity: v1::Activity,
    /// How many are open, shown or not.
    pub(super) open: u64,
    connections: Vec<Open>,
    /// The newest first.
    refusals: VecDeque<Refusal>,
    /// How many refusals there have been, to tell them apart.
    count: u64,
    pub(super) missed: u64,
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    pub(super) filter: String,
    /// Whether the filter is being typed.
    pub(super) typing: bool,
    /// Whether all of the selected one is shown.
    pub(super) detailed: bool,
    /// The selected one, in each list, and where it was last.
    selected: [(String, usize); 2],
    /// How many lines of a paragraph are above what is shown, and how many can be.
    pub(super) scroll: usize,
    furthest: usize,
    /// Why there is no answer any more.
    pub(super) silence: Option<String>,
    moved: HashMap<String, u64>,
    /// When there was the last answer.
    pub(super) answered: Instant,
}

impl View {
    pub(super) fn new(mut answer: Answer) -> Self {
        let latest = answer.activity.latest.take().unwrap_or_default();
        let mut view = Self {
            tab: Tab::Connections,
            status: v1::Status::default(),
            activity: v1::Activity::default(),
            open: 0,
            connections: Vec::new(),
            refusals: VecDeque::new(),
            count: 0,
            missed: 0,
            sort: Sort::Age,
            reversed: false,
            filter: String::new(),
            typing: false,
            detailed: false,
            selected: Default::default(),
            scroll: 0,
            furthest: 0,
            silence: None,
            moved: HashMap::new(),
            answered: Instant::now(),
        };
        latest.refusals.iter().rev().for_each(|ended| view.ended(ended));
        view.take(answer);
        view
    }

    /// Takes an answer.
    pub(super) fn take(&mut self, answer: Answer) {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let seconds = now.duration_since(self.answered).as_secs_f64();
        let connections = answer.listed.connections.iter().map(|connection| {
            let mut open = Open::of(connection, wall);
            open.rate = self.moved.get(&open.key).map(|before| rate((open.up + open.down).saturating_sub(*before), seconds));
            open
        });
        self.connections = connections.collect();
        self.moved = self.connections.iter().map(|open| (open.key.clone(), open.up + open.down)).collect();
        self.answered = now;
        self.silence = None;
        self.open = answer.listed.open;
        self.status = answer.status;
        self.activity = answer.activity;
    }

    /// There was no answer.
    pub(super) fn unanswered(&mut self, why: &str) {
        self.silence = Some(without_controls(why));
    }

    /// Takes the end of a connection, if something went wrong.
    pub(super) fn ended(&mut self, ended: &v1::EndedConnection) {
        // What the stream has told may be among the latest, too.
        if self.refusals.iter().take(64).any(|known| known.json == ended.json) {
            return;
        }
        let Some(mut refusal) = Refusal::of(ended) else { return };
        self.count += 1;
        refusal.key = self.count.to_string();
        self.refusals.truncate(REFUSALS - 1);
        self.refusals.push_front(refusal);
    }

    /// Too many ends came faster than they were read.
    pub(super) fn missed(&mut self, count: u64) {
        self.missed += count;
    }

    /// How many open connections are older than those that are known.
    pub(super) fn not_shown(&self) -> u64 {
        self.open.saturating_sub(self.connections.len() as u64)
    }

    /// The connection of which all is shown; none if it has ended. It is never another one: what is said of it could be obeyed.
    pub(super) fn detailed_connection(&self) -> Option<&Open> {
        let (key, _) = self.selected.get(Tab::Connections as usize)?;
        self.connections.iter().find(|open| open.key == *key)
    }

    /// The refusal of which all is shown; none if it is not remembered any more.
    pub(super) fn detailed_refusal(&self) -> Option<&Refusal> {
        let (key, _) = self.selected.get(Tab::Refusals as usize)?;
        self.refusals.iter().find(|refusal| refusal.key == *key)
    }

    /// A paragraph can be scrolled this far.
    pub(super) fn drawn(&mut self, furthest: usize) {
        self.furthest = furthest;
        self.scroll = self.scroll.min(furthest);
    }

    /// The open connections that fit the filter, sorted.
    pub(super) fn connections(&self) -> Vec<&Open> {
        let mut fit: Vec<&Open> =
            self.connections.iter().filter(|open| self.fits(&[&open.peer, &open.from, &open.to, &open.rule, &open.direction])).collect();
        match self.sort {
            Sort::Age => fit.sort_by_key(|open| open.age),
            Sort::Rate => fit.sort_by_key(|open| Reverse(open.rate)),
            Sort::Bytes => fit.sort_by_key(|open| Reverse(open.up + open.down)),
            Sort::Peer => fit.sort_by(|a, b| a.peer.cmp(&b.peer)),
        }
        if self.reversed {
            fit.reverse();
        }
        fit
    }

    /// The refusals that fit the filter, the newest first.
    pub(super) fn refusals(&self) -> Vec<&Refusal> {
        let mut fit: Vec<&Refusal> = self.refusals.iter().filter(|r| self.fits(&[&r.peer, &r.reason, &r.from, &r.to, &r.rule])).collect();
        if self.reversed {
            fit.reverse();
        }
        fit
    }

    fn fits(&self, texts: &[&String]) -> bool {
        let wanted = self.filter.to_lowercase();
        wanted.is_empty() || texts.iter().any(|text| text.to_lowercase().contains(&wanted))
    }

    fn keys(&self) -> Vec<&str> {
        match self.tab {
            Tab::Connections => self.connections().iter().map(|open| open.key.as_str()).collect(),
            Tab::Refusals => self.refusals().iter().map(|refusal| refusal.key.as_str()).collect(),
            Tab::Identity | Tab::Tunnels => Vec::new(),
        }
    }

    /// Which of the list is selected. It is the same one, wherever it moves; when it goes, the one in its place.
    pub(super) fn selected(&self) -> Option<usize> {
        let keys = self.keys();
        let (key, place) = self.selected.get(self.tab as usize)?;
        let last = keys.len().checked_sub(1)?;
        Some(keys.iter().position(|known| known == key).unwrap_or((*place).min(last)))
    }

    /// Moves the selection, or a paragraph where there is no list.
    fn go(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        if self.detailed || self.tab == Tab::Identity {
            self.scroll = to(self.scroll, self.furthest).min(self.furthest);
        } else {
            self.select(to);
        }
    }

    fn select(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        let keys = self.keys();
        let (Some(now), Some(last)) = (self.selected(), keys.len().checked_sub(1)) else { return };
        let place = to(now, last).min(last);
        let Some(key) = keys.get(place).map(|key| (*key).to_owned()) else { return };
        if let Some(selected) = self.selected.get_mut(self.tab as usize) {
            *selected = (key, place);
        }
    }

    /// Does what a key asks for.
    pub(super) fn key(&mut self, key: KeyEvent) -> Step {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Step::Quit } else { Step::GoOn };
        }
        if self.typing {
            self.typed(key.code);
            return Step::GoOn;
        }
        match key.code {
            KeyCode::Char('q') => return Step::Quit,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char(digit @ '1'..='4') => self.show(Tab::ALL[usize::from(digit as u8 - b'1')]),
            KeyCode::Tab | KeyCode::Right => self.show(Tab::ALL[(self.tab as usize + 1) % Tab::ALL.len()]),
            KeyCode::BackTab | KeyCode::Left => self.show(Tab::ALL[(self.tab as usize + Tab::ALL.len() - 1) % Tab::ALL.len()]),
            KeyCode::Down | KeyCode::Char('j') => self.go(|now, _| now + 1),
            KeyCode::Up | KeyCode::Char('k') => self.go(|now, _| now.saturating_sub(1)),
            KeyCode::PageDown => self.go(|now, _| now.saturating_add_signed(PAGE)),
            KeyCode::PageUp => self.go(|now, _| now.saturating_add_signed(-PAGE)),
            KeyCode::Home => self.go(|_, _| 0),
            KeyCode::End => self.go(|_, last| last),
            KeyCode::Enter => {
                self.scroll = 0;
                if self.detailed {
                    self.detailed = false;
                } else {
                    // Held on to, since the list goes on to move.
                    self.select(|now, _| now);
                    self.detailed = self.selected().is_some();
                }
            }
            KeyCode::Esc if self.detailed => self.detailed = false,
            KeyCode::Esc => self.filter.clear(),
            _ => {}
        }
        Step::GoOn
    }

    fn typed(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if !c.is_control() && self.filter.chars().count() < 64 => self.filter.push(c),
            _ => {}
        }
    }

    fn show(&mut self, tab: Tab) {
        self.tab = tab;
        self.detailed = false;
        self.scroll = 0;
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a measure, never negative")]
fn rate(bytes: u64, seconds: f64) -> u64 {
    if seconds > 0.0 { (bytes as f64 / seconds) as u64 } else { 0 }
}

/// A text of others, as a terminal may show it; `-` for none.
fn shown(text: Option<&str>) -> String {
    without_controls(text.filter(|text| !text.is_empty()).unwrap_or("-"))
}

impl Open {
    fn of(connection: &v1::Connection, now: SystemTime) -> Self {
        let since = humantime::parse_rfc3339(&connection.time).ok();
        Self {
            key: format!("{} {} {}", connection.direction, connection.downstream, connection.connection_id),
            id: shown(Some(&connection.connection_id)),
            since: shown(Some(&connection.time)),
            age: since.and_then(|since| now.duration_since(since).ok()).unwrap_or_default(),
            direction: shown(Some(&connection.direction)),
            admitted: connection.admitted,
            from: shown(Some(&connection.downstream)),
            to: shown(connection.original_destination.as_deref()),
            peer: shown(connection.peer_id.as_deref()),
            transport: shown(connection.transport.as_deref()),
            rule: shown(connection.decision.as_ref().map(|decision| decision.rule.as_str())),
            up: connection.bytes_up,
            down: connection.bytes_down,
            rate: None,
        }
    }
}

impl Refusal {
    /// None if nothing went wrong.
    fn of(ended: &v1::EndedConnection) -> Option<Self> {
        let record: Value = serde_json::from_str(&ended.json).ok()?;
        let text = |value: &Value| shown(value.as_str());
        let reason = text(&record["reason"]);
        if explanation(&reason).is_some_and(|known| !known.is_failure()) {
            return None;
        }
        let nearest = record["decision"]["nearest"].as_array().into_iter().flatten();
        let claimed = record["claimedId"].as_str().map(|id| format!("claims {id}"));
        // A record's time is when the connection began.
        let began = record["time"].as_str().and_then(|time| humantime::parse_rfc3339(time).ok());
        let took = Duration::from_micros(record["stages"]["totalMicros"].as_u64().unwrap_or(0));
        let at = began.and_then(|began| began.checked_add(took));
        Some(Self {
            key: String::new(),
            json: ended.json.clone(),
            time: at.map_or_else(|| text(&record["time"]), |at| humantime::format_rfc3339_millis(at).to_string()),
            ended: at,
            direction: text(&record["direction"]),
            from: text(&record["downstream"]),
            to: shown(record["destination"].as_str().or(record["originalDestination"].as_str())),
            peer: shown(record["peerId"].as_str().or(claimed.as_deref())),
            detail: text(&record["detail"]),
            rule: text(&record["decision"]["rule"]),
            nearest: nearest.map(|near| format!("{}: {}", text(&near["rule"]), text(&near["lacked"]))).collect(),
            reason,
        })
    }
}

/// What a reason is, if this program knows it: the sidecar may be of another version.
pub(super) fn explanation(label: &str) -> Option<Reason> {
    Reason::ALL.iter().copied().find(|reason| reason.label() == label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(id: &str, peer: &str, seconds: u32, bytes: u64) -> v1::Connection {
        v1::Connection {
            connection_id: id.to_owned(),
            time: format!("2026-01-31T08:00:{seconds:02}Z"),
            direction: "inbound".to_owned(),
            peer_id: Some(peer.to_owned()),
            bytes_up: bytes,
            ..v1::Connection::default()
        }
    }

    fn answer(connections: Vec<v1::Connection>) -> Answer {
        let open = connections.len() as u64;
        Answer {
            status: v1::Status::default(),
            activity: v1::Activity::default(),
            listed: v1::ListConnectionsResponse { connections, open },
        }
    }

    fn press(view: &mut View, keys: &str) {
        for key in keys.chars() {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                other => KeyCode::Char(other),
            };
            assert_eq!(view.key(code.into()), Step::GoOn);
        }
    }

    fn ids(view: &View) -> String {
        view.connections().iter().map(|open| open.id.as_str()).collect()
    }

    #[test]
    fn connections_are_sorted_filtered_and_stay_selected() {
        let all = vec![connection("a", "web", 1, 500), connection("b", "api", 2, 900), connection("c", "web", 3, 100)];
        let mut view = View::new(answer(all.clone()));
        assert_eq!(ids(&view), "cba");
        press(&mut view, "ss");
        assert_eq!(ids(&view), "bac");
        press(&mut view, "s");
        assert_eq!(ids(&view), "bac");
        press(&mut view, "sr");
        assert_eq!(ids(&view), "abc");
        // What is selected moves with its connection; where that is gone, the one in its place is.
        press(&mut view, "j");
        assert_eq!(view.selected(), Some(1));
        press(&mut view, "r");
        press(&mut view, "sss");
        assert_eq!((ids(&view).as_str(), view.selected()), ("bac", Some(0)));
        view.take(answer(vec![all[0].clone()]));
        assert_eq!((ids(&view).as_str(), view.selected()), ("a", Some(0)));
        view.take(answer(all));
        press(&mut view, "/WEq\u{8}");
        assert_eq!((view.filter.as_str(), ids(&view).as_str()), ("WEq", ""));
        press(&mut view, "\u{1b}/wE\n");
        assert_eq!(ids(&view), "ac");
        press(&mut view, "\n");
        assert!(view.detailed);
        press(&mut view, "\u{1b}\u{1b}");
        assert_eq!((view.detailed, view.filter.as_str()), (false, ""));
        assert_eq!(view.key(KeyCode::Char('q').into()), Step::Quit);
    }

    #[test]
    fn refusals_are_bounded_and_come_once() {
        let mut view = View::new(answer(Vec::new()));
        let ended = |reason: &str, port: usize| v1::EndedConnection {
            json: format!(r#"{{"reason":"{reason}","downstream":"a:{port}","peerId":"x\u001b"}}"#),
            line: String::new(),
        };
        for port in 0..600 {
            view.ended(&ended("denied_by_default", port));
            view.ended(&ended("denied_by_default", port));
            view.ended(&ended("closed", port));
        }
        let all = view.refusals();
        assert_eq!((all.len(), all[0].from.as_str(), all[0].peer.as_str()), (REFUSALS, "a:599", "x\u{fffd}"));
        press(&mut view, "2/a:599\n");
        assert_eq!((view.refusals().len(), view.selected()), (1, Some(0)));
        press(&mut view, "\n");
        assert_eq!(view.detailed_refusal().map(|refusal| refusal.from.as_str()), Some("a:599"));
        (600..600 + REFUSALS).for_each(|port| view.ended(&ended("denied_by_default", port)));
        assert!(view.detailed && view.detailed_refusal().is_none());
    }

    #[test]
    fn the_time_of_a_refusal_is_its_end() {
        let json = r#"{"reason":"idle","time":"2026-01-31T08:00:00Z","stages":{"totalMicros":61500000}}"#;
        let refusal = Refusal::of(&v1::EndedConnection { json: json.to_owned(), line: String::new() });
        assert_eq!(refusal.unwrap().time, "2026-01-31T08:01:01.500Z");
    }

    /// What is said of a connection has to be about that connection: someone may cut it.
    #[test]
    fn all_of_one_connection_is_never_all_of_another() {
        let all = vec![connection("a", "web", 1, 500), connection("b", "api", 2, 900)];
        let mut view = View::new(answer(all.clone()));
        press(&mut view, "\n");
        assert_eq!(view.detailed_connection().map(|open| open.id.as_str()), Some("b"));
        // Arrows move the paragraph, as far as it goes.
        press(&mut view, "jjj");
        assert_eq!((view.scroll, view.detailed_connection().map(|open| open.id.as_str())), (0, Some("b")));
        view.drawn(2);
        press(&mut view, "jjj");
        assert_eq!(view.scroll, 2);
        view.take(answer(all[..1].to_vec()));
        assert!(view.detailed && view.detailed_connection().is_none());
        press(&mut view, "\u{1b}");
        assert_eq!(view.selected(), Some(0));
    }

    #[test]
    fn a_rate_needs_two_answers() {
        let mut view = View::new(answer(vec![connection("a", "web", 1, 500)]));
        assert_eq!(view.connections()[0].rate, None);
        view.take(answer(vec![connection("a", "web", 1, 900)]));
        assert!(view.connections()[0].rate.is_some_and(|rate| rate > 0));
        assert_eq!((rate(1000, 2.0), rate(1, 0.0)), (500, 0));
    }
}
