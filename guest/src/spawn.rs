//! Starting a program: everything is prepared before the fork, the child makes only async-signal-safe calls.
//!
//! A plain fork, not vfork: with vfork the whole guest would wait while a program is read from a file system that
//! hangs. The guest is so small that fork costs about 0.1 ms. The child tells what went wrong through a pipe
//! that a successful exec closes.

use std::collections::HashMap;
use std::ffi::CString;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr;
use std::sync::OnceLock;

use libc::{c_char, c_int};

use crate::files::resolve;
use crate::proto::{Exec, Failure, Kind, MAX_PATH};
use crate::sys::{check, Errno, Sys};
use crate::users::Account;

pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Added to the guest's own score, so that the kernel's out-of-memory killer takes commands before the guest.
const OOM_SCORE_MORE: i32 = 300;
const OOM_SCORE_MAX: i32 = 1000;

/// The kernel takes no argument or variable of more pages than that (MAX_ARG_STRLEN), its NUL included, and of all of
/// them and the pointers to them no more than that (three quarters of _STK_LIM). A request can be shorter than what it
/// takes to hand it to the kernel: what the kernel refuses is refused before it is copied.
const TEXT_PAGES: usize = 32;
const TEXTS_MAX: usize = 6 << 20;

/// What the child was doing when it failed; the first byte in the pipe.
const AT_DIRECTORY: u8 = 1;
const AT_PROGRAM: u8 = 2;
const AT_OTHER: u8 = 3;

/// Standard streams of a command; all three are the same for a terminal.
pub struct Streams {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub terminal: bool,
}

/// A program about to be started. The pointer tables point into the string tables beside them.
pub struct Program {
    name: CString,
    /// Where to look for `name`, separated by colons; None when it is a path.
    path: Option<String>,
    argv: Table,
    envp: Table,
    cwd: CString,
    /// The home that a user lacks is not the caller's fault: begin in / then.
    cwd_may_miss: bool,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    oom_score: CString,
    open_files: libc::rlimit,
}

struct Table {
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Table {
    fn new(strings: Vec<CString>) -> Table {
        let mut pointers: Vec<*const c_char> = strings.iter().map(|text| text.as_ptr()).collect();
        pointers.push(ptr::null());
        Table { _strings: strings, pointers }
    }
}

fn c(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Kind::BadCommand.into())
}

impl Program {
    pub fn new(
        request: &Exec,
        account: &Account,
        base: &[(String, String)],
        open_files: libc::rlimit,
    ) -> Result<Program, Failure> {
        let name = request.argv.first().filter(|name| !name.is_empty()).ok_or(Kind::BadCommand)?;
        let env = environment(request, account, base);
        if env.iter().any(|(name, _)| name.is_empty() || name.contains('=')) {
            return Err(Kind::BadCommand.into());
        }
        if too_long(&request.argv, &env) {
            return Err(Kind::TooLong.into());
        }
        let path = env.get("PATH").copied().unwrap_or(DEFAULT_PATH);
        let envp: Result<Vec<_>, _> = env.iter().map(|(name, value)| c(&format!("{name}={value}"))).collect();
        let argv: Result<Vec<_>, _> = request.argv.iter().map(|text| c(text)).collect();
        Ok(Program {
            name: c(name)?,
            path: (!name.contains('/')).then(|| path.to_owned()),
            argv: Table::new(argv?),
            envp: Table::new(envp?),
            cwd: directory(request.cwd.as_deref(), &account.home)?,
            cwd_may_miss: request.cwd.is_none(),
            uid: account.uid,
            gid: account.gid,
            groups: account.groups.clone(),
            oom_score: c(&raised_oom_score().to_string())?,
            open_files,
        })
    }

    /// Fork and start it. Returns its pid at once; what the child writes to `report` tells whether exec worked.
    pub fn fork(&self, streams: &Streams, report: &OwnedFd) -> Sys<i32> {
        // SAFETY: the child touches only memory prepared here and calls only async-signal-safe functions.
        unsafe {
            let pid = check(libc::fork())?;
            if pid == 0 {
                let mut report_fd = report.as_raw_fd();
                let (stage, errno) = self.become_program(streams, &mut report_fd);
                let [a, b, c, d] = errno.0.to_le_bytes();
                libc::write(report_fd, [stage, a, b, c, d].as_ptr().cast(), 5);
                libc::_exit(127);
            }
            Ok(pid)
        }
    }

