//! `sidegate top`: a running sidecar, live in a terminal.
//!
//! One task asks the sidecar again and again, one thread reads the keys, and what the sidecar tells of ends comes as it happens. All of
//! it changes one [`View`], which is drawn afterwards.

mod draw;
mod screen;
mod view;

use std::io::{IsTerminal, stdin, stdout};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use sidegate_admin::v1::admin_client::AdminClient;
use sidegate_admin::v1::connection_change::Change;
use sidegate_admin::{ClientError, v1};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout};
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use crate::{cli, style};
use screen::Screen;
use view::{Answer, Step, View};

/// Keys that wait to be handled, and answers.
const QUEUE: usize = 16;
/// This number of connections is asked for, the newest.
const LISTED: u32 = 10_000;
/// The timeout of one round of questions.
const ANSWER: Duration = Duration::from_secs(5);
/// What is shown changes at least this often: ages, and how long there has been no answer.
const REDRAW: Duration = Duration::from_secs(1);

/// `sidegate top`.
pub(crate) fn top(arguments: &cli::TopArgs) -> Result<()> {
    if !stdin().is_terminal() || !stdout().is_terminal() {
        bail!("`sidegate top` needs a terminal; elsewhere use `sidegate connections`, `sidegate connections --watch` or `sidegate status`");
    }
    arguments.asked.ask(async |client| match show(client, arguments.interval.0).await? {
        End::Asked => Ok(()),
        End::OfSidecar => {
            err!("the sidecar has ended");
            Ok(())
        }
    })
}

/// Why the view ends.
enum End {
    /// A key or a signal asked for it.
    Asked,
    /// There is nothing to look at any more.
    OfSidecar,
}

async fn show(mut client: AdminClient<Channel>, every: Duration) -> Result<End> {
    // Before it asks for the latest, so that none is missed in between.
    let mut changes = client.watch_connections(v1::WatchConnectionsRequest {}).await.map_err(ClientError::from)?.into_inner();
    let mut view = View::new(answer(&mut client, true).await.map_err(ClientError::from)?);
    let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [mut terminate, mut interrupt, mut hangup] = {
        let [terminate, interrupt, hangup] = signals.map(signal);
        [terminate?, interrupt?, hangup?]
    };
    let coloured = style::is_coloured(&stdout());
    // Restores the terminal when it is dropped, before anything is said of the end.
    let mut screen = Screen::enter().context("the terminal can't be used")?;
    let mut keys = keys()?;
    let (sender, mut answers) = mpsc::channel(QUEUE);
    tokio::spawn(ask(client, every, sender));
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut furthest = 0;
        screen.draw(|frame| furthest = draw::draw(frame, &view, coloured))?;
        view.drawn(furthest);
        loop {
            tokio::select! {
                key = keys.recv() => match key {
                    // The terminal has gone.
                    None => return Ok(End::Asked),
                    Some(Event::Key(key)) if key.kind != KeyEventKind::Release => match view.key(key) {
                        Step::Quit => return Ok(End::Asked),
                        Step::GoOn => break,
                    },
                    Some(_) => break,
                },
                Some(answer) = answers.recv() => {
                    match answer {
                        Ok(answer) => view.take(answer),
                        Err(why) => view.unanswered(&why),
                    }
                    break;
                }
                // Drawn with the next answer or tick: there may be thousands in a second.
                change = changes.next() => match change {
                    Some(Ok(v1::ConnectionChange { change: Some(Change::Ended(ended)) })) => view.ended(&ended),
                    Some(Ok(v1::ConnectionChange { change: Some(Change::Missed(count)) })) => view.missed(count),
                    Some(Ok(_)) => {}
                    // However the stream ends, it is the sidecar that has ended: it closes none before.
                    Some(Err(_)) | None => return Ok(End::OfSidecar),
                },
                _ = redraw.tick() => break,
                _ = terminate.recv() => return Ok(End::Asked),
                _ = interrupt.recv() => return Ok(End::Asked),
                _ = hangup.recv() => return Ok(End::Asked),
            }
        }
    }
}

/// Reads the terminal on a thread of its own, which ends with the process: a read can't be given up.
fn keys() -> Result<mpsc::Receiver<Event>> {
    let (sender, keys) = mpsc::channel(QUEUE);
    let read = move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("keys".to_owned()).spawn(read)?;
    Ok(keys)
}

async fn ask(mut client: AdminClient<Channel>, every: Duration, sender: mpsc::Sender<Result<Answer, String>>) {
    // The first answer is there already.
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // All three together: each of them could be late by itself.
        let answer = match timeout(ANSWER, answer(&mut client, false)).await {
            Ok(answer) => answer.map_err(|status| status.message().to_owned()),
            Err(_) => Err(format!("nothing within {} seconds", ANSWER.as_secs())),
        };
        if sender.send(answer).await.is_err() {
            return;
        }
    }
}

/// The records of the latest connections are asked for once: later ones are told as they end.
async fn answer(client: &mut AdminClient<Channel>, latest: bool) -> Result<Answer, tonic::Status> {
    let status = client.get_status(v1::GetStatusRequest {}).await?.into_inner();
    let activity = client.get_activity(v1::GetActivityRequest { latest }).await?.into_inner();
    let listed = client.list_connections(v1::ListConnectionsRequest { limit: LISTED, newest: true }).await?.into_inner();
    Ok(Answer { status, activity, listed })
}
