//! Protocol version 1 as PROTOCOL.md has it: frames, requests, error kinds, limits.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::sys::Errno;

pub const VERSION: u32 = 1;

pub const REQUEST: u8 = 1;
pub const REPLY: u8 = 2;
pub const ERROR: u8 = 3;
pub const EVENT: u8 = 4;
pub const DATA: u8 = 5;
pub const END: u8 = 6;

pub const HEADER: usize = 5;
pub const MAX_REQUEST: usize = 4 << 20;
pub const MAX_DATA: usize = 256 << 10;
/// Of events that carry rows: one more row stays far under the 256 KiB that the host takes.
pub const ROWS_BYTES: usize = 64 << 10;
pub const MAX_ID: usize = 128;
pub const MAX_PATH: usize = 4096;
pub const MAX_ENTRIES: usize = 10_000;

macro_rules! kinds {
    ($($variant:ident = $name:literal,)*) => {
        /// Why a request failed. The names on the wire are a closed list.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($variant,)*
        }

        impl Kind {
            #[cfg(test)]
            const ALL: &[Kind] = &[$(Kind::$variant,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Kind::$variant => $name,)*
                }
            }
        }
    };
}

kinds! {
    BadRequest = "bad-request",
    UnknownOp = "unknown-op",
    Failed = "failed",
    Busy = "busy",
    NoSuchProgram = "no-such-program",
    NoSuchDirectory = "no-such-directory",
    NoSuchUser = "no-such-user",
    NotPermitted = "not-permitted",
    NotExecutable = "not-executable",
    TooLong = "too-long",
    BadCommand = "bad-command",
    NoSuchExecution = "no-such-execution",
    Ended = "ended",
    TakesNoInput = "takes-no-input",
    NoTerminal = "no-terminal",
    NotFound = "not-found",
    Denied = "denied",
    IsDirectory = "is-directory",
    NotDirectory = "not-directory",
    NoSpace = "no-space",
    BadPath = "bad-path",
    Other = "other",
    PortClosed = "port-closed",
}

/// A request's failure, as it goes into an error frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: Kind,
    pub errno: Option<i32>,
    pub message: &'static str,
}

#[derive(Serialize)]
struct ErrorBody {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<i32>,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'static str,
}

impl Failure {
    pub fn bad(message: &'static str) -> Failure {
        Failure { kind: Kind::BadRequest, errno: None, message }
    }

    /// A system call of the guest's own failed: for lack of something, or because of a fault.
    pub fn own(errno: Errno, message: &'static str) -> Failure {
        let short = [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::ENOSPC, libc::EUSERS];
        let kind = if short.contains(&errno.0) { Kind::Busy } else { Kind::Failed };
        Failure { kind, errno: Some(errno.0), message }
    }

    /// A file call failed on the box's file tree.
    pub fn file(errno: Errno) -> Failure {
        let kind = match errno.0 {
            libc::ENOENT => Kind::NotFound,
            libc::EACCES | libc::EPERM | libc::EROFS => Kind::Denied,
            libc::EISDIR => Kind::IsDirectory,
            libc::ENOTDIR => Kind::NotDirectory,
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Kind::NoSpace,
            libc::ENAMETOOLONG | libc::ELOOP | libc::EINVAL | libc::EILSEQ => Kind::BadPath,
            _ => Kind::Other,
        };
        Failure { kind, errno: Some(errno.0), message: "" }
    }

    pub fn frame(&self) -> Vec<u8> {
        json(ERROR, &ErrorBody { kind: self.kind.name(), errno: self.errno, message: self.message })
    }
}

impl From<Kind> for Failure {
    fn from(kind: Kind) -> Failure {
        Failure { kind, errno: None, message: "" }
    }
}

pub fn header(kind: u8, length: usize) -> [u8; HEADER] {
    let [a, b, c, d] = (length as u32).to_le_bytes();
    [kind, a, b, c, d]
}

/// A frame with a JSON payload.
pub fn json(kind: u8, body: &impl Serialize) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    // A Vec takes everything and our bodies have string keys: nothing here can fail.
    let written = serde_json::to_writer(&mut frame, body);
    debug_assert!(written.is_ok());
    let head = header(kind, frame.len() - HEADER);
    frame[..HEADER].copy_from_slice(&head);
    frame
}

/// Whether an execution may have this id.
pub fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_ID && id.bytes().all(|byte| byte.is_ascii_graphic())
}

#[derive(Deserialize)]
pub struct Op {
    pub op: String,
}

#[derive(Deserialize)]
pub struct Claim {
    pub hostname: Option<String>,
    pub env: Option<BTreeMap<String, String>>,
    pub user: Option<ClaimUser>,
    pub hosts: Option<String>,
    pub resolv_conf: Option<String>,
    /// The disk has been a box's: what stands in the way of a file or a home there is left as it is.
    #[serde(default)]
    pub used: bool,
}

