//! How an answer reaches its caller: once it may be said, and for streams again whenever it changes.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::answer::Update;
use super::attest::Caller;
use super::state::AuthorityState;

/// The state as all share it.
pub(crate) type Shared = Arc<watch::Sender<AuthorityState>>;

/// A stream of full states.
pub(crate) type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers one call, as soon as the state lets it.
pub(crate) async fn once<T>(state: &Shared, mut answer: impl FnMut(&mut AuthorityState) -> Result<T, Status>) -> Result<T, Status> {
    let mut changes = state.subscribe();
    loop {
        changes.mark_unchanged();
        if let Some(answer) = ask(state, &mut answer) {
            return answer;
        }
        changed(&mut changes, None).await;
    }
}

/// Opens a stream. Its first message, or its refusal, is there when this returns.
pub(crate) async fn stream<T: Clone + PartialEq + Send + 'static>(
    state: &Shared,
    caller: Caller,
    answer: fn(&mut AuthorityState, &Caller) -> Update<T>,
) -> Result<Updates<T>, Status> {
    let changes = state.subscribe();
    let mut feed = Feed { state: state.clone(), changes, caller, answer, sent: None, due: None };
    let first = feed.next().await?;
    // No task: dropping the stream ends it.
    Ok(Box::pin(stream::unfold((Some(feed), Some(first)), |(feed, first)| async move {
        let mut feed = feed?;
        match first {
            Some(first) => Some((Ok(first), (Some(feed), None))),
            None => match feed.next().await {
                Ok(message) => Some((Ok(message), (Some(feed), None))),
                Err(status) => Some((Err(status), (None, None))),
            },
        }
    })))
}

/// One open stream.
struct Feed<T> {
    state: Shared,
    changes: watch::Receiver<AuthorityState>,
    caller: Caller,
    answer: fn(&mut AuthorityState, &Caller) -> Update<T>,
    /// What its caller knows, and of which epoch.
    sent: Option<(u64, T)>,
    /// When that changes of itself.
    due: Option<Instant>,
}

impl<T: Clone + PartialEq> Feed<T> {
    /// The next message that says something new.
    async fn next(&mut self) -> Result<T, Status> {
        if self.sent.is_some() {
            changed(&mut self.changes, self.due).await;
        }
        loop {
            self.changes.mark_unchanged();
            let answer = ask(&self.state, |state| {
                let (message, due) = (self.answer)(state, &self.caller)?;
                Ok(((state.epoch, message), due))
            });
            self.due = None;
            if let Some(answer) = answer {
                let (new, due) = answer?;
                self.due = due;
                if self.sent.as_ref() != Some(&new) {
                    return Ok(self.sent.insert(new).1.clone());
                }
            }
            changed(&mut self.changes, self.due).await;
        }
    }
}

/// What the state makes of a question; nothing while a fault wants silence. Answering may sign, which changes the
/// state but is no news to anybody else.
fn ask<T>(
    state: &watch::Sender<AuthorityState>,
    answer: impl FnOnce(&mut AuthorityState) -> Result<T, Status>,
) -> Option<Result<T, Status>> {
    let mut result = None;
    state.send_if_modified(|state| {
        result = match state.fault.status() {
            Some(status) => Some(Err(status)),
            None if state.fault.is_silent() => None,
            None => Some(answer(state)),
        };
        false
    });
    result
}

/// Waits until the state has changed, or until `due`.
async fn changed(changes: &mut watch::Receiver<AuthorityState>, due: Option<Instant>) {
    let timer = async {
        match due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // The sender cannot be gone: the one who waits holds it.
        _ = changes.changed() => {}
        () = timer => {}
    }
}
