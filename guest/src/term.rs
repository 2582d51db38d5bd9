//! Pseudo-terminals, and the recent output that a late viewer is shown.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::proto::Size;
use crate::sys::{self, check, Errno, Sys};
use crate::users::Account;

/// Output kept for replay.
const RING: usize = 64 << 10;
/// Group `tty` of Debian and most others.
const TTY_GROUP: u32 = 5;
const TTY_MODE: libc::mode_t = 0o620;

/// Open a terminal: (our side, the command's side), the second owned by the command's user.
pub fn open(size: Size, account: &Account) -> Sys<(OwnedFd, OwnedFd)> {
    let master = open_multiplexer()?;
    let fd = master.as_raw_fd();
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int; TIOCGPTPEER takes open flags and returns a fresh descriptor.
    let slave = unsafe {
        check(libc::ioctl(fd, libc::TIOCSPTLCK, &unlocked))?;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        OwnedFd::from_raw_fd(check(libc::ioctl(fd, libc::TIOCGPTPEER, flags))?)
    };
    resize(fd, size)?;
    // Ids outside the box's map cannot own it; the command then has its terminal all the same, by inheritance.
    if sys::fchown(slave.as_raw_fd(), account.uid, TTY_GROUP).is_ok() {
        // SAFETY: no memory is involved.
        check(unsafe { libc::fchmod(slave.as_raw_fd(), TTY_MODE) })?;
    }
    Ok((master, slave))
}

fn open_multiplexer() -> Sys<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // In a box /dev/ptmx may be missing or of another instance; the one in /dev/pts is of that instance for certain.
    for path in [c"/dev/pts/ptmx", c"/dev/ptmx"] {
        // SAFETY: `path` is a C string; the result is fresh.
        if let Ok(fd) = check(unsafe { libc::open(path.as_ptr(), flags) }) {
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Err(Errno::last())
}

pub fn resize(master: RawFd, size: Size) -> Sys<()> {
    let window = libc::winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { libc::ioctl(master, libc::TIOCSWINSZ, &window) }).map(drop)
}

/// The process group that has the terminal; None when it has ended, or is none that a signal may go to.
pub fn foreground(master: RawFd) -> Option<libc::pid_t> {
    let mut group: libc::pid_t = 0;
    // SAFETY: TIOCGPGRP writes one pid.
    check(unsafe { libc::ioctl(master, libc::TIOCGPGRP, &mut group) }).ok()?;
    // A signal to -1 would go to every process of the box.
    (group > 1).then_some(group)
}

/// The last `RING` bytes of a terminal's output. Grows as output comes.
#[derive(Default)]
pub struct Ring(VecDeque<u8>);

impl Ring {
    pub fn push(&mut self, data: &[u8]) {
        let data = &data[data.len().saturating_sub(RING)..];
        let over = (self.0.len() + data.len()).saturating_sub(RING);
        self.0.drain(..over);
        self.0.extend(data);
    }

    pub fn parts(&self) -> [&[u8]; 2] {
        let (first, second) = self.0.as_slices();
        [first, second]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_last_64_kib() {
        let mut ring = Ring::default();
        ring.push(&vec![b'a'; RING - 1]);
        ring.push(b"bc");
        let kept = ring.parts().concat();
        assert_eq!((kept.len(), &kept[RING - 3..]), (RING, b"abc".as_slice()));
        ring.push(&vec![b'd'; RING * 2]);
        assert_eq!(ring.parts().concat(), vec![b'd'; RING]);
    }
}
