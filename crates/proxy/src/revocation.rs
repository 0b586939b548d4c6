//! Where revocation lists and deny lists come from: files, watched, and URLs, fetched before what they hold expires.
//!
//! What can't be read or fetched never replaces what could, and nothing but a newer list by the same CA for the same certificates
//! replaces a list: who is on the way of plain HTTP can neither bring in a list of his own nor make one vanish.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sidegate_audit::{FileDigest, NewEvent};
use sidegate_config::FileWatch;
use sidegate_config::schema::{self, Denied, DenyList};
use sidegate_config::value::CollectorAddress;
use sidegate_core::event;
use sidegate_identity::{IdentityState, Material, unix_now};
use sidegate_tls::revocation::{Authorities, Content, DomainLists, Key, List, ListError, Revocation};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::fetch::fetch;
use crate::publisher::change;
use crate::shared::Shared;

/// The longest list that is read: one of some 400,000 certificates. Each is looked through when a chain is verified anew.
const LONGEST: usize = 16 * 1024 * 1024;
/// Lists of one trust domain: one for each of its CAs, or some where they are divided.
const MOST_LISTS: usize = 1024;
/// After a fetch that failed, growing up to `refresh`.
const AGAIN: Duration = Duration::from_secs(5);

/// Revocation lists and deny lists, those in files read for the first time.
#[derive(Debug)]
pub struct RevocationSource {
    config: schema::Revocation,
    sources: Vec<Source>,
    /// Of each trust domain in the configuration the lists whose signatures were found good, and the keys that made them. They stay until
    /// a newer one by the same key for the same certificates comes, whatever else becomes of their source.
    proven: Vec<Vec<(Arc<List>, Key)>>,
    denied: Vec<(String, Vec<Denied>)>,
}

