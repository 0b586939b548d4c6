//! Collecting frames inside a pod.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::error::PodError;
use super::pod::Pod;

/// Every protocol (`ETH_P_ALL`).
const ALL: u16 = 3;
/// What is kept of the frames in all; more is lost, and `stop` says so.
const KEEP: usize = 64 << 20;
/// More than the largest segment that offloading leaves in one piece.
const FRAME: usize = 128 << 10;
/// What the kernel may hold for us.
const QUEUE: usize = 16 << 20;
/// How soon an idle collector notices that it is to stop.
const NOTICE: Duration = Duration::from_millis(10);

/// Frames being collected, until [`Capture::stop`].
#[derive(Debug)]
pub struct Capture {
    pod: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Frames>>>,
}

#[derive(Debug, Default)]
struct Frames {
    kept: Vec<Vec<u8>>,
    bytes: usize,
    lost: u64,
}

impl Pod {
    /// Collects the frames of every interface of the pod, loopback included, from now on.
    pub fn capture(&self) -> Result<Capture, PodError> {
        Capture::start(self, None)
    }

    /// Collects the frames of one interface from now on: `eth0` is a pod's wire, `lo` its inside.
    pub fn capture_on(&self, interface: &str) -> Result<Capture, PodError> {
        Capture::start(self, Some(interface.to_owned()))
    }
}

impl Capture {
    fn start(pod: &Pod, interface: Option<String>) -> Result<Self, PodError> {
        let failed = |step| move |source| PodError::Capture { pod: pod.name().to_owned(), step, source };
        // The socket collects from its first moment and belongs to the pod wherever its thread runs.
        let socket =
            pod.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ALL.to_be())))))?.map_err(failed("socket"))?;
        let interface = match interface {
            Some(name) => {
                let index = pod.run(move || if_nametoindex(name.as_str()))?;
                Some(index.map_err(|errno| failed("interface")(errno.into()))? as usize)
            }
            None => None,
        };
        prepare(&socket).map_err(failed("socket options"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name(format!("capture-{}", pod.name()))
            .spawn(move || collect(&socket, interface, &asked))
            .map_err(failed("thread"))?;
        Ok(Self { pod: pod.name().to_owned(), stop, thread: Some(thread) })
    }

    /// Ends the collecting and returns every frame that came until now, whole, from the link layer on.
    ///
    /// If any was lost this is an error, since "it was not seen" would prove nothing.
    pub fn stop(mut self) -> Result<Vec<Vec<u8>>, PodError> {
        self.stop.store(true, Ordering::Release);
        let gone = || PodError::Gone { pod: format!("{} (capture)", self.pod) };
        let frames = self.thread.take().and_then(|thread| thread.join().ok()).ok_or_else(gone)?;
        let failed = |source| PodError::Capture { pod: self.pod.clone(), step: "receive", source };
        match frames.map_err(failed)? {
            Frames { lost: 0, kept, .. } => Ok(kept),
            Frames { lost, bytes, .. } => Err(PodError::CaptureLost { pod: self.pod.clone(), lost, kept: bytes }),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Whether any of the frames has these bytes in it, in one piece.
pub fn contains(frames: &[Vec<u8>], needle: &[u8]) -> bool {
    needle.is_empty() || frames.iter().any(|frame| frame.windows(needle.len()).any(|bytes| bytes == needle))
}

fn prepare(socket: &Socket) -> io::Result<()> {
    // Only real root may exceed the system's maximum; otherwise the maximum has to do.
    if setsockopt(socket, sockopt::RcvBufForce, &QUEUE).is_err() {
        socket.set_recv_buffer_size(QUEUE)?;
    }
    setsockopt(socket, sockopt::RxqOvfl, &1)?;
    socket.set_read_timeout(Some(NOTICE))
}

fn collect(socket: &Socket, interface: Option<usize>, stop: &AtomicBool) -> io::Result<Frames> {
    let mut frames = Frames::default();
    let mut overflowed = 0;
    let mut buffer = vec![0; FRAME];
    let mut control = nix::cmsg_space!(u32);
    // Once we are to stop, the queue is drained: all that was on it then is within these bytes, however much comes
    // in the meantime.
    let mut to_drain = socket.recv_buffer_size()?;
    loop {
        let stopping = stop.load(Ordering::Acquire);
        if stopping && to_drain == 0 {
            break;
        }
        let flags = if stopping { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message = match recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(message) => message,
            Err(Errno::EAGAIN) if stopping => break,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => continue,
            Err(errno) => return Err(errno.into()),
        };
        if stopping {
            to_drain = to_drain.saturating_sub(message.bytes);
        }
        for note in message.cmsgs()? {
            if let ControlMessageOwned::RxqOvfl(count) = note {
                overflowed = count;
            }
        }
        let here = message.address.map(|address| address.ifindex());
        if interface.is_some_and(|wanted| here != Some(wanted)) {
            continue;
        }
        let (length, cut) = (message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC));
        if cut || frames.bytes + length > KEEP {
            frames.lost += 1;
        } else if let Some(frame) = buffer.get(..length) {
            frames.bytes += length;
            frames.kept.push(frame.to_vec());
        }
    }
    frames.lost += u64::from(overflowed);
    Ok(frames)
}
