//! Syslog over TLS: RFC 5424 messages, framed as RFC 5425 §4.3 has it.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde::Deserialize;
use sidegate_config::schema::audit::Syslog;
use sidegate_tls::{ClientConfig, CollectorConfig};

use crate::state::IdentityCell;

/// The timeout of one step: connect, handshake or write.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Facility 13, log audit, and severity 5, notice (RFC 5424 §6.2.1).
const PRIORITY: u8 = 13 * 8 + 5;

/// A syslog collector.
pub(crate) struct SyslogSink {
    config: Syslog,
    mark: Option<u32>,
    tls: CollectorConfig,
    identity: IdentityCell,
    host: String,
    /// The connection, and by which configuration it was made.
    connection: Option<(Arc<ClientConfig>, StreamOwned<ClientConnection, TcpStream>)>,
}

impl SyslogSink {
    pub(crate) fn new(config: Syslog, mark: Option<u32>, identity: IdentityCell) -> Self {
        // RFC 5424 §6.2.4: printable ASCII without spaces, or nothing.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim();
        let host = if !host.is_empty() && host.len() <= 255 && host.bytes().all(|b| b.is_ascii_graphic()) { host } else { "-" };
        let tls = CollectorConfig::new(config.tls.clone(), &format!("syslog {}", config.to));
        Self { host: host.to_owned(), config, mark, tls, identity, connection: None }
    }

    /// Sends a line of the log. Syslog has no acknowledgement: lines sent just before a connection breaks may be lost. The
    /// numbers of the records show that.
    pub(crate) fn deliver(&mut self, line: &[u8]) -> io::Result<()> {
        let message = message(line, &self.host)?;
        let material = self.identity.get().and_then(|state| state.borrow().material.clone());
        let config = self.tls.current(material).map_err(io::Error::other)?;
        // A new SVID or bundle means a new connection.
        if self.connection.as_ref().is_none_or(|(made_by, _)| !Arc::ptr_eq(made_by, &config)) {
            self.connection = Some((config.clone(), self.connect(config)?));
        }
        let Some((_, stream)) = &mut self.connection else { return Err(io::Error::other("there is no connection")) };
        let sent = is_open(stream).and_then(|()| stream.write_all(&message)).and_then(|()| stream.flush());
        if sent.is_err() {
            self.connection = None;
        }
        sent
    }

    fn connect(&self, config: Arc<ClientConfig>) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let to = self.config.to.get();
        let name = self.config.tls.server_name.as_ref().map_or(&to.host, |name| name.get());
        let name = ServerName::try_from(name.clone()).map_err(|_| io::Error::other(format!("`{name}` is no name for a certificate")))?;
        let mut last = io::Error::other(format!("`{}` has no address", to.host));
        for address in (to.host.as_str(), to.port).to_socket_addrs()? {
            match connect_tcp(address, self.mark) {
                Ok(tcp) => {
                    let client = ClientConnection::new(config, name).map_err(io::Error::other)?;
                    let mut stream = StreamOwned::new(client, tcp);
                    while stream.conn.is_handshaking() {
                        stream.conn.complete_io(&mut stream.sock)?;
                    }
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Reads what the collector has sent, mostly session tickets, and detects whether it has closed.
fn is_open(stream: &mut StreamOwned<ClientConnection, TcpStream>) -> io::Result<()> {
    stream.sock.set_nonblocking(true)?;
    let read = loop {
        match stream.conn.read_tls(&mut stream.sock) {
            Ok(0) => break Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the collector has closed the connection")),
            Ok(_) => {
                let state = stream.conn.process_new_packets().map_err(io::Error::other)?;
                if state.peer_has_closed() || state.plaintext_bytes_to_read() > 0 {
                    break Err(io::Error::other("the collector has closed the connection, or speaks where it should listen"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    stream.sock.set_nonblocking(false)?;
    read
}

fn connect_tcp(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let tcp = sidegate_net::dial_blocking(address, mark, TIMEOUT)?;
    tcp.set_read_timeout(Some(TIMEOUT))?;
    tcp.set_write_timeout(Some(TIMEOUT))?;
    Ok(tcp)
}

/// A record as a syslog message with its length before it.
fn message(line: &[u8], host: &str) -> io::Result<Vec<u8>> {
    #[derive(Deserialize)]
    struct SyslogFields<'a> {
        time: &'a str,
        event: &'a str,
    }
    let head: SyslogFields<'_> = serde_json::from_slice(line).map_err(io::Error::other)?;
    // RFC 5424 §6.2.7: a message ID has 32 characters at most; our events' names are shorter.
    let (time, event, pid) = (head.time, head.event, std::process::id());
    let start = format!("<{PRIORITY}>1 {time} {host} sidegate {pid} {event} - ");
    let mut message = format!("{} {start}", start.len() + line.len()).into_bytes();
    message.extend_from_slice(line);
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_its_length_and_has_each_field() {
        let line = br#"{"v":1,"seq":7,"time":"2026-01-02T03:04:05.000006Z","event":"log.gap","missing":3}"#;
        let text = String::from_utf8(message(line, "pod-1").unwrap()).unwrap();
        let (length, rest) = text.split_once(' ').unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), rest.len());
        let pid = std::process::id();
        let expected = format!("<109>1 2026-01-02T03:04:05.000006Z pod-1 sidegate {pid} log.gap - {}", std::str::from_utf8(line).unwrap());
        assert_eq!(rest, expected);
    }
}
