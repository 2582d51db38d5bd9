//! A connection of the host: frames in, bytes out, both bounded.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use crate::proto::{self, HEADER};
use crate::relay::Relay;
use crate::slots::Key;
use crate::sys::{self, again, Sys, Watched};

/// Of large frames that are coming in or wait for a command to take them, over all connections.
const HELD_MAX: usize = 16 << 20;
/// Frames up to this size are always taken: a host that stalls in large ones must not keep small ones out.
const SMALL: usize = 16 << 10;
/// Three for `exec`; one more shows that there are too many.
const DESCRIPTORS_MAX: usize = 4;

/// Bytes of large frames, shared by all connections.
#[derive(Clone)]
pub struct Budget(Rc<Cell<usize>>);

/// Bytes taken from a budget, given back when this is dropped.
pub struct Share {
    bytes: usize,
    budget: Budget,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.set(self.budget.0.get() - self.bytes);
    }
}

impl Budget {
    pub fn new() -> Budget {
        Budget(Rc::new(Cell::new(0)))
    }

    /// None when there is too much already.
    fn take(&self, bytes: usize) -> Option<Share> {
        let counted = if bytes > SMALL { bytes } else { 0 };
        let total = self.0.get() + counted;
        if total > HELD_MAX {
            return None;
        }
        self.0.set(total);
        Some(Share { bytes: counted, budget: self.clone() })
    }
}

pub enum Step {
    /// The rest has not arrived yet.
    Again,
    /// The host has closed its side, or the connection broke.
    Closed,
    /// Its kind and payload, and what it has taken of the budget: to be held for as long as the payload is.
    Frame(u8, Vec<u8>, Option<Share>),
    Bad(&'static str),
    /// Too much is coming in at once.
    Busy,
}

/// Puts a frame together. Reads never go beyond the frame: what follows may belong to another thread.
pub struct Input {
    head: [u8; HEADER],
    have: usize,
    need: usize,
    share: Option<Share>,
    body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
    budget: Budget,
}

impl Input {
    pub fn new(budget: Budget) -> Input {
        Input { head: [0; HEADER], have: 0, need: 0, share: None, body: Vec::new(), fds: Vec::new(), budget }
    }

    pub fn step(&mut self, fd: i32, scratch: &mut [u8]) -> Step {
        loop {
            let wanted = if self.have < HEADER { HEADER - self.have } else { self.need - self.body.len() };
            let room = wanted.min(scratch.len());
            let count = match sys::recv_fds(fd, &mut scratch[..room], &mut self.fds) {
                Ok(0) => return Step::Closed,
                Ok(count) => count,
                Err(errno) if again(errno) => return Step::Again,
                Err(_) => return Step::Closed,
            };
            if self.fds.len() > DESCRIPTORS_MAX {
                return Step::Bad("more descriptors than any request takes");
            }
            if self.have < HEADER {
                self.head[self.have..self.have + count].copy_from_slice(&scratch[..count]);
                self.have += count;
                if self.have == HEADER {
                    if let Some(refusal) = self.begin() {
                        return refusal;
                    }
                }
            } else {
                self.body.extend_from_slice(&scratch[..count]);
            }
            if self.have == HEADER && self.body.len() == self.need {
                return self.finish();
            }
        }
    }

    /// The header is complete. Returns what is wrong with it.
    fn begin(&mut self) -> Option<Step> {
        let [kind, a, b, c, d] = self.head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let most = match kind {
            proto::REQUEST => proto::MAX_REQUEST,
            proto::DATA => proto::MAX_DATA,
            proto::END => 0,
            _ => return Some(Step::Bad("a frame of a kind that hosts do not send")),
        };
        if length > most || (length == 0 && kind != proto::END) {
            return Some(Step::Bad("a frame of a length that its kind does not have"));
        }
        self.share = self.budget.take(length);
        if self.share.is_none() {
            return Some(Step::Busy);
        }
        self.need = length;
        None
    }

    fn finish(&mut self) -> Step {
        self.have = 0;
        self.need = 0;
        Step::Frame(self.head[0], std::mem::take(&mut self.body), self.share.take())
    }
}

/// Bytes that the host has not taken yet.
#[derive(Default)]
pub struct Output {
    bytes: Vec<u8>,
    start: usize,
}

impl Output {
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn push(&mut self, data: &[u8]) {
        if self.start > 0 && self.bytes.len() + data.len() > self.bytes.capacity() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(data);
    }

