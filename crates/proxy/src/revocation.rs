//! Where revocation lists and deny lists come from: files, watched, and URLs, fetched before what they hold expires.
//!
//! What can't be read or fetched never replaces what could.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sidegate_audit::{FileDigest, NewEvent};
use sidegate_config::FileWatch;
use sidegate_config::schema::{self, Denied, DenyList};
use sidegate_config::value::CollectorAddress;
use sidegate_core::event;
use sidegate_identity::unix_now;
use sidegate_tls::revocation::{DomainLists, List, ListError, Revocation};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::fetch::fetch;
use crate::shared::Shared;

/// The longest list that is read: one of some 400,000 certificates. Each is looked through when a chain is verified anew.
const LONGEST: usize = 16 * 1024 * 1024;
/// After a fetch that failed, growing up to `refresh`.
const AGAIN: Duration = Duration::from_secs(5);

/// Revocation lists and deny lists, those in files read for the first time.
#[derive(Debug)]
pub struct RevocationSource {
    config: schema::Revocation,
    sources: Vec<Source>,
    denied: Vec<(String, Vec<Denied>)>,
}

/// One file or URL with revocation lists, and what it held last.
#[derive(Debug)]
struct Source {
    /// Index of its trust domain in the configuration.
    domain: usize,
    place: Place,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    Url(CollectorAddress),
}

/// Why a list can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// A file can't be read.
    #[error("{0} can't be read: {1}; check `revocation`")]
    Read(PathBuf, std::io::Error),
    /// An older list than the one that is known: somebody plays it back, or a mirror lags behind.
    #[error("{0} is older than what is known: its list by `{1}` was made before the one in use")]
    Older(String, String),
    /// A file is too long for what it should be.
    #[error("{0} has more than {LONGEST} bytes")]
    TooLong(String),
    /// A file or an answer holds something else.
    #[error("{0}: {1}")]
    List(String, ListError),
    /// There are mistakes in a deny list.
    #[error("{0}")]
    DenyList(String),
    /// A URL does not yield a list.
    #[error("{0} can't be fetched: {1}")]
    Fetch(String, String),
}

impl RevocationSource {
    /// Reads the files that `config` names.
    ///
    /// # Errors
    /// The first that can't be used: at the start there is no good state to go on with.
    pub fn load(config: schema::Revocation) -> Result<Self, RevocationError> {
        let mut sources = Vec::new();
        for (domain, lists) in config.trust_domains.iter().enumerate() {
            for file in &lists.files {
                let bytes = newer(&[], read(file)?, file.display())?;
                sources.push(Source { domain, place: Place::File(file.clone()), bytes });
            }
            let urls = lists.urls.iter().map(|url| Source { domain, place: Place::Url(url.get().clone()), bytes: Vec::new() });
            sources.extend(urls);
        }
        let denied = config.deny_lists.iter().map(|file| read_denied(file)).collect::<Result<_, _>>()?;
        Ok(Self { config, sources, denied })
    }

    /// What the files hold.
    #[must_use]
    pub fn first(&self) -> Arc<Revocation> {
        Arc::new(self.build())
    }

    pub(crate) fn is_configured(&self) -> bool {
        !self.sources.is_empty() || !self.denied.is_empty()
    }

    fn build(&self) -> Revocation {
        let mut domains: BTreeMap<_, _> = BTreeMap::new();
        for (index, config) in self.config.trust_domains.iter().enumerate() {
            let of_domain = self.sources.iter().filter(|source| source.domain == index && !source.bytes.is_empty());
            // They could be read before.
            let mut lists: Vec<List> = of_domain.filter_map(|source| List::read(&source.bytes).ok()).flatten().collect();
            lists.sort_by_key(|list| std::cmp::Reverse(list.this_update));
            let domain = DomainLists { lists, depth: config.depth, on_unknown: config.on_unknown, on_expired: config.on_expired };
            domains.insert(config.trust_domain.get().clone(), domain);
        }
        Revocation { domains, denied: self.denied.iter().flat_map(|(_, denied)| denied.clone()).collect() }
    }

