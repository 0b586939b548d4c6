//! A server that lists and watches recorded objects as a kube-apiserver does: HTTP/1.1, JSON, watches as chunked lines.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// A server of recorded objects. Dropping it, or [`ApiServer::stop`], ends its connections.
pub struct ApiServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By path of the collection, then by `namespace/name`.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// What has happened, for watches that begin at an older version: collection, version, event.
    events: Vec<(String, u64, Value)>,
    watches: Vec<(String, TcpStream)>,
    connections: Vec<TcpStream>,
    stopped: bool,
}

fn collection(object: &Value) -> &'static str {
    match object["kind"].as_str().unwrap() {
        "Pod" => "/api/v1/pods",
        "Service" => "/api/v1/services",
        "EndpointSlice" => "/apis/discovery.k8s.io/v1/endpointslices",
        kind => panic!("no collection of {kind}"),
    }
}

fn name(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

impl ApiServer {
    /// Serves on `listener`.
    pub fn on(listener: TcpListener) -> Self {
        let state = Arc::new(Mutex::new(State { version: 1, ..State::default() }));
        let serving = state.clone();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let mut locked = serving.lock().unwrap();
                if locked.stopped {
                    return;
                }
                locked.connections.push(tcp.try_clone().unwrap());
                drop(locked);
                let state = serving.clone();
                std::thread::spawn(move || serve(&tcp, &state));
            }
        });
        Self { address, state }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The configuration of a client that asks it at `address`.
    pub fn kubeconfig(address: SocketAddr) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "test", "user": {} }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        })
        .to_string()
    }

    /// An object as it is now.
    pub fn set(&self, mut object: Value) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        let of_kind = state.objects.entry(collection(&object).to_owned()).or_default();
        let kind = if of_kind.insert(name(&object), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        state.tell(kind, object);
    }

    /// The object is no more.
    pub fn delete(&self, object: &Value) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let version = state.version.to_string();
        let mut gone = state.objects.get_mut(collection(object)).unwrap().remove(&name(object)).unwrap();
        gone["metadata"]["resourceVersion"] = version.into();
        state.tell("DELETED", gone);
    }

    /// Ends all connections, and takes no more.
    pub fn stop(&self) {
        let mut state = self.state.lock().unwrap();
        state.stopped = true;
        state.watches.clear();
        for tcp in state.connections.drain(..) {
            let _ = tcp.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn tell(&mut self, kind: &str, object: Value) {
        let (path, event) = (collection(&object).to_owned(), json!({ "type": kind, "object": object }));
        self.watches.retain_mut(|(watched, tcp)| *watched != path || chunk(tcp, &event).is_ok());
        self.events.push((path, self.version, event));
    }
}

fn chunk(tcp: &mut TcpStream, event: &Value) -> std::io::Result<()> {
    let line = format!("{event}\n");
    write!(tcp, "{:x}\r\n{line}\r\n", line.len())
}

fn serve(tcp: &TcpStream, state: &Mutex<State>) {
    tcp.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    let (mut reader, mut writer) = (BufReader::new(tcp.try_clone().unwrap()), tcp.try_clone().unwrap());
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            head.push(line);
        }
        let target = head[0].split(' ').nth(1).unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let mut locked = state.lock().unwrap();
        if locked.stopped {
            return;
        }
        if parameter("watch") == Some("true") {
            if write!(writer, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n").is_err() {
                return;
            }
            let since: u64 = parameter("resourceVersion").unwrap().parse().unwrap();
            for (_, _, event) in locked.events.iter().filter(|(of, version, _)| of == path && *version > since) {
                if chunk(&mut writer, event).is_err() {
                    return;
                }
            }
            locked.watches.push((path.to_owned(), writer));
            return;
        }
        // In pages, each of which says where the next begins.
        let from: usize = parameter("continue").map_or(0, |token| token.parse().unwrap());
        let most: usize = parameter("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
        let all = || locked.objects.get(path).into_iter().flat_map(BTreeMap::values);
        let items: Vec<&Value> = all().skip(from).take(most).collect();
        let next = from + items.len();
        let token = if next < all().count() { next.to_string() } else { String::new() };
        let metadata = json!({ "resourceVersion": locked.version.to_string(), "continue": token });
        let list = json!({ "kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items });
        let body = list.to_string();
        if write!(writer, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).is_err() {
            return;
        }
    }
}
