//! Proves that the kernel sends the pod's traffic here: at the start, and again now and then.
//!
//! A sidecar without kernel rules sees nothing and protects nothing, and looks well. So it connects to the addresses of a
//! [`Proof`], which only the rules lead back to it, and is not ready while they don't.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sidegate_audit::Event;
use sidegate_core::event;
use sidegate_redirect::Proof;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::capture::Capture;
use crate::shared::Shared;
use sidegate_net::socket::reset_when_dropped;

/// Between two looks while the rules are in place, and while they are not.
const PROVEN: Duration = Duration::from_secs(10);
const UNPROVEN: Duration = Duration::from_secs(1);
/// Loopback answers at once, unless the kernel is out of something.
const PROOF_TIMEOUT: Duration = Duration::from_secs(1);
/// This many looks in a row that find out nothing count as missing rules.
const IN_THE_DARK: u32 = 3;

/// Proves the rules until the task is dropped, and tells `shared` of each change.
pub async fn prove_capture(shared: Arc<Shared>, proof: Proof) {
    let mut in_the_dark = 0;
    loop {
        let found = missing_rules(&proof, shared.settings.mark).await;
        let before = shared.capture.borrow().clone();
        let was_proven = !before.is_new();
        let missing = |why: String| Capture::Missing { why: why.into(), was_proven };
        in_the_dark = if found.is_err() { in_the_dark + 1 } else { 0 };
        let now = match (found, &before) {
            (Ok(None), Capture::Proven { .. }) => before.clone(),
            (Ok(None), _) => Capture::Proven { since: SystemTime::now() },
            (Ok(Some(why)), _) => missing(why.to_owned()),
            // Once in a while the system is out of something: that is no news.
            (Err(_), _) if was_proven && in_the_dark < IN_THE_DARK => before.clone(),
            (Err(error), _) => missing(format!("whether the kernel rules are in place can't be found out: {error}")),
        };
        if now != before {
            tell(&shared, &now);
            shared.capture.send_replace(now.clone());
        }
        sleep(if now.missing().is_some() || in_the_dark > 0 { UNPROVEN } else { PROVEN }).await;
    }
}

fn tell(shared: &Shared, now: &Capture) {
    match now {
        Capture::NotProved => {}
        Capture::Proven { .. } => {
            shared.audit.record(Event::CaptureProven {});
            tracing::info!(event = event::CAPTURE_PROVEN, "the kernel sends the pod's traffic here, by the rules of this configuration");
        }
        Capture::Missing { why, .. } => {
            shared.audit.record(Event::CaptureMissing { why: why.to_string() });
            tracing::error!(event = event::CAPTURE_MISSING, "not ready, for traffic may pass this sidecar by: {why}");
        }
    }
}

/// Which of the rules are missing, and what to do; nothing if all are in place.
async fn missing_rules(proof: &Proof, mark: Option<u32>) -> io::Result<Option<&'static str>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    if leads_back(&listener, proof.rules, mark).await? {
        return Ok(None);
    }
    if !leads_back(&listener, proof.any, mark).await? {
        return Ok(Some(
            "this network namespace has no kernel rules of sidegate (nftables table `inet sidegate`), or they exempt another user or mark: \
             nothing is captured; run `sidegate redirect apply` in it with CAP_NET_ADMIN, before the application starts",
        ));
    }
    let mut differs = [false; 2];
    for (differs, part) in differs.iter_mut().zip([proof.inbound, proof.outbound]) {
        if let Some(part) = part {
            *differs = !leads_back(&listener, part, mark).await?;
        }
    }
    Ok(Some(match differs {
        [true, false] => {
            "the kernel rules for what arrives are not those of this configuration; `sidegate redirect verify` names them, `sidegate redirect apply` replaces them"
        }
        [false, true] => {
            "the kernel rules for what leaves are not those of this configuration; `sidegate redirect verify` names them, `sidegate redirect apply` replaces them"
        }
        _ => {
            "the kernel rules are those of another configuration, or of another version of sidegate; `sidegate redirect verify` names them, `sidegate redirect apply` replaces them"
        }
    }))
}

/// Whether a connection to `address` arrives at `listener`, which listens elsewhere.
async fn leads_back(listener: &TcpListener, address: Ipv4Addr, mark: Option<u32>) -> io::Result<bool> {
    let socket = TcpSocket::new_v4()?;
    sidegate_net::claim(&SockRef::from(&socket), mark)?;
    // Neither end has anything to say: none is to linger.
    reset_when_dropped(&SockRef::from(&socket))?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let own = socket.local_addr()?;
    let to = SocketAddr::from((address, listener.local_addr()?.port()));
    let deadline = Instant::now() + PROOF_TIMEOUT;
    let _stream = match timeout_at(deadline, socket.connect(to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(false),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    // Anybody in the pod may connect to a listener on loopback.
    let arrives = async {
        loop {
            let (accepted, from) = listener.accept().await?;
            reset_when_dropped(&SockRef::from(&accepted))?;
            if from == own {
                return Ok(true);
            }
        }
    };
    // It is made: if it is here, it is here now. Else somebody else has taken it.
    timeout(PROOF_TIMEOUT, arrives).await.unwrap_or(Ok(false))
}
