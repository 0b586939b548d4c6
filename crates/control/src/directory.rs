//! What the directory of a cluster has said: who is expected to answer at an address.
//!
//! A worker that needs an address looks here. What is not known yet is asked for, by a bounded list that `directory_client` sends, and
//! the connection waits.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use sidegate_config::schema::{self, TunnelMode};
use sidegate_core::SpiffeId;
use sidegate_directory::{Entry, ServicePort, Unidentified};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::settings::Destination;

/// Questions that wait until they are sent. A connection whose question finds no room is answered that the directory is not available.
const QUESTIONS: usize = 1024;
/// What no connection has needed for so long is forgotten.
const UNUSED: Duration = Duration::from_secs(3600);

/// Who is expected at an address and port.
#[derive(Debug, Clone)]
pub enum Expected {
    /// These may answer.
    Destination(Arc<Destination>),
    /// Nobody can prove an identity there; with the reason.
    Nobody(String),
    /// It is not in the mesh; with the reason.
    Outside(String),
    /// It is not known; with the reason.
    Unavailable(String),
}

/// What the directory has said, and where to ask.
#[derive(Debug)]
pub struct Directory {
    /// Held for a look only; workers and the client never wait in it.
    table: Mutex<Table>,
    /// What nobody has answered yet, and whether it was sent on this stream.
    questions: Mutex<BTreeMap<IpAddr, bool>>,
    /// Wakes who sends them.
    asked: Notify,
    /// Counts answers.
    answers: watch::Sender<u64>,
    /// Why nobody can be asked, if so.
    unavailable: ArcSwapOption<String>,
    wait: Duration,
    tunnel: TunnelMode,
    most: usize,
    start: Instant,
}

/// By address, its octets in IPv6's form: half as long as a hash table of [`IpAddr`].
#[derive(Debug, Default)]
struct Table {
    slots: BTreeMap<[u8; 16], Slot>,
    /// Pods of one workload share what is known of them.
    shared: HashSet<Arc<Known>>,
}

#[derive(Debug)]
struct Slot {
    known: Arc<Known>,
    /// When a connection last needed it, in seconds since the start.
    used: AtomicU32,
}

/// What is known of an address. Equal are those with the same version, which is a digest of what was sent.
#[derive(Debug)]
struct Known {
    version: Box<str>,
    holder: Holder,
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}

impl Eq for Known {}

impl std::hash::Hash for Known {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.version.hash(state);
    }
}

#[derive(Debug)]
enum Holder {
    /// Nobody has it, as far as the cluster knows.
    Absent,
    Workload(Arc<Destination>),
    Service {
        name: Box<str>,
        ports: Box<[Port]>,
    },
    Unidentified {
        name: Box<str>,
        why: Unidentified,
    },
}

#[derive(Debug)]
struct Port {
    port: u16,
    servers: Result<Arc<Destination>, Unidentified>,
    endpoints: Box<[SocketAddr]>,
}