    unsafe fn become_program(&self, streams: &Streams, report: &mut RawFd) -> (u8, Errno) {
        if let Err(errno) = self.prepare(streams, report) {
            return (AT_OTHER, errno);
        }
        if libc::chdir(self.cwd.as_ptr()) != 0 {
            let errno = Errno::last();
            if !self.cwd_may_miss || libc::chdir(c"/".as_ptr()) != 0 {
                return (AT_DIRECTORY, errno);
            }
        }
        (AT_PROGRAM, self.exec())
    }

    /// Everything of the process that is not the program: session, streams, signals, limits, user.
    unsafe fn prepare(&self, streams: &Streams, report: &mut RawFd) -> Sys<()> {
        check(libc::setsid())?;
        if streams.terminal {
            check(libc::ioctl(streams.stdin.as_raw_fd(), libc::TIOCSCTTY, 0))?;
        }
        check(libc::dup2(streams.stdin.as_raw_fd(), 0))?;
        check(libc::dup2(streams.stdout.as_raw_fd(), 1))?;
        check(libc::dup2(streams.stderr.as_raw_fd(), 2))?;
        keep_only(report)?;
        default_signals()?;
        libc::umask(0o022);
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &self.open_files))?;
        raise_oom_score(&self.oom_score);
        become_user(self.uid, self.gid, &self.groups)
    }

    /// Try each part of PATH as execvp does. Returns only on failure.
    unsafe fn exec(&self) -> Errno {
        let Some(path) = &self.path else { return self.exec_at(self.name.as_ptr()) };
        let mut place = [0; MAX_PATH];
        let mut denied = None;
        let mut last = Errno(libc::ENOENT);
        for folder in path.split(':') {
            last = match join(&mut place, folder, self.name.as_bytes()) {
                Some(full) => self.exec_at(full.as_ptr().cast()),
                None => Errno(libc::ENOENT),
            };
            match last.0 {
                libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
                libc::EACCES => denied = Some(last),
                _ => return last,
            }
        }
        denied.unwrap_or(last)
    }

    unsafe fn exec_at(&self, place: *const c_char) -> Errno {
        libc::execve(place, self.argv.pointers.as_ptr(), self.envp.pointers.as_ptr());
        Errno::last()
    }
}

fn directory(cwd: Option<&str>, home: &str) -> Result<CString, Failure> {
    match cwd {
        None => c(home),
        Some(path) => {
            let full = resolve(path, home).map_err(|_| Kind::BadCommand)?;
            CString::new(full.into_os_string().into_vec()).map_err(|_| Kind::BadCommand.into())
        }
    }
}

/// The C string `folder/name` in `room`; None when no path is that long. Allocates nothing: the child calls it.
fn join<'a>(room: &'a mut [u8; MAX_PATH], folder: &str, name: &[u8]) -> Option<&'a [u8]> {
    // An empty part of PATH means the working directory, since ever.
    let folder = if folder.is_empty() { b"." } else { folder.as_bytes() };
    let length = folder.len() + 1 + name.len();
    let place = room.get_mut(..=length)?;
    place[..folder.len()].copy_from_slice(folder);
    place[folder.len()] = b'/';
    place[folder.len() + 1..length].copy_from_slice(name);
    place[length] = 0;
    Some(place)
}

fn too_long(argv: &[String], env: &HashMap<&str, &str>) -> bool {
    // SAFETY: no memory is involved.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let variables = env.iter().map(|(name, value)| name.len() + 1 + value.len());
    let mut total = 0;
    argv.iter().map(String::len).chain(variables).any(|length| {
        total += length + 1 + size_of::<*const c_char>();
        length >= TEXT_PAGES * page || total > TEXTS_MAX
    })
}

