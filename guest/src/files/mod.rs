//! File calls: each on a short-lived thread that has become the request's user, so that the box's kernel decides what
//! is allowed, and a file system that hangs hangs only that call.

mod list;
mod path;
mod peer;
mod read;
mod write;

pub use path::resolve;

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::files::peer::Peer;
use crate::proto::{self, Failure, Kind};
use crate::spawn::become_user;
use crate::sys;
use crate::users::Account;

pub enum Job {
    Read(proto::Read),
    Write(proto::Write),
    List(proto::Look),
    Stat(proto::Look),
}

/// Calls under way at once; each holds up to 0.4 MiB.
const JOBS_MAX: usize = 32;
/// Calls that wait for one of those to end.
const WAITING_MAX: usize = 256;
/// How long a call waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often those that wait are looked at.
pub const TURN: Duration = Duration::from_millis(2);
/// A call has been answered before its thread has ended: how long that may take.
const WIND_DOWN: Duration = Duration::from_millis(500);
/// The deepest call is a directory listing.
const STACK: usize = 128 << 10;

struct Waiting {
    until: Instant,
    socket: OwnedFd,
    account: Account,
    job: Job,
}

/// The calls that are under way, and those that wait.
pub struct Jobs {
    running: Vec<JoinHandle<()>>,
    waiting: VecDeque<Waiting>,
}

impl Jobs {
    pub fn new() -> Jobs {
        Jobs { running: Vec::new(), waiting: VecDeque::new() }
    }

    /// Work on `job` and answer on `socket`, in a thread of its own, now or in a later `turn`. On failure the caller
    /// answers.
    pub fn take(&mut self, socket: OwnedFd, account: Account, job: Job) -> Result<(), Failure> {
        self.forget_ended();
        if self.waiting.is_empty() && self.running.len() < JOBS_MAX {
            return self.start(socket, account, job);
        }
        if self.waiting.len() == WAITING_MAX {
            return Err(Kind::Busy.into());
        }
        self.waiting.push_back(Waiting { until: Instant::now() + PATIENCE, socket, account, job });
        Ok(())
    }

    /// Begin what waits and has room, and give up what has waited for too long.
    pub fn turn(&mut self) {
        self.forget_ended();
        while self.running.len() < JOBS_MAX {
            let Some(next) = self.waiting.pop_front() else { break };
            let answer = next.socket.try_clone();
            if let (Err(failure), Ok(answer)) = (self.start(next.socket, next.account, next.job), answer) {
                refuse(answer, &failure);
            }
        }
        let now = Instant::now();
        while self.waiting.front().is_some_and(|first| first.until <= now) {
            if let Some(late) = self.waiting.pop_front() {
                refuse(late.socket, &Kind::Busy.into());
            }
        }
    }

    /// Whether any call waits for a turn.
    pub fn any_waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether no call is at work, once the threads of those that have been answered are gone.
    pub fn idle(&mut self) -> bool {
        let until = Instant::now() + WIND_DOWN;
        loop {
            self.forget_ended();
            let idle = self.running.is_empty() && self.waiting.is_empty();
            if idle || Instant::now() >= until {
                return idle;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether any call is under way. Gives back what the threads of ended ones hold.
    pub fn at_work(&mut self) -> bool {
        self.forget_ended();
        !self.running.is_empty()
    }

    fn forget_ended(&mut self) {
        for index in (0..self.running.len()).rev() {
            if self.running[index].is_finished() {
                // A thread that panicked has closed its connection, which tells the host.
                let _ = self.running.swap_remove(index).join();
            }
        }
    }

    fn start(&mut self, socket: OwnedFd, account: Account, job: Job) -> Result<(), Failure> {
        let work = move || {
            let Ok(mut peer) = Peer::new(socket) else { return };
            if let Err(failure) = run(&mut peer, &account, job) {
                // A host that has gone away needs no answer.
                let _ = peer.send_bytes(&failure.frame());
            }
        };
        // No thread: the box is at its limit of processes or memory.
        let started = thread::Builder::new().stack_size(STACK).spawn(work).map_err(|_| Kind::Busy)?;
        self.running.push(started);
        Ok(())
    }
}

/// Answer in the event loop: a fresh socket takes this much, and a host that has gone away needs no answer.
fn refuse(socket: OwnedFd, failure: &Failure) {
    let _ = sys::send(socket.as_raw_fd(), &failure.frame());
}

fn run(peer: &mut Peer, account: &Account, job: Job) -> Result<(), Failure> {
    become_user(account.uid, account.gid, &account.groups)
        .map_err(|errno| Failure::own(errno, "cannot become the user"))?;
    match job {
        Job::Read(request) => read::read(peer, account, &request),
        Job::Write(request) => write::write(peer, account, &request),
        Job::List(request) => list::list(peer, account, &request),
        Job::Stat(request) => list::stat(peer, account, &request),
    }
}