impl Directory {
    /// One that knows nothing yet.
    #[must_use]
    pub(crate) fn new(config: &schema::Directory) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::default(),
            questions: Mutex::default(),
            asked: Notify::new(),
            answers: watch::Sender::new(0),
            unavailable: ArcSwapOption::empty(),
            wait: config.wait.duration(),
            tunnel: config.tunnel,
            most: config.addresses as usize,
            start: Instant::now(),
        })
    }

    /// Waits for questions that were not sent yet, and takes at most `most` of them as sent.
    pub(crate) async fn questions(&self, most: usize) -> Vec<IpAddr> {
        loop {
            let unsent = take(lock(&self.questions).iter_mut().filter(|(_, sent)| !**sent).take(most));
            if !unsent.is_empty() {
                return unsent;
            }
            self.asked.notified().await;
        }
    }

    /// All questions, which are sent with the beginning of a stream.
    pub(crate) fn all_questions(&self) -> Vec<IpAddr> {
        take(lock(&self.questions).iter_mut())
    }

    /// Asks about `ip`. False if too many questions wait.
    fn ask(&self, ip: IpAddr) -> bool {
        let mut questions = lock(&self.questions);
        if questions.len() >= QUESTIONS && !questions.contains_key(&ip) {
            return false;
        }
        questions.entry(ip).or_insert(false);
        self.asked.notify_one();
        true
    }

    /// Who is expected at `to`. What is not known is asked for, and waited for.
    pub async fn expected(&self, to: SocketAddr) -> Expected {
        if let Some(expected) = self.known(to) {
            return expected;
        }
        let mut answers = self.answers.subscribe();
        let is_asked = self.ask(to.ip());
        if let Some(why) = self.unavailable() {
            return Expected::Unavailable(format!("the directory can't be asked about {to}: {why}"));
        }
        if !is_asked {
            return Expected::Unavailable(format!("the directory can't be asked about {to}: too many questions wait"));
        }
        let answered = async {
            loop {
                // After the subscription, so that no answer comes between unseen.
                if let Some(expected) = self.known(to) {
                    return expected;
                }
                if answers.changed().await.is_err() {
                    return Expected::Unavailable(format!("the directory can't be asked about {to}: sidegate ends"));
                }
                if let Some(why) = self.unavailable() {
                    return Expected::Unavailable(format!("the directory did not answer about {to}: {why}"));
                }
            }
        };
        let late = || Expected::Unavailable(format!("the directory did not say within {:?} who is expected at {to}", self.wait));
        timeout(self.wait, answered).await.unwrap_or_else(|_| late())
    }

    /// Who is expected at `to`, if that is known.
    #[must_use]
    pub fn known(&self, to: SocketAddr) -> Option<Expected> {
        let table = self.table();
        let slot = table.slots.get(&key(to.ip()))?;
        slot.used.store(self.now(), Ordering::Relaxed);
        Some(slot.known.holder.expected(to))
    }

    /// One of those that connections to the service at `to` lead to, chosen at random. None if it is no service's address.
    #[must_use]
    pub fn any_endpoint(&self, to: SocketAddr) -> Option<SocketAddr> {
        let table = self.table();
        let Holder::Service { ports, .. } = &table.slots.get(&key(to.ip()))?.known.holder else { return None };
        let endpoints = &ports.iter().find(|port| port.port == to.port())?.endpoints;
        (!endpoints.is_empty()).then(|| endpoints[fastrand::usize(..endpoints.len())])
    }

    /// Whether `endpoint` is one that connections to the service at `to` lead to.
    #[must_use]
    pub fn is_behind(&self, to: SocketAddr, endpoint: SocketAddr) -> bool {
        let table = self.table();
        let Some(Slot { known, .. }) = table.slots.get(&key(to.ip())) else { return false };
        let Holder::Service { ports, .. } = &known.holder else { return false };
        ports.iter().filter(|port| port.port == to.port()).any(|port| port.endpoints.contains(&endpoint))
    }

    /// How many addresses are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table().slots.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Why nobody can be asked, if so.
    #[must_use]
    pub fn unavailable(&self) -> Option<Arc<String>> {
        self.unavailable.load_full()
    }

    /// Whether it can be asked from now on: not, for this reason.
    pub(crate) fn set_unavailable(&self, why: Option<String>) {
        self.unavailable.store(why.map(Arc::new));
        self.answers.send_modify(|count| *count += 1);
    }

    /// Takes what was said: entries with their versions, and addresses of which there is none. What was neither asked nor known is left
    /// out: it was forgotten while the answer was on its way. Returns what is forgotten for what is new.
    pub(crate) fn learn(&self, mut entries: Vec<(IpAddr, String, Entry)>, mut absent: Vec<IpAddr>) -> Vec<IpAddr> {
        let now = self.now();
        let mut table = self.table();
        {
            let mut questions = lock(&self.questions);
            let mut is_wanted = |ip: &IpAddr| questions.remove(ip).is_some() || table.slots.contains_key(&key(*ip));
            entries.retain(|(ip, ..)| is_wanted(ip));
            absent.retain(is_wanted);
        }
        let learned: HashSet<[u8; 16]> = entries.iter().map(|(ip, ..)| key(*ip)).chain(absent.iter().map(|ip| key(*ip))).collect();
        let new = learned.iter().filter(|key| !table.slots.contains_key(*key)).count();
        // Room first, and never of what is learned now. A sixteenth more than has to be, so that not each new address costs a look at all.
        let surplus = (table.slots.len() + new).saturating_sub(self.most);
        let forgotten = if surplus > 0 { table.forget_oldest(surplus + self.most / 16, &learned) } else { Vec::new() };
        for (ip, version, entry) in entries {
            table.set(ip, Known { version: version.into(), holder: Holder::new(entry, self.tunnel) }, now);
        }
        for ip in absent {
            table.set(ip, Known { version: "".into(), holder: Holder::Absent }, now);
        }
        drop(table);
        self.answers.send_modify(|count| *count += 1);
        forgotten
    }

    /// Forgets what nobody has needed for long, and returns it.
    pub(crate) fn forget_unused(&self) -> Vec<IpAddr> {
        let before = self.now().saturating_sub(u32::try_from(UNUSED.as_secs()).unwrap_or(u32::MAX));
        let mut table = self.table();
        table.forget(|_, used| used < before)
    }

    /// All addresses, and the version of what is known of them. What there is nothing of has none.
    pub(crate) fn versions(&self) -> Vec<(IpAddr, Option<String>)> {
        let table = self.table();
        let version = |known: &Known| (!known.version.is_empty()).then(|| known.version.to_string());
        table.slots.iter().map(|(key, slot)| (address(key), version(&slot.known))).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    fn now(&self) -> u32 {
        u32::try_from(self.start.elapsed().as_secs()).unwrap_or(u32::MAX)
    }
}

