//! Sockets as tests use them: blocking, each with a deadline.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::wait::DEADLINE;

/// A port on loopback that nobody else in this process was or will be given.
///
/// It is outside the range from which the kernel takes ports for outgoing connections, so that none of those that the
/// tests make takes it meanwhile.
pub fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    loop {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) + usize::try_from(std::process::id()).unwrap() * 37;
        let port = u16::try_from(10_000 + offset % 20_000).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && TcpListener::bind(("::1", port)).is_ok() {
            return port;
        }
    }
}

/// A listener on loopback, on a port as [`free_port`] gives them.
///
/// A port that was free a moment ago may not be: a process that is being started holds copies of this one's descriptors,
/// also of the listener that tried the port, until it runs its own program.
fn listener() -> TcpListener {
    loop {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())) {
            return listener;
        }
    }
}

/// Bytes that differ at every position for some distance, so that what is lost, doubled or swapped shows.
pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Reads to the end, within the deadline.
pub fn read_all(tcp: &mut TcpStream) -> io::Result<Vec<u8>> {
    tcp.set_read_timeout(Some(DEADLINE))?;
    let mut bytes = Vec::new();
    tcp.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Sends `bytes`, half-closes, and reads what comes back to the end.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut tcp = TcpStream::connect_timeout(&address, DEADLINE)?;
    tcp.set_write_timeout(Some(DEADLINE))?;
    let mut writer = tcp.try_clone()?;
    let bytes = bytes.to_vec();
    // An echo of more than the buffers hold needs somebody who reads meanwhile.
    let writing = std::thread::spawn(move || {
        writer.write_all(&bytes)?;
        writer.shutdown(Shutdown::Write)
    });
    let answer = read_all(&mut tcp)?;
    writing.join().map_err(|_| io::Error::other("the writer panicked"))??;
    Ok(answer)
}

/// Whether `address` echoes a pattern of `length` bytes unharmed.
pub fn echo_bytes(address: SocketAddr, length: usize, seed: u64) -> Result<(), String> {
    let sent = pattern(length, seed);
    match exchange(address, &sent) {
        Ok(answer) if answer == sent => Ok(()),
        Ok(answer) => Err(format!("sent {} bytes, {} came back, or others", sent.len(), answer.len())),
        Err(error) => Err(error.to_string()),
    }
}

/// A server that sends back what it gets, and half-closes when its client has. Ends when dropped.
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections that it has accepted.
    pub accepted: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Echo {
    /// On a free port of 127.0.0.1.
    pub fn start() -> Self {
        Self::on(listener())
    }

    /// On a listener, which may be of another network namespace.
    pub fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let (accepted, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        listener.set_nonblocking(true).unwrap();
        let thread = {
            let (accepted, stop) = (accepted.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((tcp, _)) => {
                            accepted.fetch_add(1, Ordering::Relaxed);
                            tcp.set_nonblocking(false).unwrap();
                            std::thread::spawn(move || echo(tcp));
                        }
                        Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
                    }
                }
            })
        };
        Self { address, accepted, stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn echo(mut tcp: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match tcp.read(&mut buffer) {
            Ok(0) => {
                let _ = tcp.shutdown(Shutdown::Write);
                return;
            }
            Ok(read) if tcp.write_all(&buffer[..read]).is_ok() => {}
            _ => return,
        }
    }
}
