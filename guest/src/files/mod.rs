//! File calls: each on a short-lived thread that has become the request's user, so that the box's kernel decides what
//! is allowed, and a file system that hangs hangs only that call.

mod list;
mod path;
mod peer;
mod read;
mod write;

pub use path::resolve;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::files::peer::Peer;
use crate::proto::{self, Failure, Kind};
use crate::spawn::become_user;
use crate::users::Account;

pub enum Job {
    Read(proto::Read),
    Write(proto::Write),
    List(proto::Look),
    Stat(proto::Look),
}

/// Calls under way at once; each holds up to 0.4 MiB.
const JOBS_MAX: usize = 32;
/// The deepest call is a directory listing.
const STACK: usize = 128 << 10;

static JOBS: AtomicUsize = AtomicUsize::new(0);

/// Counts a job for as long as it lives.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let taken =
            JOBS.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| (count < JOBS_MAX).then_some(count + 1));
        taken.ok().map(|_| Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        JOBS.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether any call is under way.
pub fn working() -> bool {
    JOBS.load(Ordering::Acquire) > 0
}

/// Work on `job` and answer on `socket`, in a thread of its own. On failure the caller answers.
pub fn start(socket: OwnedFd, account: Account, job: Job) -> Result<(), Failure> {
    let place = Place::take().ok_or(Kind::Busy)?;
    let work = move || {
        let _place = place;
        let Ok(mut peer) = Peer::new(socket) else { return };
        if let Err(failure) = run(&mut peer, &account, job) {
            // A host that has gone away needs no answer.
            let _ = peer.send_bytes(&failure.frame());
        }
    };
    // No thread: the box is at its limit of processes or memory.
    thread::Builder::new().stack_size(STACK).spawn(work).map(drop).map_err(|_| Kind::Busy.into())
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
