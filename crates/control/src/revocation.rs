//! Where revocation lists and deny lists come from: files, watched, and URLs, fetched before what they hold expires.
//!
//! What can't be read or fetched never replaces what could, and nothing but a newer list by the same CA for the same certificates
//! replaces a list: who is on the way of plain HTTP can neither bring in a list of his own nor make one vanish.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sidegate_audit::{Event, FileDigest};
use sidegate_config::document::Problems;
use sidegate_config::schema::{self, Denied, DenyList};
use sidegate_config::value::CollectorAddress;
use sidegate_config::{FileWatch, aside};
use sidegate_core::{TrustDomain, event, one_line};
use sidegate_identity::{IdentityState, Material, unix_now};
use sidegate_tls::revocation::{Authorities, CertificateDer, Content, DomainLists, ListError, NotTaken, ProvenLists, Revocation, Unproven};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::change::change;
use crate::control::Control;
use crate::fetch::fetch;
use crate::loads::Subject;

/// The longest list that is read: one of some 400,000 certificates. Each is looked through when a chain is verified again.
const LONGEST: usize = 16 * 1024 * 1024;
/// What can't be looked at for want of a thread.
const THREAD: &str = "all lists";
/// After a fetch that failed, growing up to `refresh`.
const AGAIN: Duration = Duration::from_secs(5);

/// Revocation lists and deny lists, those in files read for the first time.
#[derive(Debug)]
pub struct RevocationSource {
    config: schema::Revocation,
    sources: Vec<Source>,
    /// The lists whose signatures are good, and the rules of their trust domains. They stay until a newer one by the same key for the same
    /// certificates comes, whatever else becomes of their source, of the bundle or of our own SVID.
    domains: BTreeMap<TrustDomain, DomainLists>,
    denied: Vec<(String, Vec<Denied>)>,
    /// Who may sign lists, by the material below and the files.
    authorities: BTreeMap<TrustDomain, Authorities>,
    material: Option<Arc<Material>>,
    /// When lists were last taken in.
    seen_at: i64,
}

/// A place with revocation lists.
#[derive(Debug)]
struct Source {
    /// Whose lists it has; none if those of any trust domain.
    domain: Option<TrustDomain>,
    place: Place,
    /// What it held last.
    found: Option<FileDigest>,
    /// Lists that are not signed by anybody who may, or not made yet. What a URL has is not kept before its signature is good.
    pending: Vec<Unproven>,
    /// Certificates of CAs that have signed lists. From files only: who is on the way of plain HTTP can't choose any.
    authorities: Vec<CertificateDer<'static>>,
    /// Whether nobody has looked at what is pending.
    is_new: bool,
    /// Whether what it held last was dropped, since nobody who may has signed it.
    is_refused: bool,
    /// Whether a list that it holds was dropped, for whatever cause: it stays refused until the source holds something else.
    holds_refused: bool,
    /// What it held when all of that was last taken in.
    in_force: Option<FileDigest>,
}

#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    /// Which is fetched at once when it is told to.
    Url(CollectorAddress, Arc<Notify>),
    WorkloadApi,
}

/// What was fetched: for which source, and what it is.
type Answer = (usize, FileDigest, Content);

/// Why a list can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// A file can't be read.
    #[error("{0} can't be read: {1}")]
    Read(PathBuf, std::io::Error),
    /// A list does not count.
    #[error("{0}: its list by `{1}` {2}")]
    NotTaken(String, String, NotTaken),
    /// A file or an answer holds something else.
    #[error("{0}: {1}")]
    List(String, ListError),
    /// There are mistakes in a deny list.
    #[error("{1}")]
    DenyList(PathBuf, Problems),
    /// They can't be looked at.
    #[error("revocation lists can't be looked at: {0}")]
    Thread(std::io::Error),
    /// A URL does not yield a list.
    #[error("{0} can't be fetched: {1}")]
    Fetch(String, String),
}

