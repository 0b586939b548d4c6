//! An API server that serves recorded pods over TLS, and misbehaves on demand.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

/// What is answered to who has the right token.
#[derive(Clone)]
pub(crate) enum Says {
    Pod(Value),
    Status(u16),
    Text(&'static str),
    /// Nothing, for ever.
    Nothing,
}

pub(crate) struct ApiServer {
    pub(crate) address: SocketAddr,
    pub(crate) ca_file: PathBuf,
    pub(crate) token_file: PathBuf,
    answers: Arc<Mutex<BTreeMap<String, Says>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

const TOKEN: &str = "a.service-account.token";

impl ApiServer {
    /// Serves on `listener` until the process ends, with its files in `folder`.
    pub(crate) fn serve(listener: TcpListener, folder: &Path) -> Self {
        let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let (ca_file, token_file) = (folder.join("ca.crt"), folder.join("token"));
        std::fs::write(&ca_file, issued.cert.pem()).unwrap();
        // As a file that an editor has written.
        std::fs::write(&token_file, format!("{TOKEN}\n")).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = Arc::new(tls.with_no_client_auth().with_single_cert(vec![issued.cert.der().clone()], key).unwrap());
        let server =
            Self { address: listener.local_addr().unwrap(), ca_file, token_file, answers: Arc::default(), requests: Arc::default() };
        let (answers, requests) = (server.answers.clone(), server.requests.clone());
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let (tls, answers, requests) = (tls.clone(), answers.clone(), requests.clone());
                std::thread::spawn(move || answer(tcp, &tls, &answers, &requests));
            }
        });
        server
    }

    /// What is answered about a pod from now on.
    pub(crate) fn say(&self, namespace: &str, name: &str, says: Says) {
        self.answers.lock().unwrap().insert(format!("/api/v1/namespaces/{namespace}/pods/{name}"), says);
    }

    /// The paths that were asked for.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(tcp: TcpStream, tls: &Arc<ServerConfig>, answers: &Mutex<BTreeMap<String, Says>>, requests: &Mutex<Vec<String>>) {
    let mut stream = StreamOwned::new(ServerConnection::new(tls.clone()).unwrap(), tcp);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let says = answers.lock().unwrap().get(&path).cloned().unwrap_or(Says::Status(404));
    requests.lock().unwrap().push(path);
    let is_known = head.lines().any(|line| line.eq_ignore_ascii_case(&format!("authorization: Bearer {TOKEN}")));
    let (status, body) = match says {
        _ if !is_known => (401, String::new()),
        Says::Pod(pod) => (200, pod.to_string()),
        Says::Text(text) => (200, text.to_owned()),
        Says::Status(status) => (status, String::new()),
        Says::Nothing => {
            // The client gives up.
            let _ = stream.read(&mut [0]);
            return;
        }
    };
    let _ = write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let _ = stream.read(&mut [0]);
}