    /// Send what the socket takes. Returns how much that was.
    pub fn flush(&mut self, fd: i32) -> Sys<usize> {
        let before = self.start;
        while !self.is_empty() {
            match sys::send(fd, &self.bytes[self.start..]) {
                Ok(count) => self.start += count,
                Err(errno) if again(errno) => break,
                Err(errno) => return Err(errno),
            }
        }
        let sent = self.start - before;
        if self.is_empty() {
            *self = Output::default();
        }
        Ok(sent)
    }
}

/// Input for a command that has arrived from one connection and is not in its pipe or terminal yet.
#[derive(Default)]
pub struct Feed {
    pub data: Vec<u8>,
    pub done: usize,
    pub total: u64,
    pub _share: Option<Share>,
}

pub enum Role {
    /// Its request has not arrived in full.
    Asking,
    /// It gets the events of an execution; `due`: one is owed as soon as the last has gone out.
    Follower { exec: Key, due: bool },
    /// It writes to a command's standard input; `eof`: and closes it then. `last`: the end frame has come.
    Writer { exec: Key, eof: bool, last: bool },
    /// It is attached to a stream; `slow_since`: it has too much to take yet.
    Viewer { exec: Key, which: usize, slow_since: Option<Instant> },
    /// Its bytes go to a port.
    Relay(Box<Relay>),
    /// Its answer is on the way out.
    Answered,
}

pub struct Conn {
    pub io: Watched,
    pub input: Input,
    pub out: Output,
    pub role: Role,
    pub feed: Feed,
    /// Close it once `out` is empty.
    pub closing: bool,
    /// The host may take its bytes as late as it likes.
    pub patient: bool,
    /// Close it when no progress was made until then.
    pub deadline: Option<Instant>,
    pub timer_set: bool,
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, UnixStream) {
        let (host, guest) = UnixStream::pair().unwrap();
        guest.set_nonblocking(true).unwrap();
        (host, guest)
    }

    #[test]
    fn a_frame_in_pieces_is_put_together_and_no_byte_more_is_read() {
        let ((mut host, guest), mut scratch) = (pair(), [0; 64]);
        let mut input = Input::new(Budget::new());
        let mut bytes = proto::header(proto::REQUEST, 3).to_vec();
        bytes.extend_from_slice(b"abcNEXT");
        let mut found = None;
        for part in bytes.chunks(3) {
            host.write_all(part).unwrap();
            if let Step::Frame(kind, body, _) = input.step(guest.as_raw_fd(), &mut scratch) {
                found = Some((kind, body));
                break;
            }
        }
        assert_eq!(found, Some((proto::REQUEST, b"abc".to_vec())));
        assert_eq!(sys::read(guest.as_raw_fd(), &mut scratch), Ok(1));
        assert_eq!(scratch[0], b'N');
    }

    #[test]
    fn lengths_over_the_limit_are_refused_before_a_byte_of_them_is_kept() {
        for (kind, length) in [(proto::REQUEST, proto::MAX_REQUEST + 1), (proto::DATA, 0), (proto::END, 1), (9, 0)] {
            let ((mut host, guest), mut scratch) = (pair(), [0; 64]);
            let mut input = Input::new(Budget::new());
            host.write_all(&proto::header(kind, length)).unwrap();
            assert!(matches!(input.step(guest.as_raw_fd(), &mut scratch), Step::Bad(_)));
        }
    }

    #[test]
    fn the_budget_bounds_all_connections_together_and_comes_back() {
        let (budget, mut scratch) = (Budget::new(), [0; 64]);
        let mut held = Vec::new();
        for turn in 0..5 {
            let (mut host, guest) = pair();
            let mut input = Input::new(budget.clone());
            host.write_all(&proto::header(proto::REQUEST, proto::MAX_REQUEST)).unwrap();
            let step = input.step(guest.as_raw_fd(), &mut scratch);
            assert_eq!(matches!(step, Step::Busy), turn == 4);
            held.push((host, guest, input));
        }
        held.clear();
        assert_eq!(budget.0.get(), 0);
    }

    #[test]
    fn output_survives_a_full_socket() {
        let (mut host, guest) = pair();
        let mut output = Output::default();
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        output.push(&sent);
        let mut got = Vec::new();
        let mut buffer = vec![0; 50_000];
        while got.len() < sent.len() {
            output.flush(guest.as_raw_fd()).unwrap();
            let count = std::io::Read::read(&mut host, &mut buffer).unwrap();
            got.extend_from_slice(&buffer[..count]);
        }
        assert!(output.is_empty());
        assert_eq!(got, sent);
    }
}