impl Table {
    fn set(&mut self, ip: IpAddr, known: Known, now: u32) {
        let known = match self.shared.get(&known) {
            Some(shared) => shared.clone(),
            None => {
                let known = Arc::new(known);
                self.shared.insert(known.clone());
                known
            }
        };
        match self.slots.get_mut(&key(ip)) {
            Some(slot) => {
                let before = std::mem::replace(&mut slot.known, known);
                self.release(&before);
            }
            None => {
                self.slots.insert(key(ip), Slot { known, used: now.into() });
            }
        }
    }

    /// Of the shared ones only those stay that an address has.
    fn release(&mut self, known: &Arc<Known>) {
        if Arc::strong_count(known) == 2 {
            self.shared.remove(known);
        }
    }

    fn forget(&mut self, which: impl Fn(&[u8; 16], u32) -> bool) -> Vec<IpAddr> {
        let is_gone = |(key, slot): &(&[u8; 16], &Slot)| which(key, slot.used.load(Ordering::Relaxed));
        let gone: Vec<[u8; 16]> = self.slots.iter().filter(is_gone).map(|(key, _)| *key).collect();
        for key in &gone {
            if let Some(slot) = self.slots.remove(key) {
                self.release(&slot.known);
            }
        }
        gone.iter().map(address).collect()
    }

    /// Forgets those which no connection has needed for the longest, but none of `kept`.
    fn forget_oldest(&mut self, count: usize, kept: &HashSet<[u8; 16]>) -> Vec<IpAddr> {
        let slots = self.slots.iter().filter(|(key, _)| !kept.contains(*key));
        let mut by_age: Vec<(u32, [u8; 16])> = slots.map(|(key, slot)| (slot.used.load(Ordering::Relaxed), *key)).collect();
        by_age.sort_unstable();
        by_age.truncate(count);
        let gone: HashSet<[u8; 16]> = by_age.into_iter().map(|(_, key)| key).collect();
        self.forget(|key, _| gone.contains(key))
    }
}