    /// Publishes each change until the task is dropped.
    pub(crate) async fn follow(mut self, sender: watch::Sender<Arc<Revocation>>, shared: Arc<Shared>) {
        let files = self.sources.iter().filter_map(|source| match &source.place {
            Place::File(file) => Some(file),
            Place::Url(_) => None,
        });
        let (mut watch, unwatched) = FileWatch::new(files.chain(&self.config.deny_lists));
        if let Some(why) = unwatched {
            tracing::warn!(event = event::FILES_UNWATCHED, "revocation: {why}");
        }
        let (fetched, mut answers) = mpsc::channel(1);
        // They end with this task.
        let mut fetchers = JoinSet::new();
        for (index, source) in self.sources.iter().enumerate() {
            if let Place::Url(url) = &source.place {
                let refresh = self.config.trust_domains[source.domain].refresh.0.duration();
                fetchers.spawn(keep_fetching(index, url.clone(), refresh, shared.clone(), fetched.clone()));
            }
        }
        let first = sender.borrow().clone();
        let lists = first.domains.values().map(|domain| domain.lists.len()).sum();
        shared.audit.record(self.event(lists, first.denied.len()));
        let mut expired_at = None;
        loop {
            // The first look is also at what has changed while we started.
            let mut changed = self.look_at_files(&shared);
            let now = unix_now();
            if expired_at.is_some_and(|at| at < now) {
                // Nothing was published anew, but peers may be judged differently from now on.
                changed = true;
            }
            if changed {
                self.publish(&sender, &shared);
            }
            expired_at = sender.borrow().next_expiry(now);
            let expiry = expired_at.map_or(Duration::from_secs(3600), |at| Duration::from_secs(u64::try_from(at - now).unwrap_or(0) + 1));
            tokio::select! {
                () = watch.changed() => {}
                Some((index, url, bytes)) = answers.recv() => {
                    let source = &mut self.sources[index];
                    if source.bytes != bytes {
                        match newer(&source.bytes, bytes, url) {
                            Ok(bytes) => {
                                source.bytes = bytes;
                                shared.telemetry.metrics.revocation_reloads(true).inc();
                                self.publish(&sender, &shared);
                            }
                            Err(error) => trouble(&shared, &error),
                        }
                    }
                }
                () = sleep(expiry) => {}
            }
        }
    }

    fn publish(&self, sender: &watch::Sender<Arc<Revocation>>, shared: &Shared) {
        let revocation = self.build();
        let lists: usize = revocation.domains.values().map(|domain| domain.lists.len()).sum();
        shared.audit.record(self.event(lists, revocation.denied.len()));
        tracing::info!(event = event::REVOCATION_CHANGED, lists, denied = revocation.denied.len(), "revocation has changed");
        sender.send_replace(Arc::new(revocation));
    }

    /// What is in force, for the audit log.
    fn event(&self, lists: usize, denied: usize) -> NewEvent {
        let of_lists = self.sources.iter().filter(|source| !source.bytes.is_empty()).map(|source| match &source.place {
            Place::File(file) => FileDigest::new(&file.display().to_string(), &source.bytes),
            Place::Url(url) => FileDigest::new(&url.to_string(), &source.bytes),
        });
        let of_denials = self
            .config
            .deny_lists
            .iter()
            .zip(&self.denied)
            .map(|(file, (text, _))| FileDigest::new(&file.display().to_string(), text.as_bytes()));
        NewEvent::RevocationChanged { lists: lists as u64, denied: denied as u64, files: of_lists.chain(of_denials).collect() }
    }

    /// Whether a file holds something else than before.
    fn look_at_files(&mut self, shared: &Shared) -> bool {
        let mut changed = false;
        for source in &mut self.sources {
            let Place::File(file) = &source.place else { continue };
            match read(file)
                .and_then(|bytes| if bytes == source.bytes { Ok(None) } else { newer(&source.bytes, bytes, file.display()).map(Some) })
            {
                Ok(Some(bytes)) => (source.bytes, changed) = (bytes, true),
                Ok(None) => {}
                Err(error) => trouble(shared, &error),
            }
        }
        for (file, denied) in self.config.deny_lists.iter().zip(&mut self.denied) {
            match read_denied(file) {
                Ok(now) if now.0 != denied.0 => (*denied, changed) = (now, true),
                Ok(_) => {}
                Err(error) => trouble(shared, &error),
            }
        }
        if changed {
            shared.telemetry.metrics.revocation_reloads(true).inc();
        }
        changed
    }
}

