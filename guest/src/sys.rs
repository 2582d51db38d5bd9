//! Thin wrappers of system calls, under the kernel's names, with errors as `Errno`.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_int, c_void};

/// An error number of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub c_int);

impl Errno {
    pub fn last() -> Errno {
        Errno(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Errno {
        Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

pub type Sys<T> = Result<T, Errno>;

/// The result of a call that returns -1 on failure.
pub fn check(result: c_int) -> Sys<c_int> {
    if result < 0 {
        Err(Errno::last())
    } else {
        Ok(result)
    }
}

fn check_size(result: isize) -> Sys<usize> {
    usize::try_from(result).map_err(|_| Errno::last())
}

fn owned(fd: c_int) -> Sys<OwnedFd> {
    // SAFETY: a non-negative result of a call that makes a descriptor is ours alone.
    check(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A pipe, (read end, write end), both close-on-exec. Neither end is non-blocking.
pub fn pipe() -> Sys<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for two.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: both are fresh.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

pub fn set_nonblocking(fd: RawFd, on: bool) -> Sys<()> {
    // SAFETY: no memory is involved.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    let flags = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) }).map(drop)
}

pub fn read(fd: RawFd, buffer: &mut [u8]) -> Sys<usize> {
    // SAFETY: the kernel writes at most `len` bytes.
    check_size(unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) })
}

pub fn write(fd: RawFd, data: &[u8]) -> Sys<usize> {
    // SAFETY: the kernel reads at most `len` bytes.
    check_size(unsafe { libc::write(fd, data.as_ptr().cast(), data.len()) })
}

/// Write to a socket without SIGPIPE.
pub fn send(fd: RawFd, data: &[u8]) -> Sys<usize> {
    // SAFETY: the kernel reads at most `len` bytes.
    check_size(unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) })
}

/// Room for the control message of three descriptors; u64 for its alignment.
const CONTROL_WORDS: usize = 8;

/// Receive bytes, and the descriptors that travel with them.
pub fn recv_fds(fd: RawFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Sys<usize> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: all zeroes is a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // Exactly three: the kernel drops and closes what does not fit.
    // SAFETY: arithmetic only.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(3 * size_of::<c_int>() as u32) } as _;
    // SAFETY: every pointer in `message` outlives the call.
    let count = check_size(unsafe { libc::recvmsg(fd, &mut message, libc::MSG_CMSG_CLOEXEC) })?;
    // SAFETY: the kernel has filled `control` up to msg_controllen; CMSG_* stay inside.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<c_int>();
                for index in 0..bytes / size_of::<c_int>() {
                    fds.push(OwnedFd::from_raw_fd(ptr::read_unaligned(data.add(index))));
                }
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Ok(count)
}

pub fn accept(listener: RawFd) -> Sys<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: null addresses are allowed.
    owned(unsafe { libc::accept4(listener, ptr::null_mut(), ptr::null_mut(), flags) })
}

pub fn socket(domain: c_int) -> Sys<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no memory is involved.
    owned(unsafe { libc::socket(domain, kind, 0) })
}

pub fn shutdown(fd: RawFd, how: c_int) {
    // A peer that is gone already is as shut as can be.
    // SAFETY: no memory is involved.
    unsafe { libc::shutdown(fd, how) };
}

pub fn setsockopt<T>(fd: RawFd, level: c_int, name: c_int, value: &T) -> Sys<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `size` bytes of `value`.
    check(unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(value).cast(), size) }).map(drop)
}

/// Whether it is a socket that takes connections.
pub fn listens(fd: &impl AsRawFd) -> bool {
    let mut listens: c_int = 0;
    let mut size = size_of::<c_int>() as libc::socklen_t;
    let pointer: *mut c_void = ptr::from_mut(&mut listens).cast();
    // SAFETY: `listens` has room for `size` bytes.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ACCEPTCONN, pointer, &mut size) };
    result == 0 && listens != 0
}

/// The error that a socket has waiting, 0 for none.
pub fn socket_error(fd: RawFd) -> c_int {
    let mut value: c_int = 0;
    let mut size = size_of::<c_int>() as libc::socklen_t;
    let pointer: *mut c_void = ptr::from_mut(&mut value).cast();
    // SAFETY: `value` has room for `size` bytes.
    match check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, pointer, &mut size) }) {
        Ok(_) => value,
        Err(errno) => errno.0,
    }
}