/// Base environment, then the user's variables, then the request's; the last one wins.
fn environment<'a>(
    request: &'a Exec,
    account: &'a Account,
    base: &'a [(String, String)],
) -> HashMap<&'a str, &'a str> {
    let mut env = HashMap::from([("PATH", DEFAULT_PATH)]);
    if request.terminal.is_some() {
        env.insert("TERM", "xterm-256color");
    }
    env.extend(base.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    env.insert("HOME", &account.home);
    env.insert("USER", &account.name);
    env.insert("LOGNAME", &account.name);
    env.insert("SHELL", &account.shell);
    env.extend(request.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    env
}

/// Read once: the guest's own does not change, and reading takes longer than all else before the fork.
fn raised_oom_score() -> i32 {
    static SCORE: OnceLock<i32> = OnceLock::new();
    *SCORE.get_or_init(read_raised_oom_score)
}

fn read_raised_oom_score() -> i32 {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj");
    let own: i32 = own.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    (own + OOM_SCORE_MORE).min(OOM_SCORE_MAX)
}

/// Close all but the standard streams and the report, which becomes descriptor 3.
unsafe fn keep_only(report: &mut RawFd) -> Sys<()> {
    if *report != 3 {
        check(libc::dup3(*report, 3, libc::O_CLOEXEC))?;
        *report = 3;
    }
    check(libc::close_range(4, u32::MAX, 0)).map(drop)
}

/// A process that is not dumpable cannot open its own files in /proc for writing. The child of the guest may be dumpable
/// from here on: it has no descriptor of the guest any more. Without /proc the score stays: the command runs all the same.
unsafe fn raise_oom_score(score: &CString) {
    libc::prctl(libc::PR_SET_DUMPABLE, 1);
    let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
    if fd >= 0 {
        libc::write(fd, score.as_ptr().cast(), score.as_bytes().len());
        libc::close(fd);
    }
}

unsafe fn default_signals() -> Sys<()> {
    // The kernel is asked itself: libc refuses the two signals that it keeps for its threads (32 and 33), which whoever
    // started the guest may have left ignored. A zeroed struct is the default action, whatever its fields are.
    let default = [0_usize; 4];
    for signal in 1..=64 {
        // The two that cannot be changed answer EINVAL.
        libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<libc::c_void>(), 8_usize);
    }
    let mut none: libc::sigset_t = zeroed();
    libc::sigemptyset(&mut none);
    check(libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut())).map(drop)
}

/// Change this thread's user for good. Raw system calls: libc's wrappers would change every thread of the process.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Sys<()> {
    // SAFETY: `groups` outlives the call; the others take numbers.
    unsafe {
        let own = (libc::getuid(), libc::getgid());
        let result = libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr());
        // A namespace in which setgroups is denied (an unprivileged one) has nothing to give up either.
        if result != 0 && !(Errno::last().0 == libc::EPERM && own == (uid, gid)) {
            return Err(Errno::last());
        }
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid) as c_int)?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid) as c_int)?;
    }
    Ok(())
}

/// What the child wrote before it gave up, as the request's failure.
pub fn failure_of(report: &[u8; 5]) -> Failure {
    let [stage, a, b, c, d] = *report;
    let errno = i32::from_le_bytes([a, b, c, d]);
    let kind = match (stage, errno) {
        (_, libc::EAGAIN | libc::ENOMEM | libc::ENFILE | libc::EMFILE) => Kind::Busy,
        (AT_DIRECTORY, libc::EACCES | libc::EPERM) => Kind::NotPermitted,
        (AT_DIRECTORY, _) => Kind::NoSuchDirectory,
        (AT_PROGRAM, libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG | libc::ELOOP) => Kind::NoSuchProgram,
        (AT_PROGRAM, libc::EACCES | libc::EPERM | libc::EROFS) => Kind::NotPermitted,
        (AT_PROGRAM, libc::E2BIG) => Kind::TooLong,
        (AT_PROGRAM, _) => Kind::NotExecutable,
        _ => Kind::Failed,
    };
    Failure { kind, errno: Some(errno), message: "" }
}

/// The failure for a report that was cut short: the child was killed before it could tell.
pub fn unknown_failure() -> Failure {
    Failure { kind: Kind::Failed, errno: None, message: "the command's process ended before it began" }
}

/// Read ends for the guest, write ends for the child, owned by the command's user: so /dev/stdout can be opened.
pub fn output_pipe(account: &Account) -> Sys<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = crate::sys::pipe()?;
    own(theirs.as_raw_fd(), account);
    Ok((ours, theirs))
}

pub fn input_pipe(account: &Account) -> Sys<(OwnedFd, OwnedFd)> {
    let (theirs, ours) = crate::sys::pipe()?;
    own(theirs.as_raw_fd(), account);
    Ok((theirs, ours))
}