impl Holder {
    fn new(entry: Entry, tunnel: TunnelMode) -> Self {
        let destination = |name: &str, ids: &[SpiffeId]| Arc::new(Destination::of_directory(name, ids, tunnel));
        match entry {
            Entry::Workload { name, id } => Self::Workload(destination(&name, &[id])),
            Entry::Service { name, ports } => {
                let port = |port: ServicePort| Port {
                    port: port.port,
                    servers: port.ids.map(|ids| destination(&name, &ids)),
                    endpoints: port.endpoints.into(),
                };
                Self::Service { ports: ports.into_iter().map(port).collect(), name: name.into() }
            }
            Entry::Unidentified { name, why } => Self::Unidentified { name: name.into(), why },
        }
    }

    fn expected(&self, to: SocketAddr) -> Expected {
        match self {
            Self::Absent => Expected::Outside(format!("no destination covers {to}, and the directory knows nothing of it")),
            Self::Workload(destination) => Expected::Destination(destination.clone()),
            Self::Service { name, ports } => match ports.iter().find(|port| port.port == to.port()) {
                Some(Port { servers: Ok(destination), .. }) => Expected::Destination(destination.clone()),
                Some(Port { servers: Err(why), .. }) => nobody(&format!("behind the service {name}, {to},"), *why),
                None => Expected::Nobody(format!("the service {name} has no port {}", to.port())),
            },
            Self::Unidentified { name, why } => nobody(&format!("at {to}, {name},"), *why),
        }
    }
}