pub fn fstat(fd: RawFd) -> Sys<libc::stat> {
    // SAFETY: the kernel fills the struct.
    unsafe {
        let mut found: libc::stat = zeroed();
        check(libc::fstat(fd, &mut found))?;
        Ok(found)
    }
}

pub fn is_regular(found: &libc::stat) -> bool {
    found.st_mode & libc::S_IFMT == libc::S_IFREG
}

pub fn fchown(fd: RawFd, uid: u32, gid: u32) -> Sys<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::fchown(fd, uid, gid) }).map(drop)
}

/// Bytes that wait in a pipe or terminal.
pub fn waiting(fd: RawFd) -> usize {
    let mut count: c_int = 0;
    // SAFETY: FIONREAD fills one int.
    match check(unsafe { libc::ioctl(fd, libc::FIONREAD, &mut count) }) {
        Ok(_) => usize::try_from(count).unwrap_or(0),
        Err(_) => 0,
    }
}

/// Whether processes of the same user may trace this one and look at its descriptors.
pub fn set_dumpable(on: bool) -> Sys<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(on)) }).map(drop)
}

/// The soft and hard limit of open files.
pub fn open_files() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 256, rlim_max: 256 };
    // SAFETY: the kernel fills the struct; on failure the cautious default stays.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit
}

/// A signalfd of SIGCHLD, which is blocked from here on.
pub fn child_signals() -> Sys<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut()))?;
        owned(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))
    }
}

/// Whether an operation should be tried again when the descriptor is ready.
pub fn again(errno: Errno) -> bool {
    errno.0 == libc::EAGAIN || errno.0 == libc::EINTR
}

/// A descriptor and what epoll is asked to tell about it. Dropping it takes it out of epoll first: a forked child may
/// still hold the file, and epoll would go on reporting it.
pub struct Watched {
    fd: OwnedFd,
    epoll: RawFd,
    token: u64,
    mask: Option<u32>,
}

impl Watched {
    pub fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Ask for `mask`; None takes it out, so that not even a hang-up is reported.
    pub fn want(&mut self, mask: Option<u32>) -> Sys<()> {
        if mask == self.mask {
            return Ok(());
        }
        let (operation, events) = match (self.mask, mask) {
            (None, Some(events)) => (libc::EPOLL_CTL_ADD, events),
            (_, Some(events)) => (libc::EPOLL_CTL_MOD, events),
            (_, None) => (libc::EPOLL_CTL_DEL, 0),
        };
        let mut event = libc::epoll_event { events, u64: self.token };
        // SAFETY: `event` outlives the call.
        check(unsafe { libc::epoll_ctl(self.epoll, operation, self.raw(), &mut event) })?;
        self.mask = mask;
        Ok(())
    }

    /// Report events under another token from here on.
    pub fn rename(&mut self, token: u64) -> Sys<()> {
        self.token = token;
        let mask = self.mask;
        self.want(None)?;
        self.want(mask)
    }

    /// A second descriptor of the same file, not watched.
    pub fn duplicate(&self) -> Sys<OwnedFd> {
        // SAFETY: no memory is involved.
        owned(unsafe { libc::fcntl(self.raw(), libc::F_DUPFD_CLOEXEC, 3) })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.mask.is_some() {
            // SAFETY: the event may be null for a removal.
            unsafe { libc::epoll_ctl(self.epoll, libc::EPOLL_CTL_DEL, self.raw(), ptr::null_mut()) };
        }
    }
}

pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> Sys<Epoll> {
        // SAFETY: no memory is involved.
        owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Epoll)
    }

    /// Take over `fd`, make it non-blocking and watch it.
    pub fn watch(&self, fd: OwnedFd, token: u64, mask: Option<u32>) -> Sys<Watched> {
        set_nonblocking(fd.as_raw_fd(), true)?;
        let mut watched = Watched { fd, epoll: self.0.as_raw_fd(), token, mask: None };
        watched.want(mask)?;
        Ok(watched)
    }

    pub fn wait<'a>(&self, events: &'a mut [libc::epoll_event], timeout_ms: c_int) -> &'a [libc::epoll_event] {
        let room = c_int::try_from(events.len()).unwrap_or(c_int::MAX);
        // SAFETY: `events` has room for `room`.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), room, timeout_ms) };
        &events[..usize::try_from(count).unwrap_or(0)]
    }
}

/// Whether something is at `path`, an absolute path of the guest's own choosing.
pub fn exists(path: &str) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}
