//! The event loop: everything but file calls happens on this one thread, so that the guest answers even when the box
//! has no process left to give. Nothing here may wait for a peer, a command or a path that could hang.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::claim::Identity;
use crate::conn::{Budget, Conn, Feed, Input, Output, Role, Step};
use crate::exec::Execs;
use crate::files;
use crate::memory::{self, Scratch};
use crate::proto::{self, Failure, Kind};
use crate::slots::{Key, Slots};
use crate::sys::{self, again, Epoll, Sys, Watched};
use crate::timers::{Timer, Timers};

pub const READ: u32 = libc::EPOLLIN as u32;
pub const WRITE: u32 = libc::EPOLLOUT as u32;
/// Hang-ups and errors are reported whatever is asked for.
pub const HANGUP_ONLY: u32 = 0;
const GONE: u32 = (libc::EPOLLHUP | libc::EPOLLERR) as u32;

/// Turns of reading from one descriptor before others have theirs: 256 KiB.
pub const TURNS: usize = 4;

const CONNS_MAX: usize = 1024;
const ACCEPTS_AT_ONCE: usize = 64;
const REAPS_AT_ONCE: usize = 512;
/// A request must have arrived in full by then.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// A host that takes nothing of its answer for so long is gone.
const STALL_TIME: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// After work, memory is given back once.
const TRIM_DELAY: Duration = Duration::from_secs(1);

/// What a token of epoll names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Listener,
    Children,
    Conn(Key),
    Port(Key),
    Report(Key),
    Stream(Key, usize),
    StdinPipe(Key),
    Sink(Key),
}

impl Source {
    pub fn token(self) -> u64 {
        let (kind, bits) = match self {
            Source::Listener => (0, 0),
            Source::Children => (1, 0),
            Source::Conn(key) => (2, key.bits()),
            Source::Port(key) => (3, key.bits()),
            Source::Report(key) => (4, key.bits()),
            Source::Stream(key, which) => (5 + which as u64, key.bits()),
            Source::StdinPipe(key) => (7, key.bits()),
            Source::Sink(key) => (8, key.bits()),
        };
        kind << 56 | bits
    }

    fn of(token: u64) -> Option<Source> {
        let key = Key::from_bits(token & ((1 << 56) - 1));
        Some(match token >> 56 {
            0 => Source::Listener,
            1 => Source::Children,
            2 => Source::Conn(key),
            3 => Source::Port(key),
            4 => Source::Report(key),
            5 => Source::Stream(key, 0),
            6 => Source::Stream(key, 1),
            7 => Source::StdinPipe(key),
            8 => Source::Sink(key),
            _ => return None,
        })
    }
}

pub struct Guest {
    pub epoll: Epoll,
    listener: Watched,
    children: Watched,
    pub conns: Slots<Conn>,
    pub execs: Execs,
    /// Output pipes whose command has ended but that a child of it still writes to.
    pub sinks: Slots<Watched>,
    pub timers: Timers,
    pub files: files::Jobs,
    pub identity: Identity,
    pub scratch: Scratch,
    /// Standard input of commands that have none, opened before anybody in the box can put something else in its place.
    pub null: OwnedFd,
    /// Followers hear of an execution at least once in this time.
    pub heartbeat: Duration,
    /// The limit that commands get; the guest's own is raised to the hard one.
    pub open_files: libc::rlimit,
    pub started: Instant,
    budget: Budget,
    conns_max: usize,
    /// See `parking`.
    pub parked: bool,
    trim_due: bool,
    more_children: bool,
}