fn nobody(place: &str, why: Unidentified) -> Expected {
    match why {
        Unidentified::NotInMesh => Expected::Outside(format!("{place} there is no sidecar")),
        Unidentified::HostNetwork => {
            Expected::Nobody(format!("{place} there is a pod on its node's network, which has no identity of its own"))
        }
        Unidentified::NoEndpoints => Expected::Nobody(format!("{place} there is no endpoint")),
        Unidentified::TooLarge => Expected::Nobody(format!("{place} there are more ports or identities than the directory tells of")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes questions as sent.
fn take<'a>(questions: impl Iterator<Item = (&'a IpAddr, &'a mut bool)>) -> Vec<IpAddr> {
    let take = |(ip, sent): (&IpAddr, &mut bool)| {
        *sent = true;
        *ip
    };
    questions.map(take).collect()
}

fn key(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn address(key: &[u8; 16]) -> IpAddr {
    IpAddr::from(*key).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(most: u32) -> Arc<Directory> {
        let text = format!("to: c:1\nspiffeIds: ['spiffe://a.b/c']\naddresses: {most}");
        Directory::new(&sidegate_config::typed::<schema::Directory>("x", &text).unwrap().0)
    }

    fn workload(name: &str) -> (String, Entry) {
        let id = SpiffeId::new(format!("spiffe://a.b/{name}")).unwrap();
        (name.to_owned(), Entry::Workload { name: format!("ns/{name}"), id })
    }

    fn ip(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0A00_0000 + n).into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_waits_for_the_answer_and_no_longer_than_it_may() {
        let directory = directory(10);
        let to = SocketAddr::new(ip(1), 80);
        let start = tokio::time::Instant::now();
        directory.set_unavailable(Some("refused".to_owned()));
        assert!(matches!(directory.expected(to).await, Expected::Unavailable(why) if why.contains("refused")));
        assert_eq!(start.elapsed(), Duration::ZERO);
        directory.set_unavailable(None);
        assert!(matches!(directory.expected(to).await, Expected::Unavailable(why) if why.contains("within 2s")));
        assert_eq!(start.elapsed(), Duration::from_secs(2));
        let (version, entry) = workload("web");
        let answer = async {
            // All three asked the same, which is one question.
            assert_eq!(directory.questions(10).await, [ip(1)]);
            directory.learn(vec![(ip(1), version, entry)], Vec::new());
        };
        let (expected, ()) = tokio::join!(directory.expected(to), answer);
        assert!(matches!(expected, Expected::Destination(destination) if &*destination.name == "ns/web"));
        // What is known stays valid without a directory.
        directory.set_unavailable(Some("gone".to_owned()));
        assert!(matches!(directory.expected(to).await, Expected::Destination(_)));
    }

    #[tokio::test]
    async fn questions_are_bounded_and_stay_until_they_are_answered() {
        let directory = directory(10);
        let asked = (0..2 * u32::try_from(QUESTIONS).unwrap()).filter(|n| directory.ask(ip(*n))).count();
        assert_eq!(asked, QUESTIONS);
        assert!(directory.ask(ip(0)), "it waits already");
        assert_eq!(directory.questions(3).await, [ip(0), ip(1), ip(2)]);
        assert_eq!(directory.questions(1).await, [ip(3)]);
        // A new stream asks all of them again.
        assert_eq!(directory.all_questions().len(), QUESTIONS);
        directory.learn(Vec::new(), vec![ip(0)]);
        assert_eq!(directory.all_questions().len(), QUESTIONS - 1);
    }

    #[test]
    fn a_service_expects_by_port() {
        let directory = directory(10);
        let id = SpiffeId::new("spiffe://a.b/db").unwrap();
        let port = |port, ids, endpoints| ServicePort { port, ids, endpoints };
        let (vip, endpoint) = (ip(9), SocketAddr::new(ip(1), 5433));
        let ports = vec![
            port(5432, Ok(vec![id]), vec![endpoint]),
            port(80, Err(Unidentified::NotInMesh), Vec::new()),
            port(81, Err(Unidentified::NoEndpoints), Vec::new()),
        ];
        assert!(directory.ask(vip) && directory.ask(ip(8)));
        directory.learn(vec![(vip, "1".to_owned(), Entry::Service { name: "ns/db".to_owned(), ports })], vec![ip(8)]);
        let expected = |port| directory.known(SocketAddr::new(vip, port)).unwrap();
        assert!(matches!(expected(5432), Expected::Destination(_)));
        assert!(matches!(expected(80), Expected::Outside(_)));
        // Not what leaves the mesh in plaintext: the endpoints may come at any moment.
        assert!(matches!(expected(81), Expected::Nobody(why) if why.contains("no endpoint")));
        assert!(matches!(expected(82), Expected::Nobody(why) if why.contains("no port 82")));
        assert!(directory.is_behind(SocketAddr::new(vip, 5432), endpoint));
        assert!(!directory.is_behind(SocketAddr::new(vip, 80), endpoint));
        assert!(!directory.is_behind(SocketAddr::new(ip(8), 5432), endpoint));
        assert!(matches!(directory.known(SocketAddr::new(ip(8), 80)), Some(Expected::Outside(_))));
        assert!(directory.known(SocketAddr::new(ip(7), 80)).is_none());
    }

    #[test]
    fn what_is_known_is_bounded_and_shared() {
        let directory = directory(100);
        for n in 0..1000 {
            let (version, entry) = workload(if n % 2 == 0 { "even" } else { "odd" });
            assert!(directory.ask(ip(n)));
            directory.learn(vec![(ip(n), version, entry)], Vec::new());
            assert!(directory.len() <= 100);
            assert!(directory.known(SocketAddr::new(ip(n), 80)).is_some(), "the newest stays");
        }
        let shared = || directory.table().shared.len();
        assert_eq!(shared(), 2);
        let known: Vec<IpAddr> = directory.versions().into_iter().map(|(ip, _)| ip).collect();
        assert!(directory.learn(Vec::new(), known).is_empty(), "what is said of a known address again takes no place");
        assert_eq!(shared(), 1, "what nobody has any more is gone");
        // It was forgotten before the answer came.
        let (version, entry) = workload("late");
        directory.learn(vec![(ip(5000), version, entry)], Vec::new());
        assert!(directory.known(SocketAddr::new(ip(5000), 80)).is_none());
        let many: Vec<IpAddr> = (2000..2050).map(ip).collect();
        assert!(many.iter().all(|ip| directory.ask(*ip)));
        let forgotten = directory.learn(Vec::new(), many.clone());
        assert!(!forgotten.is_empty() && forgotten.iter().all(|ip| !many.contains(ip)), "nothing of an answer is forgotten for it");
        assert!(directory.len() <= 100);
    }
}