/// One file or URL with revocation lists, and what it held last.
#[derive(Debug)]
struct Source {
    /// Index of its trust domain in the configuration.
    domain: usize,
    place: Place,
    bytes: Vec<u8>,
    content: Content,
    /// Whether some of it is still to be taken in.
    is_new: bool,
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
    /// By the clock of whoever signed it, or of this host, it is not made yet.
    #[error("{0}: its list by `{1}` is of the future; compare this host's clock with the issuer's")]
    Future(String, String),
    /// Nobody who may has signed it.
    #[error(
        "{0}: its list by `{1}` is signed by no CA of the trust domain's bundle; if an intermediate CA has signed it, add that one's certificate \
         to a file of `files`"
    )]
    NotSigned(String, String),
    /// There are more lists than a trust domain has.
    #[error("{0}: its list by `{1}` is one too many: {MOST_LISTS} are known of the trust domain")]
    TooMany(String, String),
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
                let bytes = read(file)?;
                let content = Content::read(&bytes).map_err(|e| RevocationError::List(file.display().to_string(), e))?;
                sources.push(Source { domain, place: Place::File(file.clone()), bytes, content, is_new: true });
            }
            let urls = lists.urls.iter().map(|url| Place::Url(url.get().clone()));
            sources.extend(urls.map(|place| Source { domain, place, bytes: Vec::new(), content: Content::default(), is_new: false }));
        }
        let denied = config.deny_lists.iter().map(|file| read_denied(file)).collect::<Result<_, _>>()?;
        let proven = config.trust_domains.iter().map(|_| Vec::new()).collect();
        Ok(Self { config, sources, proven, denied })
    }

    /// What the files hold.
    #[must_use]
    pub fn first(&self) -> Arc<Revocation> {
        Arc::new(self.build(None))
    }

    pub(crate) fn is_configured(&self) -> bool {
        !self.sources.is_empty() || !self.denied.is_empty()
    }

    /// Until trust bundles are there all lists are handed on: none counts before its signature is checked.
    fn build(&self, material: Option<&Material>) -> Revocation {
        let mut domains: BTreeMap<_, _> = BTreeMap::new();
        for (index, config) in self.config.trust_domains.iter().enumerate() {
            let of_domain = || self.sources.iter().filter(|source| source.domain == index);
            let proven = self.proven[index].iter().map(|(list, _)| list);
            let unproven = of_domain().filter(|_| material.is_none()).flat_map(|source| &source.content.lists);
            let domain = DomainLists {
                lists: proven.chain(unproven).cloned().collect(),
                authorities: of_domain().flat_map(|source| &source.content.authorities).cloned().collect(),
                depth: config.depth,
                on_unknown: config.on_unknown,
                on_expired: config.on_expired,
            };
            domains.insert(config.trust_domain.get().clone(), domain);
        }
        Revocation { domains, denied: self.denied.iter().flat_map(|(_, denied)| denied.clone()).collect() }
    }

    /// Those who may sign the lists of a trust domain, if its bundle is known.
    fn authorities(&self, domain: usize, material: &Material) -> Option<Authorities> {
        let trust_domain = self.config.trust_domains[domain].trust_domain.get();
        let bundle = material.bundles.get(trust_domain)?;
        let of_files = self.sources.iter().filter(|source| source.domain == domain).flat_map(|source| &source.content.authorities);
        // Between our own SVID and the bundle may be others.
        let is_own = material.svid.id.trust_domain() == trust_domain;
        let own = material.svid.certified_key.cert.iter().skip(1).filter(|_| is_own);
        Some(Authorities::of(bundle, &of_files.chain(own).cloned().collect::<Vec<_>>()))
    }

    /// Takes in what sources hold, as far as it is signed by somebody who may; what is not is complained of. Only what is new, unless
    /// `all`. Whether that changes what is known.
    fn take_in(&mut self, all: bool, material: Option<&Material>, shared: &Shared) -> bool {
        let Some(material) = material else { return false };
        let mut changed = false;
        for at in 0..self.sources.len() {
            let domain = self.sources[at].domain;
            let source = &self.sources[at];
            let Some(authorities) = (all || source.is_new).then(|| self.authorities(domain, material)).flatten() else { continue };
            let mut is_new = false;
            for list in &source.content.lists {
                match take_in_one(&mut self.proven[domain], list, &authorities, &source.place) {
                    Ok(is_change) => changed |= is_change,
                    Err(error) => {
                        // Its time comes by itself.
                        is_new |= matches!(error, RevocationError::Future(..));
                        trouble(shared, &error);
                    }
                }
            }
            self.sources[at].is_new = is_new;
        }
        changed
    }

    /// Publishes each change until the task is dropped.
    pub(crate) async fn follow(
        mut self,
        sender: watch::Sender<Arc<Revocation>>,
        mut identity: watch::Receiver<Arc<IdentityState>>,
        shared: Arc<Shared>,
    ) {
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
        let mut known: Option<Arc<Material>> = None;
        loop {
            let material = identity.borrow_and_update().material.clone();
            // The first look is also at what has changed while we started.
            let mut changed = self.look_at_files(&shared);
            // A CA that was not known may be now.
            let is_other = material.as_ref().map(Arc::as_ptr) != known.as_ref().map(Arc::as_ptr);
            changed |= self.take_in(is_other, material.as_deref(), &shared);
            known = material;
            let now = unix_now();
            if expired_at.is_some_and(|at| at < now) {
                // Nothing was published anew, but peers may be judged differently from now on.
                changed = true;
            }
            if changed {
                self.publish(&sender, known.as_deref(), &shared);
            }
            expired_at = sender.borrow().next_expiry(now);
            let expiry = expired_at.map_or(Duration::from_secs(3600), |at| Duration::from_secs(u64::try_from(at - now).unwrap_or(0) + 1));
            tokio::select! {
                () = watch.changed() => {}
                () = change(&mut identity) => {}
                Some((index, bytes, content)) = answers.recv() => {
                    let source = &mut self.sources[index];
                    if source.bytes != bytes {
                        (source.bytes, source.content, source.is_new) = (bytes, content, true);
                        shared.telemetry.metrics.revocation_reloads(true).inc();
                    }
                }
                () = sleep(expiry) => {}
            }
        }
    }

    fn publish(&self, sender: &watch::Sender<Arc<Revocation>>, material: Option<&Material>, shared: &Shared) {
        let revocation = self.build(material);
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

    /// Reads what files hold now. Whether a deny list has changed; lists are still to be taken in.
    fn look_at_files(&mut self, shared: &Shared) -> bool {
        let (mut changed, mut read_anew) = (false, false);
        for source in &mut self.sources {
            let Place::File(file) = &source.place else { continue };
            let read = read(file).and_then(|bytes| {
                if bytes == source.bytes {
                    return Ok(None);
                }
                let content = Content::read(&bytes).map_err(|e| RevocationError::List(file.display().to_string(), e))?;
                Ok(Some((bytes, content)))
            });
            match read {
                Ok(Some((bytes, content))) => (source.bytes, source.content, source.is_new, read_anew) = (bytes, content, true, true),
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
        if changed || read_anew {
            shared.telemetry.metrics.revocation_reloads(true).inc();
        }
        changed
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Url(url) => write!(f, "{url}"),
        }
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

/// Takes in one list, if one of `authorities` has signed it. Whether it is another than the one that was known.
fn take_in_one(
    proven: &mut Vec<(Arc<List>, Key)>,
    list: &Arc<List>,
    authorities: &Authorities,
    place: &Place,
) -> Result<bool, RevocationError> {
    let because = |error: fn(String, String) -> RevocationError| Err(error(place.to_string(), list.issuer.clone()));
    if list.is_of_the_future(unix_now()) {
        return because(RevocationError::Future);
    }
    let Some(signer) = list.signer(authorities) else { return because(RevocationError::NotSigned) };
    let count = proven.len();
    match proven.iter_mut().find(|(known, by)| by == signer && known.has_scope_of(list)) {
        Some((known, _)) if known.is_same(list) => Ok(false),
        Some((known, _)) if known.this_update > list.this_update => because(RevocationError::Older),
        Some((known, _)) => {
            *known = list.clone();
            Ok(true)
        }
        None if count >= MOST_LISTS => because(RevocationError::TooMany),
        None => {
            proven.push((list.clone(), signer.clone()));
            Ok(true)
        }
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
    answers: mpsc::Sender<(usize, Vec<u8>, Content)>,
) {
    let mut failures = 0_u32;
    loop {
        let wait = match fetch(&url, shared.settings.mark, LONGEST).await.and_then(|bytes| {
            let content = Content::read(&bytes).map_err(|e| e.to_string())?;
            Ok((bytes, content))
        }) {
            Ok((bytes, content)) => {
                let next_update = content.lists.iter().map(|list| list.next_update).min();
                if answers.send((index, bytes, content)).await.is_err() {
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
