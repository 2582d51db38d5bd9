//! corral-guest: process 1 of every Corral box. PROTOCOL.md says what it answers; `guest` is the loop that does.

mod claim;
mod conn;
mod exec;
mod files;
mod following;
mod guest;
mod input;
mod memory;
mod ops;
mod parking;
mod proto;
mod relay;
mod running;
mod slots;
mod spawn;
mod spool;
mod sys;
mod term;
mod timers;
mod users;
mod viewing;

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::time::Duration;

use following::HEARTBEAT;
use guest::Guest;
use sys::{check, Errno, Sys};

const LISTEN_FD: RawFd = 3;
const LEAST_HEARTBEAT: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let number = match std::env::var("CORRAL_LISTEN_FD") {
        Ok(text) => text.parse().unwrap_or(-1),
        Err(_) => LISTEN_FD,
    };
    match prepare(number).and_then(|(listener, limit)| Guest::new(listener, limit, heartbeat())) {
        Ok(guest) => guest.run(),
        Err(Errno(errno)) => {
            let cause = std::io::Error::from_raw_os_error(errno);
            eprintln!("cannot serve on descriptor {number}: {cause}");
            ExitCode::FAILURE
        }
    }
}

/// What the first argument says, in milliseconds: never rarer than hosts expect, nor so often that it is work.
fn heartbeat() -> Duration {
    let wanted = std::env::args().nth(1).and_then(|text| text.parse().ok()).map(Duration::from_millis);
    wanted.map_or(HEARTBEAT, |wanted| wanted.clamp(LEAST_HEARTBEAT, HEARTBEAT))
}

/// Make this process what process 1 must be. Returns the listening socket and the limit of open files for commands.
fn prepare(number: RawFd) -> Sys<(OwnedFd, libc::rlimit)> {
    memory::tune();
    must_listen(number)?;
    // SAFETY: each call takes numbers; nothing else runs yet.
    unsafe {
        // Whatever else was inherited is nothing of this process, and the socket is nothing of commands.
        let place = number.unsigned_abs();
        if place > 3 {
            check(libc::close_range(3, place - 1, 0))?;
        }
        check(libc::close_range(place + 1, u32::MAX, 0))?;
        check(libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC))?;
        // No process of the box may trace this one or open its descriptors, whatever its user.
        sys::set_dumpable(false)?;
        if libc::getpid() != 1 {
            check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1))?;
        }
        for signal in
            [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGPIPE]
        {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::umask(0o022);
    }
    let limit = sys::open_files();
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: the kernel reads the struct.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) })?;
    std::env::set_current_dir("/")?;
    // SAFETY: checked to be a listening socket, and nobody else's.
    Ok((unsafe { OwnedFd::from_raw_fd(number) }, limit))
}

fn must_listen(number: RawFd) -> Sys<()> {
    // SAFETY: not closed here, and only looked at.
    let listens = number >= 3 && sys::listens(&unsafe { BorrowedFd::borrow_raw(number) });
    listens.then_some(()).ok_or(Errno(libc::EINVAL))
}