fn trouble(shared: &Shared, error: &RevocationError) {
    shared.telemetry.metrics.revocation_reloads(false).inc();
    tracing::error!(event = event::REVOCATION_TROUBLE, "{error}; what was known before stays in force");
}

/// The bytes of a file, whatever is in it.
fn read(file: &Path) -> Result<Vec<u8>, RevocationError> {
    sidegate_config::file::read(file, LONGEST).map_err(|e| match e.kind() {
        std::io::ErrorKind::FileTooLarge => RevocationError::TooLong(file.display().to_string()),
        _ => RevocationError::Read(file.to_owned(), e),
    })
}

/// `bytes`, if they are lists, none of which is older than one by the same issuer that is `known`.
fn newer(known: &[u8], bytes: Vec<u8>, place: impl std::fmt::Display) -> Result<Vec<u8>, RevocationError> {
    let lists = List::read(&bytes).map_err(|e| RevocationError::List(place.to_string(), e))?;
    let known = if known.is_empty() { Vec::new() } else { List::read(known).unwrap_or_default() };
    let older = |list: &&List| known.iter().any(|known| known.issuer == list.issuer && known.this_update > list.this_update);
    match lists.iter().find(older) {
        Some(list) => Err(RevocationError::Older(place.to_string(), list.issuer.clone())),
        None => Ok(bytes),
    }
}

/// The text of a deny list, and what it says.
fn read_denied(file: &Path) -> Result<(String, Vec<Denied>), RevocationError> {
    let text =
        sidegate_config::file::read_text(file, sidegate_config::file::LARGE).map_err(|e| RevocationError::Read(file.to_owned(), e))?;
    let (list, root) = sidegate_config::typed::<DenyList>(&file.display().to_string(), &text)
        .map_err(|problems| RevocationError::DenyList(problems.to_string()))?;
    let mut wrong = sidegate_config::document::Problems::default();
    for (index, denied) in list.denied.iter().enumerate() {
        let path = format!("denied[{index}]");
        let mut say = |message: &str| wrong.push(&root.nearest(&path).place, &path, message.to_owned());
        if denied.spiffe_id.is_none() && denied.serial_number.is_none() {
            say("names nobody: set `spiffeId` or `serialNumber`");
        }
        if denied.serial_number.as_ref().is_some_and(|n| n.is_empty() || !n.chars().all(|c| c.is_ascii_hexdigit() || c == ':')) {
            say("`serialNumber` is not hexadecimal");
        }
    }
    match wrong.or(list.denied) {
        Ok(denied) => Ok((text, denied)),
        Err(problems) => Err(RevocationError::DenyList(problems.to_string())),
    }
}

/// How long to wait after so many failures.
fn backoff(failures: u32, refresh: Duration) -> Duration {
    (AGAIN * 2_u32.saturating_pow(failures.clamp(1, 10) - 1)).min(refresh.max(AGAIN))
}

/// Fetches a list again and again, and hands on what can be read.
async fn keep_fetching(
    index: usize,
    url: CollectorAddress,
    refresh: Duration,
    shared: Arc<Shared>,
    answers: mpsc::Sender<(usize, String, Vec<u8>)>,
) {
    let mut failures = 0_u32;
    loop {
        let wait = match fetch(&url, shared.settings.mark, LONGEST).await.and_then(|bytes| {
            let lists = List::read(&bytes).map_err(|e| e.to_string())?;
            Ok((bytes, lists.iter().map(|list| list.next_update).min()))
        }) {
            Ok((bytes, next_update)) => {
                if answers.send((index, url.to_string(), bytes)).await.is_err() {
                    return;
                }
                // In good time: a tenth of what is left. One that has expired already is asked for as if it had failed.
                let left = next_update.map_or(0, |at| u64::try_from(at - unix_now()).unwrap_or(0));
                failures = if left == 0 { failures.saturating_add(1) } else { 0 };
                if left == 0 { backoff(failures, refresh) } else { refresh.min(Duration::from_secs(left).mul_f64(0.9)).max(AGAIN) }
            }
            Err(why) => {
                failures = failures.saturating_add(1);
                trouble(&shared, &RevocationError::Fetch(url.to_string(), why));
                backoff(failures, refresh)
            }
        };
        // So that a thousand sidecars do not ask at the same moment.
        sleep(wait.mul_f64(0.9 + 0.1 * fastrand::f64())).await;
    }
}
