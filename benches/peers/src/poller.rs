//! epoll, level-triggered, with deadlines.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// How many events are taken at once.
const BATCH: usize = 256;

/// One epoll instance. Everything in it has a token.
pub(crate) struct Poller {
    epoll: Epoll,
}

/// Room for what [`Poller::wait`] finds.
pub(crate) type Events = [EpollEvent; BATCH];

/// Room without anything in it.
pub(crate) fn events() -> Events {
    [EpollEvent::empty(); BATCH]
}

/// Something can be read.
pub(crate) const READ: EpollFlags = EpollFlags::EPOLLIN;
/// Something can be written.
pub(crate) const WRITE: EpollFlags = EpollFlags::EPOLLOUT;

impl Poller {
    /// An empty one.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)? })
    }

    /// Watches a descriptor until it is closed.
    pub(crate) fn add(&self, what: impl AsFd, token: usize, flags: EpollFlags) -> Result<()> {
        Ok(self.epoll.add(what, EpollEvent::new(flags, token as u64))?)
    }

    /// Watches it for something else.
    pub(crate) fn change(&self, what: impl AsFd, token: usize, flags: EpollFlags) -> Result<()> {
        Ok(self.epoll.modify(what, &mut EpollEvent::new(flags, token as u64))?)
    }

    /// Watches it no longer, not even for its end.
    pub(crate) fn forget(&self, what: impl AsFd) -> Result<()> {
        Ok(self.epoll.delete(what)?)
    }

    /// Waits for events, until `deadline` if there is one; how many there are.
    pub(crate) fn wait(&self, events: &mut Events, deadline: Option<Instant>) -> Result<usize> {
        let timeout = match deadline {
            None => EpollTimeout::NONE,
            // Rounded up, or the last millisecond would be spun away.
            Some(end) => {
                let left = end.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
                EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
            }
        };
        match self.epoll.wait(events, timeout) {
            Ok(count) => Ok(count),
            Err(Errno::EINTR) => Ok(0),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// A timer that a [`Poller`] can watch.
pub(crate) fn timer() -> Result<TimerFd> {
    Ok(TimerFd::new(nix::sys::timerfd::ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?)
}

/// Sets it off once, after this long.
pub(crate) fn once(timer: &TimerFd, after: Duration) -> Result<()> {
    // Zero would disarm it.
    let after = TimeSpec::from_duration(after.max(Duration::from_nanos(1)));
    Ok(timer.set(Expiration::OneShot(after), TimerSetTimeFlags::empty())?)
}

/// Sets it off again and again.
pub(crate) fn every(timer: &TimerFd, interval: Duration) -> Result<()> {
    Ok(timer.set(Expiration::Interval(TimeSpec::from_duration(interval)), TimerSetTimeFlags::empty())?)
}

/// Takes note that it went off.
pub(crate) fn heard(timer: &TimerFd) -> Result<()> {
    match timer.wait() {
        Ok(()) | Err(Errno::EAGAIN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