#[derive(Clone, Deserialize)]
pub struct ClaimUser {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

#[derive(Deserialize)]
pub struct Exec {
    pub id: String,
    pub argv: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    #[serde(default)]
    pub stdin: bool,
    pub terminal: Option<Size>,
    pub limit: u64,
    /// Read no output before somebody is attached to it, or its followers have gone.
    #[serde(default)]
    pub hold: bool,
}

#[derive(Clone, Copy, Deserialize)]
pub struct Size {
    pub rows: u16,
    pub cols: u16,
}

#[derive(Deserialize)]
pub struct Wake {
    /// Present in a box that was made of another's memory: its running executions' new ids by the old ones.
    pub renamed: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
pub struct Named {
    pub id: String,
}

#[derive(Deserialize)]
pub struct Attach {
    pub id: String,
    /// `stdout` or `stderr`; a terminal has only the first.
    pub stream: Option<String>,
    /// Hold the output back for as long as it takes instead of being dropped.
    #[serde(default)]
    pub patient: bool,
}

#[derive(Serialize)]
pub struct Attached {
    /// Bytes of the stream that went to its file before, and whether some did not fit.
    pub passed: u64,
    pub cut: bool,
}

#[derive(Deserialize)]
pub struct Signal {
    pub id: String,
    pub signal: i32,
    #[serde(default = "yes")]
    pub group: bool,
    #[serde(default)]
    pub foreground: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
pub struct Stdin {
    pub id: String,
    #[serde(default)]
    pub eof: bool,
}

#[derive(Deserialize)]
pub struct Resize {
    pub id: String,
    pub rows: u16,
    pub cols: u16,
}

#[derive(Deserialize)]
pub struct Read {
    pub path: String,
    pub user: Option<String>,
    #[serde(default)]
    pub offset: u64,
    pub limit: Option<u64>,
}

#[derive(Deserialize)]
pub struct Write {
    pub path: String,
    pub user: Option<String>,
    pub mode: Option<u32>,
}

/// `list` and `stat`.
#[derive(Deserialize)]
pub struct Look {
    pub path: String,
    pub user: Option<String>,
}

#[derive(Deserialize)]
pub struct Connect {
    pub port: u16,
}

#[derive(Serialize)]
pub struct Hello {
    pub protocol: u32,
    pub version: &'static str,
    pub ready: bool,
    pub claimed: bool,
    pub uptime_ms: u64,
}

#[derive(Serialize)]
pub struct Started {
    pub pid: i32,
    pub known: bool,
}

#[derive(Serialize)]
pub struct Growth {
    pub stdout: u64,
    pub stderr: u64,
}

/// How an execution ended: the final event, and with the same names the line in the status file.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Outcome {
    pub exit_code: i32,
    pub signal: Option<i32>,
    pub stdout: u64,
    pub stderr: u64,
    pub stdout_cut: bool,
    pub stderr_cut: bool,
}

#[derive(Serialize)]
pub struct Status {
    pub exit_code: i32,
    pub signal: Option<i32>,
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    pub stdout_cut: bool,
    pub stderr_cut: bool,
}

#[derive(Serialize)]
pub struct Bytes {
    pub bytes: u64,
}

#[derive(Serialize)]
pub struct Info<'a> {
    pub path: &'a str,
    pub kind: &'static str,
    pub size: u64,
    pub mode: u32,
    pub mtime: f64,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Serialize)]
pub struct Folder<'a> {
    pub path: &'a str,
}

#[derive(Serialize)]
pub struct Rows<T: Serialize> {
    pub rows: Vec<T>,
}

#[derive(Serialize)]
pub struct Nothing {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_kind_is_in_the_document() {
        let document = include_str!("../PROTOCOL.md");
        for kind in Kind::ALL {
            assert!(document.contains(&format!("| `{}` |", kind.name())), "{} is not documented", kind.name());
        }
    }

    #[test]
    fn a_frame_has_its_length_in_little_endian() {
        let frame = json(EVENT, &Growth { stdout: 1, stderr: 2 });
        assert_eq!(frame[0], EVENT);
        assert_eq!(u32::from_le_bytes(frame[1..5].try_into().unwrap()) as usize, frame.len() - HEADER);
        assert_eq!(&frame[HEADER..], br#"{"stdout":1,"stderr":2}"#);
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let request: Named = serde_json::from_str(r#"{"op":"wait","id":"a","later":[1]}"#).unwrap();
        assert_eq!(request.id, "a");
    }

    #[test]
    fn errno_becomes_a_kind() {
        assert_eq!(Failure::file(Errno(libc::EDQUOT)).kind, Kind::NoSpace);
        assert_eq!(Failure::own(Errno(libc::EAGAIN), "").kind, Kind::Busy);
        assert_eq!(Failure::own(Errno(libc::EBADF), "").kind, Kind::Failed);
    }
}