/// An id outside the box's map cannot own it; such a user's commands only miss opening /dev/stdout.
fn own(fd: RawFd, account: &Account) {
    let _ = crate::sys::fchown(fd, account.uid, account.gid);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(argv: &[&str], env: &[(&str, &str)]) -> Exec {
        Exec {
            id: "x".into(),
            argv: argv.iter().map(|&text| text.into()).collect(),
            env: env.iter().map(|&(name, value)| (name.into(), value.into())).collect(),
            cwd: None,
            user: None,
            stdin: false,
            terminal: None,
            limit: 0,
            hold: false,
        }
    }

    fn account() -> Account {
        Account {
            name: "user".into(),
            uid: 1000,
            gid: 1000,
            groups: vec![1000],
            home: "/home/user".into(),
            shell: "/bin/sh".into(),
        }
    }

    #[test]
    fn the_last_word_on_a_variable_wins() {
        let base = [("HOME".to_owned(), "/base".to_owned()), ("A".to_owned(), "base".to_owned())];
        let (request, account) = (request(&["x"], &[("USER", "given")]), account());
        let env = environment(&request, &account, &base);
        assert_eq!((env["HOME"], env["USER"], env["A"], env["PATH"]), ("/home/user", "given", "base", DEFAULT_PATH));
        assert!(!env.contains_key("TERM"));
    }

    #[test]
    fn a_program_is_looked_for_in_a_part_of_path_unless_no_path_is_that_long() {
        let mut room = [1; MAX_PATH];
        assert_eq!(join(&mut room, "/a", b"ls"), Some(b"/a/ls\0".as_slice()));
        assert_eq!(join(&mut room, "", b"ls"), Some(b"./ls\0".as_slice()));
        assert!(join(&mut room, &"x".repeat(MAX_PATH - 4), b"ls").is_some());
        assert!(join(&mut room, &"x".repeat(MAX_PATH - 3), b"ls").is_none());
    }

    #[test]
    fn what_the_kernel_takes_of_no_command_is_refused_before_it_is_copied() {
        let limit = crate::sys::open_files();
        let kind = |argv: &[&str], env: &[(&str, &str)]| {
            Program::new(&request(argv, env), &account(), &[], limit).map(drop).map_err(|failure| failure.kind)
        };
        let long = "x".repeat(TEXT_PAGES * 65536);
        assert_eq!(kind(&["true", &long], &[]), Err(Kind::TooLong));
        assert_eq!(kind(&["true"], &[("PATH", &long)]), Err(Kind::TooLong));
        assert_eq!(kind(&vec![""; 700_000], &[]), Err(Kind::BadCommand));
        let mut many = vec!["true"];
        many.resize(700_000, "");
        assert_eq!(kind(&many, &[]), Err(Kind::TooLong));
        assert_eq!(kind(&["true", &"x".repeat(100_000)], &[("A", &"x".repeat(100_000))]), Ok(()));
    }

    #[test]
    fn impossible_commands_are_refused_before_a_fork() {
        let limit = crate::sys::open_files();
        for bad in [request(&[], &[]), request(&[""], &[]), request(&["a\0"], &[]), request(&["a"], &[("A=B", "c")])] {
            let found = Program::new(&bad, &account(), &[], limit).map(drop).unwrap_err();
            assert_eq!(found.kind, Kind::BadCommand);
        }
    }

    #[test]
    fn a_report_becomes_the_kind_that_the_caller_can_mend() {
        let kind = |stage, errno: i32| {
            let [a, b, c, d] = errno.to_le_bytes();
            failure_of(&[stage, a, b, c, d]).kind
        };
        assert_eq!(kind(AT_PROGRAM, libc::ENOENT), Kind::NoSuchProgram);
        assert_eq!(kind(AT_PROGRAM, libc::EACCES), Kind::NotPermitted);
        assert_eq!(kind(AT_PROGRAM, libc::E2BIG), Kind::TooLong);
        assert_eq!(kind(AT_PROGRAM, libc::ENOTDIR), Kind::NoSuchProgram);
        assert_eq!(kind(AT_PROGRAM, libc::ENOEXEC), Kind::NotExecutable);
        assert_eq!(kind(AT_DIRECTORY, libc::ENOENT), Kind::NoSuchDirectory);
        assert_eq!(kind(AT_DIRECTORY, libc::ENOTDIR), Kind::NoSuchDirectory);
        assert_eq!(kind(AT_OTHER, libc::EAGAIN), Kind::Busy);
        assert_eq!(kind(AT_OTHER, libc::EINVAL), Kind::Failed);
    }
}
