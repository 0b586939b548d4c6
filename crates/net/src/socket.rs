//! Socket options, and how a socket ends.

use std::io;
use std::net::Shutdown;
use std::time::Duration;

use sidegate_config::schema::Timeouts;
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

/// How long a peer that was told why has to take the alert, before the socket goes.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);

/// Who is at the other end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Facing {
    /// A peer on the network.
    Mesh,
    /// The application next to us.
    Workload,
}

/// Makes a socket ready for service: one that was dialled, or a listener, whose connections have it from there.
///
/// Until [`end_in_order`] it will be reset when dropped, by whatever path: a connection that is refused, cut, or lost
/// to a panic must never look to anybody like one that ended in order.
pub fn prepare(socket: &Socket, facing: Facing, timeouts: &Timeouts) -> io::Result<()> {
    reset_when_dropped(socket)?;
    socket.set_tcp_nodelay(true)?;
    let keepalive = timeouts.keepalive.duration();
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(keepalive).with_interval(Duration::from_secs(10)).with_retries(3))?;
    match facing {
        Facing::Mesh => socket.set_tcp_user_timeout(Some(timeouts.tcp_user.duration())),
        // Linux counts a closed window as unacknowledged: an application may take its time with reading.
        Facing::Workload => Ok(()),
    }
}

/// Until [`end_in_order`] the socket will be reset when dropped.
pub fn reset_when_dropped(socket: &Socket) -> io::Result<()> {
    socket.set_linger(Some(Duration::ZERO))
}

/// From now on dropping the socket closes it in order.
pub fn end_in_order(tcp: &TcpStream) {
    let _ = SockRef::from(tcp).set_linger(None);
}

/// Closes a socket to a peer once all that was written has been sent, FIN included: then whatever the kernel sends again is known
/// to be ours. A peer that takes nothing for as long as `most` is reset.
pub async fn close(tcp: TcpStream, most: Duration) {
    let deadline = Instant::now() + most;
    let mut pause = Duration::from_millis(5);
    // Nothing to wait for on nearly every socket, and the kernel has no event for it.
    // One that was reset has no peer, and sends nothing any more.
    while sidegate_system::unsent(&tcp).is_ok_and(|bytes| bytes > 0) && tcp.peer_addr().is_ok() {
        if Instant::now() >= deadline {
            let _ = reset_when_dropped(&SockRef::from(&tcp));
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// Sends FIN; reading goes on.
pub fn shutdown_write(tcp: &TcpStream) -> io::Result<()> {
    SockRef::from(tcp).shutdown(Shutdown::Write)
}

/// Closes so that an alert which has been sent arrives: a reset would overtake it. What the peer still sends is read
/// and thrown away, within a bound of time and bytes.
pub async fn linger_close(tcp: &TcpStream) {
    linger_close_after(tcp, || true).await;
}

/// As [`linger_close`], where the alert may not be sent yet: `sent` sends what the socket takes, and says whether that was all. A peer
/// that is writing may take nothing before it has been read.
pub async fn linger_close_after(tcp: &TcpStream, mut sent: impl FnMut() -> bool) {
    end_in_order(tcp);
    let deadline = Instant::now() + LINGER_TIMEOUT;
    let mut shut = false;
    // Not in the task, which is as large as the largest of its steps.
    let mut scrap = vec![0; 16 * 1024];
    for _ in 0..64 {
        if !shut && sent() {
            shut = true;
            if shutdown_write(tcp).is_err() {
                return;
            }
        }
        let interest = if shut { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        match timeout_at(deadline, tcp.ready(interest)).await {
            Ok(Ok(_)) => {}
            _ => return,
        }
        match tcp.try_read(&mut scrap) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
