//! The host's side of a file call, by blocking calls with a limit.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use serde::Serialize;

use crate::proto::{self, header, json, Failure, HEADER};
use crate::sys::{self, Errno, Sys};

/// A host that neither takes nor gives a byte for so long is gone.
const STALL_SECONDS: i64 = 300;

pub struct Peer(OwnedFd);

/// What the host sends with a write.
pub enum Sent<'a> {
    Data(&'a [u8]),
    End,
}

impl Peer {
    pub fn new(socket: OwnedFd) -> Sys<Peer> {
        let fd = socket.as_raw_fd();
        sys::set_nonblocking(fd, false)?;
        let limit = libc::timeval { tv_sec: STALL_SECONDS, tv_usec: 0 };
        sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &limit)?;
        sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &limit)?;
        Ok(Peer(socket))
    }

    pub fn send_bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match sys::send(self.0.as_raw_fd(), bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno(libc::EINTR)) => {}
                Err(Errno(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
        Ok(())
    }

    pub fn reply(&mut self, body: &impl Serialize) -> Result<(), Failure> {
        self.send_bytes(&json(proto::REPLY, body)).map_err(|_| lost())
    }

    pub fn send(&mut self, kind: u8, body: &impl Serialize) -> Result<(), Failure> {
        self.send_bytes(&json(kind, body)).map_err(|_| lost())
    }

    /// Send `count` bytes that are in `frame` behind room for a header.
    pub fn send_data(&mut self, frame: &mut [u8], count: usize) -> Result<(), Failure> {
        frame[..HEADER].copy_from_slice(&header(proto::DATA, count));
        self.send_bytes(&frame[..HEADER + count]).map_err(|_| lost())
    }

    pub fn send_end(&mut self) -> Result<(), Failure> {
        self.send_bytes(&header(proto::END, 0)).map_err(|_| lost())
    }

    /// The next frame of an upload, its data in `room`, which holds MAX_DATA.
    pub fn receive<'a>(&mut self, room: &'a mut [u8]) -> Result<Sent<'a>, Failure> {
        let mut head = [0; HEADER];
        self.fill(&mut head)?;
        let [kind, a, b, c, d] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        match (kind, length) {
            (proto::END, 0) => Ok(Sent::End),
            (proto::DATA, 1..=proto::MAX_DATA) => {
                self.fill(&mut room[..length])?;
                Ok(Sent::Data(&room[..length]))
            }
            _ => Err(Failure::bad("a frame that does not belong in an upload")),
        }
    }

    fn fill(&mut self, mut room: &mut [u8]) -> Result<(), Failure> {
        while !room.is_empty() {
            match sys::read(self.0.as_raw_fd(), room) {
                Ok(0) => return Err(lost()),
                Ok(count) => room = &mut room[count..],
                Err(Errno(libc::EINTR)) => {}
                Err(_) => return Err(lost()),
            }
        }
        Ok(())
    }
}

/// The host is gone; nobody reads this.
fn lost() -> Failure {
    Failure::bad("the connection ended before the request")
}