impl Guest {
    pub fn new(listener: OwnedFd, open_files: libc::rlimit, heartbeat: Duration) -> Sys<Guest> {
        let epoll = Epoll::new()?;
        let listener = epoll.watch(listener, Source::Listener.token(), Some(READ))?;
        let children = epoll.watch(sys::child_signals()?, Source::Children.token(), Some(READ))?;
        let conns_max = usize::try_from(open_files.rlim_max / 4).unwrap_or(CONNS_MAX).min(CONNS_MAX);
        Ok(Guest {
            epoll,
            listener,
            children,
            conns: Slots::new(),
            execs: Execs::new(),
            sinks: Slots::new(),
            timers: Timers::new(),
            files: files::Jobs::new(),
            identity: Identity::default(),
            scratch: Scratch::new()?,
            null: std::fs::File::open("/dev/null")?.into(),
            heartbeat,
            open_files,
            started: Instant::now(),
            budget: Budget::new(),
            conns_max,
            parked: false,
            trim_due: false,
            more_children: false,
        })
    }

    pub fn run(mut self) -> ! {
        // SAFETY: all zeroes is a valid event.
        let mut room: [libc::epoll_event; 64] = unsafe { std::mem::zeroed() };
        loop {
            let wait = if self.more_children { 0 } else { self.timers.wait_ms(Instant::now()) };
            let events = self.epoll.wait(&mut room, wait);
            for event in events {
                let (token, mask) = (event.u64, event.events);
                if let Some(source) = Source::of(token) {
                    self.on_event(source, mask);
                }
            }
            if self.more_children {
                self.reap();
            }
            while let Some(timer) = self.timers.due(Instant::now()) {
                self.on_timer(timer);
            }
        }
    }

    fn on_event(&mut self, source: Source, mask: u32) {
        match source {
            Source::Listener => self.accept(),
            Source::Children => self.on_children(),
            Source::Conn(key) => self.on_conn(key, mask),
            Source::Port(key) => self.on_relay(key, false, mask),
            Source::Report(key) => self.on_report(key),
            Source::Stream(key, which) => self.on_stream(key, which, mask),
            Source::StdinPipe(key) => self.pump_input(key),
            Source::Sink(key) => self.on_sink(key),
        }
    }

    fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Conn(key) => self.on_deadline(key),
            Timer::Growth(key) => self.on_growth_due(key),
            Timer::Heartbeat(key) => self.on_heartbeat(key),
            Timer::Held(key) => self.on_held(key),
            Timer::Accept => {
                // Failing again only means another pause.
                if self.listener.want(Some(READ)).is_err() {
                    self.timers.after(ACCEPT_PAUSE, Timer::Accept);
                }
            }
            Timer::Files => {
                self.files.turn();
                if self.files.any_waits() {
                    self.timers.after(files::TURN, Timer::Files);
                }
            }
            Timer::Trim => {
                self.trim_due = false;
                let conns = &self.conns;
                self.timers.keep(|timer| !matches!(timer, Timer::Conn(key) if conns.get(key).is_none()));
                self.scratch.release();
                if self.files.at_work() {
                    // What its thread holds is given back after it.
                    self.trim_later();
                }
                memory::trim();
            }
        }
    }

    /// Work was done: give memory back soon.
    pub fn trim_later(&mut self) {
        if !self.trim_due {
            self.trim_due = true;
            self.timers.after(TRIM_DELAY, Timer::Trim);
        }
    }

    // ---- children

    fn on_children(&mut self) {
        let mut records = [0u8; 16 * std::mem::size_of::<libc::signalfd_siginfo>()];
        // Only that there was one matters: waitpid knows the rest.
        while sys::read(self.children.raw(), &mut records).is_ok_and(|count| count == records.len()) {}
        self.reap();
    }

    fn reap(&mut self) {
        self.more_children = false;
        for _ in 0..REAPS_AT_ONCE {
            let mut status = 0;
            // SAFETY: `status` has room.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            if let Some(key) = self.execs.of_pid(pid) {
                self.on_exit(key, status);
            }
        }
        // A fork bomb leaves orphans faster than that: others have their turn first.
        self.more_children = true;
    }

    // ---- connections

    /// Take connections from another socket, instead of the one so far.
    pub fn listen_on(&mut self, listener: OwnedFd) -> Sys<()> {
        self.listener = self.epoll.watch(listener, Source::Listener.token(), Some(READ))?;
        Ok(())
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_AT_ONCE {
            match sys::accept(self.listener.raw()) {
                Ok(fd) => self.admit(fd),
                Err(errno) if again(errno) => return,
                Err(errno) if errno.0 == libc::ECONNABORTED => {}
                Err(_) => {
                    // Out of descriptors or memory: the queue of the listener waits.
                    if self.listener.want(None).is_ok() {
                        self.timers.after(ACCEPT_PAUSE, Timer::Accept);
                    }
                    return;
                }
            }
        }
    }

    fn admit(&mut self, fd: OwnedFd) {
        if self.conns.len() >= self.conns_max {
            // A fresh socket takes this much; if not, the host sees the end without the reason.
            let _ = sys::send(fd.as_raw_fd(), &Failure::from(Kind::Busy).frame());
            return;
        }
        let (epoll, budget) = (&self.epoll, &self.budget);
        let added = self.conns.insert_with(|key| {
            let io = epoll.watch(fd, Source::Conn(key).token(), Some(READ))?;
            Sys::Ok(Conn {
                io,
                input: Input::new(budget.clone()),
                out: Output::default(),
                role: Role::Asking,
                feed: Feed::default(),
                closing: false,
                patient: false,
                deadline: None,
                timer_set: false,
            })
        });
        if let Ok(key) = added {
            // The request has most often arrived with the connection, and then needs no timer.
            self.on_conn(key, READ);
            if self.conns.get(key).is_some_and(|conn| matches!(conn.role, Role::Asking)) {
                self.limit_request(key);
            }
        }
    }

    /// Let the connection take so long to say what it wants, or to reach the port that it wants.
    pub fn limit_request(&mut self, key: Key) {
        self.set_deadline(key, Some(REQUEST_TIME));
    }

    fn on_conn(&mut self, key: Key, mask: u32) {
        let Some(conn) = self.conns.get(key) else { return };
        if let Role::Relay(_) = conn.role {
            return self.on_relay(key, true, mask);
        }
        if mask & WRITE != 0 || !conn.out.is_empty() {
            self.flush(key);
        }
        let Some(conn) = self.conns.get(key) else { return };
        let reading = !conn.closing && conn.feed.data.is_empty();
        match conn.role {
            Role::Asking | Role::Writer { .. } | Role::Viewer { .. } if reading && mask & (READ | GONE) != 0 => {
                self.read_frames(key);
            }
            _ if mask & GONE != 0 => self.close(key),
            _ => {}
        }
    }

    /// Take frames until the connection has no more, or one has to be worked on first.
    pub fn read_frames(&mut self, key: Key) {
        for _ in 0..TURNS {
            let Some(conn) = self.conns.get_mut(key) else { return };
            let step = conn.input.step(conn.io.raw(), self.scratch.bytes());
            let frame = match step {
                Step::Again => return,
                Step::Closed => return self.close(key),
                Step::Bad(message) => return self.fail(key, &Failure::bad(message)),
                Step::Busy => return self.fail(key, &Kind::Busy.into()),
                Step::Frame(kind, body, share) => (kind, body, share),
            };
            let result = match (&conn.role, frame) {
                (Role::Asking, (proto::REQUEST, body, _share)) => {
                    conn.deadline = None;
                    self.on_request(key, &body)
                }
                _ if !conn.input.fds.is_empty() => Err(Failure::bad("descriptors where none belong")),
                (Role::Writer { .. } | Role::Viewer { .. }, (proto::DATA, body, share)) => {
                    self.on_feed(key, body, share)
                }
                (Role::Writer { .. } | Role::Viewer { .. }, (proto::END, ..)) => self.on_feed_end(key),
                _ => Err(Failure::bad("a frame out of turn")),
            };
            if let Err(failure) = result {
                return self.fail(key, &failure);
            }
            match self.conns.get(key) {
                Some(conn) if conn.closing || !conn.feed.data.is_empty() => return,
                Some(Conn { role: Role::Writer { .. } | Role::Viewer { .. }, .. }) => {}
                _ => return,
            }
        }
    }

    /// Queue bytes for the host and send what goes.
    pub fn send(&mut self, key: Key, bytes: &[u8]) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.out.push(bytes);
            self.flush(key);
        }
    }

    /// Send the last bytes of an answer; the connection closes when they are out.
    pub fn finish(&mut self, key: Key, bytes: &[u8]) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.closing = true;
            conn.role = Role::Answered;
            conn.out.push(bytes);
            self.flush(key);
        }
    }

    pub fn fail(&mut self, key: Key, failure: &Failure) {
        self.leave(key);
        self.finish(key, &failure.frame());
    }

    pub fn flush(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Ok(sent) = conn.out.flush(conn.io.raw()) else { return self.close(key) };
        if conn.out.is_empty() && conn.closing {
            return self.close(key);
        }
        let (stalled, moved, patient) = (!conn.out.is_empty(), sent > 0, conn.patient);
        let asking = matches!(conn.role, Role::Asking);
        if self.listen_as_needed(key).is_err() {
            return self.close(key);
        }
        if moved {
            self.on_viewer_progress(key);
        }
        if patient {
            self.set_deadline(key, None);
        } else if stalled && moved {
            self.set_deadline(key, Some(STALL_TIME));
        } else if stalled {
            self.keep_deadline(key, STALL_TIME);
        } else if !asking {
            self.set_deadline(key, None);
        }
        if !stalled {
            self.on_flushed(key);
        }
    }

    /// Ask epoll for what the connection's role waits for.
    pub fn listen_as_needed(&mut self, key: Key) -> Sys<()> {
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        let reads = match conn.role {
            Role::Asking | Role::Writer { .. } | Role::Viewer { .. } => conn.feed.data.is_empty() && !conn.closing,
            Role::Follower { .. } | Role::Relay(_) | Role::Answered => false,
        };
        let mut mask = HANGUP_ONLY;
        if reads {
            mask |= READ;
        }
        if !conn.out.is_empty() {
            mask |= WRITE;
        }
        conn.io.want(Some(mask))
    }

    /// Forget a connection, wherever it is known.
    pub fn close(&mut self, key: Key) {
        self.leave(key);
        self.conns.remove(key);
        self.trim_later();
    }

    // ---- deadlines

    fn set_deadline(&mut self, key: Key, time: Option<Duration>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.deadline = time.map(|time| Instant::now() + time);
        if let (Some(when), false) = (conn.deadline, conn.timer_set) {
            conn.timer_set = true;
            self.timers.at(when, Timer::Conn(key));
        }
    }

    fn keep_deadline(&mut self, key: Key, time: Duration) {
        if self.conns.get(key).is_some_and(|conn| conn.deadline.is_none()) {
            self.set_deadline(key, Some(time));
        }
    }

    fn on_deadline(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        match conn.deadline {
            None => conn.timer_set = false,
            Some(when) if when > Instant::now() => self.timers.at(when, Timer::Conn(key)),
            Some(_) if matches!(conn.role, Role::Relay(_)) => self.fail(key, &Kind::PortClosed.into()),
            Some(_) => self.close(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_source() {
        let key = Key::from_bits(0x0012_3456_0000_0007);
        let sources = [
            Source::Listener,
            Source::Children,
            Source::Conn(key),
            Source::Port(key),
            Source::Report(key),
            Source::Stream(key, 0),
            Source::Stream(key, 1),
            Source::StdinPipe(key),
            Source::Sink(key),
        ];
        for source in sources {
            assert_eq!(Source::of(source.token()), Some(source));
        }
        assert_eq!(Source::of(99 << 56), None);
    }
}