impl RevocationError {
    /// The file or URL.
    fn source_name(&self) -> String {
        match self {
            Self::Read(file, _) | Self::DenyList(file, _) => file.display().to_string(),
            Self::NotTaken(place, ..) | Self::List(place, _) | Self::Fetch(place, _) => place.clone(),
            Self::Thread(_) => THREAD.to_owned(),
        }
    }
}

impl RevocationSource {
    /// Reads the files that `config` names. At the start there is no good state to go on with.
    ///
    /// # Errors
    /// Every file that can't be used, each with the key that names it.
    pub fn load(config: schema::Revocation) -> Result<Self, Vec<(String, RevocationError)>> {
        let mut sources = vec![Source::new(None, Place::WorkloadApi)];
        let mut domains = BTreeMap::new();
        let mut wrong = Vec::new();
        for (at, lists) in config.trust_domains.iter().enumerate() {
            let name = lists.trust_domain.get();
            for (index, file) in lists.files.iter().enumerate() {
                let mut source = Source::new(Some(name), Place::File(file.clone()));
                match source.look_first(file) {
                    Ok(()) => sources.push(source),
                    Err(error) => wrong.push((format!("revocation.trustDomains[{at}].files[{index}]"), error)),
                }
            }
            sources.extend(lists.urls.iter().map(|url| Source::new(Some(name), Place::Url(url.get().clone(), Arc::default()))));
            let (depth, on_unknown, on_expired) = (lists.depth, lists.on_unknown, lists.on_expired);
            domains.insert(name.clone(), DomainLists { lists: ProvenLists::default(), depth, on_unknown, on_expired });
        }
        let mut denied = Vec::new();
        for (index, file) in config.deny_lists.iter().enumerate() {
            match read_denied(file) {
                Ok(read) => denied.push(read),
                Err(error) => wrong.push((format!("revocation.denyLists[{index}]"), error)),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(Self { config, sources, domains, denied, authorities: BTreeMap::new(), material: None, seen_at: 0 })
    }

    pub(crate) fn is_configured(&self) -> bool {
        !self.config.trust_domains.is_empty() || !self.denied.is_empty()
    }

    fn build(&self) -> Revocation {
        Revocation { domains: self.domains.clone(), denied: self.denied.iter().flat_map(|(_, denied)| denied.clone()).collect() }
    }

    /// Finds out who may sign lists now. The trust domains for which others may than before.
    fn find_authorities(&mut self, material: &Material) -> BTreeSet<TrustDomain> {
        let of = |(name, bundle): (&TrustDomain, _)| {
            let of_files = self.sources.iter().filter(|source| source.domain.as_ref() == Some(name)).flat_map(|source| &source.authorities);
            // Between our own SVID and the bundle may be others.
            let is_own = material.svid.id.trust_domain() == name;
            let own = material.svid.certified_key.cert.iter().skip(1).filter(|_| is_own);
            (name.clone(), Authorities::of(bundle, &of_files.chain(own).cloned().collect::<Vec<_>>()))
        };
        let now: BTreeMap<_, _> = material.bundles.iter().map(of).collect();
        let changed =
            now.iter().filter(|(name, signers)| self.authorities.get(*name) != Some(*signers)).map(|(name, _)| name.clone()).collect();
        self.authorities = now;
        changed
    }

    /// Takes in what sources hold, as far as it is signed by somebody who may; what is not is complained of, once. Where others may sign
    /// than before, all that is pending is looked at again. Whether that changes what is known.
    fn take_in(&mut self, changed: &BTreeSet<TrustDomain>, control: &Control) -> bool {
        let now = unix_now();
        let mut is_change = false;
        for at in 0..self.sources.len() {
            let source = &mut self.sources[at];
            let domain = source.domain.clone();
            let others_may_sign = domain.as_ref().map_or(!changed.is_empty(), |domain| changed.contains(domain));
            let is_new = std::mem::take(&mut source.is_new);
            if let (Place::Url(_, again), true, true) = (&source.place, others_may_sign, source.is_refused) {
                again.notify_one();
            }
            let is_known = domain.as_ref().is_none_or(|domain| self.authorities.contains_key(domain));
            let (mut pending, mut failed) = (Vec::new(), false);
            for list in std::mem::take(&mut self.sources[at].pending) {
                let is_due = list.is_of_the_future(self.seen_at) && !list.is_of_the_future(now);
                if is_known && !(is_new || others_may_sign || is_due) {
                    pending.push(list);
                    continue;
                }
                let taken = if is_known { self.take_in_one(domain.as_ref(), &list, now) } else { Err(NotTaken::NotSigned) };
                let why = match taken {
                    Ok(taken) => {
                        is_change |= taken;
                        continue;
                    }
                    Err(why) => why,
                };
                let is_url = matches!(self.sources[at].place, Place::Url(..));
                let is_kept = matches!(why, NotTaken::Future) || matches!(why, NotTaken::NotSigned) && !is_url;
                failed = true;
                self.sources[at].is_refused |= is_url && matches!(why, NotTaken::NotSigned);
                // Before there is a bundle nobody can say who has signed it.
                if is_known {
                    trouble(control, &RevocationError::NotTaken(self.sources[at].place.to_string(), list.issuer.clone(), why));
                }
                if is_kept {
                    pending.push(list);
                } else {
                    self.sources[at].holds_refused = true;
                }
            }
            let source = &mut self.sources[at];
            source.pending = pending;
            source.settle(control);
            if is_new && !failed && matches!(source.place, Place::Url(..)) {
                control.telemetry.metrics.revocation_reloads(true).inc();
            }
        }
        self.seen_at = now;
        is_change
    }

    /// For the trust domain whose list it is; if that is not said for each whose CA has signed it.
    fn take_in_one(&mut self, domain: Option<&TrustDomain>, list: &Unproven, now: i64) -> Result<bool, NotTaken> {
        let mut result = Err(NotTaken::NotSigned);
        for (name, authorities) in self.authorities.iter().filter(|(name, _)| domain.is_none_or(|domain| domain == *name)) {
            let mut first = None;
            let known = self.domains.get_mut(name).unwrap_or_else(|| first.insert(DomainLists::unconfigured()));
            let taken = known.lists.take_in(list, authorities, now);
            if let (Some(first), Ok(true)) = (first, &taken) {
                self.domains.insert(name.clone(), first);
            }
            result = match (result, taken) {
                (Ok(before), taken) => Ok(before | taken.unwrap_or(false)),
                (Err(before), Err(NotTaken::NotSigned)) => Err(before),
                (Err(_), taken) => taken,
            };
        }
        result
    }

    /// Publishes each change until the task is dropped: for the first time when there is material, which is not used before. All that reads
    /// files or works long is done on a thread of its own: the file system may not answer, and a list may be long.
    pub(crate) async fn follow(
        self,
        sender: watch::Sender<Option<Arc<Revocation>>>,
        mut identity: watch::Receiver<Arc<IdentityState>>,
        control: Arc<Control>,
    ) {
        let files = self.sources.iter().filter_map(|source| match &source.place {
            Place::File(file) => Some(file.clone()),
            Place::Url(..) | Place::WorkloadApi => None,
        });
        let (mut watch, unwatched) = FileWatch::aside(files.chain(self.config.deny_lists.iter().cloned()).collect()).await;
        if let Some(why) = unwatched {
            tracing::warn!(event = event::FILES_UNWATCHED, "revocation: {why}");
        }
        let (fetched, mut answers) = mpsc::channel(1);
        // They end with this task.
        let mut fetchers = JoinSet::new();
        for (index, source) in self.sources.iter().enumerate() {
            let Place::Url(url, again) = &source.place else { continue };
            let lists = self.config.trust_domains.iter().find(|lists| Some(lists.trust_domain.get()) == source.domain.as_ref());
            let Some(lists) = lists else { continue };
            let refresh = lists.refresh.0.duration();
            fetchers.spawn(keep_fetching(index, url.clone(), again.clone(), refresh, control.clone(), fetched.clone()));
        }
        let state = Arc::new(Mutex::new(self));
        let (mut answer, mut expired_at) = (None, None);
        loop {
            let (now, material) = (unix_now(), identity.borrow_and_update().material.clone());
            let is_published = sender.borrow().is_some();
            let is_first = !is_published && material.is_some();
            if is_published || is_first {
                let (state, of_round, answer) = (state.clone(), control.clone(), answer.take());
                // What was expected to expire has: peers may be verified differently from now on.
                let is_due = is_first || expired_at.is_some_and(|at| at <= now);
                // Serving waits for the first: files were read at the start, and are read again afterwards.
                let round = move || {
                    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.round(!is_first, is_due, material, answer, &of_round)
                };
                let late = || {
                    tracing::warn!(event = event::REVOCATION_TROUBLE, "revocation lists are not read yet; the file system may not answer");
                };
                match aside("revocation", round, late).await {
                    Ok(revocation) => {
                        control.loads.accepted(Subject::Revocation, THREAD);
                        if let Some(revocation) = revocation {
                            sender.send_replace(Some(Arc::new(revocation)));
                        }
                    }
                    Err(error) => trouble(&control, &RevocationError::Thread(error)),
                }
            }
            // What has expired since `now` is due at once.
            expired_at = sender.borrow().as_ref().and_then(|revocation| revocation.next_expiry(now));
            if is_first && sender.borrow().is_some() {
                // What has changed while we started.
                continue;
            }
            let expiry = expired_at.map_or(3600, |at| u64::try_from(at - unix_now()).unwrap_or(0));
            tokio::select! {
                () = watch.changed() => {}
                () = change(&mut identity) => {}
                // Before there is a bundle nobody can say who has signed what was fetched.
                Some(fetched) = answers.recv(), if is_published => answer = Some(fetched),
                () = sleep(Duration::from_secs(expiry)) => {}
            }
        }
    }

    /// Looks at all that may have changed. What is in force from now on, if that is something else or `is_due`.
    fn round(
        &mut self,
        reads_files: bool,
        is_due: bool,
        material: Option<Arc<Material>>,
        answer: Option<Answer>,
        control: &Control,
    ) -> Option<Revocation> {
        let mut signers_change = false;
        let mut is_change = is_due;
        if reads_files {
            let (denials, signers) = self.look_at_files(control);
            (is_change, signers_change) = (is_change | denials, signers);
        }
        if let Some((index, digest, content)) = answer
            && let Some(source) = self.sources.get_mut(index)
        {
            if source.is_refused || source.found.as_ref() != Some(&digest) {
                source.take(digest, Content { authorities: Vec::new(), ..content });
            } else {
                source.settle(control);
            }
        }
        let before = self.material.as_ref().map(Arc::as_ptr);
        if let Some(material) = material.filter(|material| signers_change || Some(Arc::as_ptr(material)) != before) {
            let is_same = self.material.as_ref().is_some_and(|before| before.lists == material.lists);
            if !is_same && let Some(source) = self.sources.iter_mut().find(|source| matches!(source.place, Place::WorkloadApi)) {
                (source.pending, source.is_new, source.holds_refused) = (Vec::new(), true, false);
                for der in &material.lists {
                    match Unproven::read(der.clone()) {
                        Ok(list) => source.pending.push(list),
                        Err(error) => {
                            source.holds_refused = true;
                            trouble(control, &RevocationError::List(Place::WorkloadApi.to_string(), error));
                        }
                    }
                }
            }
            let changed = self.find_authorities(&material);
            self.material = Some(material);
            is_change |= self.take_in(&changed, control);
        } else {
            is_change |= self.take_in(&BTreeSet::new(), control);
        }
        is_change.then(|| self.publish(reads_files, control))
    }

    fn publish(&self, is_news: bool, control: &Control) -> Revocation {
        let revocation = self.build();
        let lists: usize = revocation.domains.values().map(|domain| domain.lists.len()).sum();
        let denied = revocation.denied.len();
        if lists > 0 || self.is_configured() {
            let files = self.files();
            control.loads.loaded(Subject::Revocation, files.clone());
            control.audit.record(Event::RevocationChanged { lists: lists as u64, denied: denied as u64, files });
            if is_news {
                tracing::info!(event = event::REVOCATION_CHANGED, lists, denied, "revocation has changed");
            }
        }
        revocation
    }

    /// What is in force was made of these.
    fn files(&self) -> Vec<FileDigest> {
        let of_lists = self.sources.iter().filter_map(|source| source.in_force.clone());
        let of_denials = self
            .config
            .deny_lists
            .iter()
            .zip(&self.denied)
            .map(|(file, (text, _))| FileDigest::new(&file.display().to_string(), text.as_bytes()));
        of_lists.chain(of_denials).collect()
    }

    /// Reads what files hold now; lists are still to be taken in. Whether a deny list has changed, and whether others may sign lists.
    fn look_at_files(&mut self, control: &Control) -> (bool, bool) {
        let (mut changed, mut signers_change, mut read_anew) = (false, false, false);
        for source in &mut self.sources {
            let Place::File(file) = &source.place else { continue };
            match source.look(file) {
                Ok((digest, _)) if source.found.as_ref() == Some(&digest) => source.settle(control),
                Ok((digest, content)) => {
                    signers_change |= source.authorities != content.authorities;
                    source.take(digest, content);
                    read_anew = true;
                }
                Err(error) => trouble(control, &error),
            }
        }
        for (file, denied) in self.config.deny_lists.iter().zip(&mut self.denied) {
            match read_denied(file) {
                Ok(now) => {
                    control.loads.accepted(Subject::Revocation, &file.display().to_string());
                    if now.0 != denied.0 {
                        (*denied, changed) = (now, true);
                    }
                }
                Err(error) => trouble(control, &error),
            }
        }
        if changed || read_anew {
            control.telemetry.metrics.revocation_reloads(true).inc();
        }
        (changed, signers_change)
    }
}

impl Source {
    fn new(domain: Option<&TrustDomain>, place: Place) -> Self {
        Self {
            domain: domain.cloned(),
            place,
            found: None,
            pending: Vec::new(),
            authorities: Vec::new(),
            is_new: false,
            is_refused: false,
            holds_refused: false,
            in_force: None,
        }
    }

    fn take(&mut self, digest: FileDigest, content: Content) {
        (self.found, self.pending, self.authorities) = (Some(digest), content.lists, content.authorities);
        (self.is_new, self.is_refused, self.holds_refused) = (true, false, false);
    }

    /// Where all that it holds is taken in, nothing of it is refused any more.
    fn settle(&mut self, control: &Control) {
        if self.pending.is_empty() && !self.holds_refused && !self.is_new {
            self.in_force = self.found.clone();
            control.loads.accepted(Subject::Revocation, &self.place.to_string());
        }
    }

    /// Reads its file for the first time.
    fn look_first(&mut self, file: &Path) -> Result<(), RevocationError> {
        let (digest, content) = self.look(file)?;
        content.lists.iter().try_for_each(Unproven::check).map_err(|e| RevocationError::List(file.display().to_string(), e))?;
        self.take(digest, content);
        Ok(())
    }

    /// Reads its file; what is in it already is not looked at again.
    fn look(&self, file: &Path) -> Result<(FileDigest, Content), RevocationError> {
        let bytes = read(file)?;
        let digest = FileDigest::new(&file.display().to_string(), &bytes);
        if self.found.as_ref() == Some(&digest) {
            return Ok((digest, Content::default()));
        }
        let content = Content::read(bytes).map_err(|e| RevocationError::List(file.display().to_string(), e))?;
        Ok((digest, content))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Url(url, _) => write!(f, "{url}"),
            Self::WorkloadApi => f.write_str("the Workload API"),
        }
    }
}

fn trouble(control: &Control, error: &RevocationError) {
    control.telemetry.metrics.revocation_reloads(false).inc();
    let source = error.source_name();
    let why = one_line(&error.to_string());
    if control.loads.refused(Subject::Revocation, &source, &why) {
        control.audit.record(Event::RevocationRefused { source, why });
    }
    tracing::error!(event = event::REVOCATION_TROUBLE, "{error}; what was known before stays in force");
}

/// The bytes of a file, whatever is in it.
fn read(file: &Path) -> Result<Vec<u8>, RevocationError> {
    sidegate_config::file::read(file, LONGEST).map_err(|e| RevocationError::Read(file.to_owned(), e))
}

/// The text of a deny list, and what it says.
fn read_denied(file: &Path) -> Result<(String, Vec<Denied>), RevocationError> {
    let text =
        sidegate_config::file::read_text(file, sidegate_config::file::LARGE).map_err(|e| RevocationError::Read(file.to_owned(), e))?;
    let wrong_in = |problems| RevocationError::DenyList(file.to_owned(), problems);
    let (list, root) = sidegate_config::typed::<DenyList>(&file.display().to_string(), &text).map_err(wrong_in)?;
    let mut wrong = Problems::default();
    for (index, denied) in list.denied.iter().enumerate() {
        let path = format!("denied[{index}]");
        let mut say = |message: &str| wrong.push(&root.nearest(&path).location, &path, message.to_owned());
        if denied.spiffe_id.is_none() && denied.serial_number.is_none() {
            say("names nobody: set `spiffeId` or `serialNumber`");
        }
        if denied.serial_number.as_ref().is_some_and(|n| n.is_empty() || !n.chars().all(|c| c.is_ascii_hexdigit() || c == ':')) {
            say("`serialNumber` is not hexadecimal");
        }
    }
    wrong.or((text, list.denied)).map_err(wrong_in)
}

/// How long to wait after so many failures.
fn backoff(failures: u32, refresh: Duration) -> Duration {
    (AGAIN * 2_u32.saturating_pow(failures.clamp(1, 10) - 1)).min(refresh.max(AGAIN))
}

/// Fetches a list again and again, and hands on what can be read. Also at once, `again`: where others may sign lists than before.
async fn keep_fetching(
    index: usize,
    url: CollectorAddress,
    again: Arc<Notify>,
    refresh: Duration,
    control: Arc<Control>,
    answers: mpsc::Sender<Answer>,
) {
    let mut failures = 0_u32;
    loop {
        let fetched = match fetch(&url, control.settings.mark, LONGEST).await {
            Ok(bytes) => read_answer(url.to_string(), bytes).await,
            Err(why) => Err(why),
        };
        let wait = match fetched {
            Ok((digest, content)) => {
                let next_update = content.lists.iter().map(|list| list.next_update).min();
                if answers.send((index, digest, content)).await.is_err() {
                    return;
                }
                // In good time: a tenth of what is left. One that has expired already is asked for as if it had failed.
                let left = next_update.map_or(0, |at| u64::try_from(at.saturating_sub(unix_now())).unwrap_or(0));
                failures = if left == 0 { failures.saturating_add(1) } else { 0 };
                if left == 0 { backoff(failures, refresh) } else { refresh.min(Duration::from_secs(left).mul_f64(0.9)).max(AGAIN) }
            }
            Err(why) => {
                failures = failures.saturating_add(1);
                trouble(&control, &RevocationError::Fetch(url.to_string(), why));
                backoff(failures, refresh)
            }
        };
        // So that a thousand sidecars do not ask at the same moment.
        let _ = timeout(wait.mul_f64(0.9 + 0.1 * fastrand::f64()), again.notified()).await;
    }
}

/// Reads what a URL has answered, on a thread of its own.
async fn read_answer(url: String, bytes: Vec<u8>) -> Result<(FileDigest, Content), String> {
    let read = move || (FileDigest::new(&url, &bytes), Content::read(bytes));
    let (digest, content) = aside("revocation", read, || {}).await.map_err(|e| e.to_string())?;
    Ok((digest, content.map_err(|e| e.to_string())?))
}

#[cfg(test)]
mod tests;
