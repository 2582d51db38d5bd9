//! Standing by while the host writes down the box's memory: a process that is connected to the host cannot be written
//! down, and one that is not dumpable neither.
//!
//! The guest goes on reading its commands' output, and keeps their files: those are told to the host's program by name.

use std::os::fd::OwnedFd;

use crate::guest::Guest;
use crate::proto::{self, json, Failure, Kind, Wake};
use crate::slots::Key;
use crate::sys;

impl Guest {
    /// Close every connection but this one, which ends with the answer, and take no new work until `wake`.
    pub fn park(&mut self, key: Key) -> Result<(), Failure> {
        if !self.files.idle() {
            return Err(Kind::Busy.into());
        }
        for other in self.conns.keys() {
            if other != key {
                self.close(other);
            }
        }
        sys::set_dumpable(true).map_err(|errno| Failure::own(errno, "prctl"))?;
        self.parked = true;
        self.finish(key, &json(proto::REPLY, &proto::Nothing {}));
        Ok(())
    }

    /// Go on: in the box that was parked, or in the one that was made of its memory.
    /// With a descriptor, that is the socket to listen on from here on: a dump finds only sockets of the box's own
    /// network namespace, and the one that the box was made with again had to be there before that was.
    pub fn wake(&mut self, key: Key, request: &Wake, mut fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let listener = fds.pop();
        if !fds.is_empty() || listener.as_ref().is_some_and(|fd| !sys::listens(fd)) {
            return Err(Failure::bad("not one listening socket"));
        }
        if request.renamed.iter().flatten().any(|(_, new)| !proto::is_id(new)) {
            return Err(Failure::bad("not an id"));
        }
        if let Some(listener) = listener {
            self.listen_on(listener).map_err(|errno| Failure::own(errno, "epoll"))?;
        }
        sys::set_dumpable(false).map_err(|errno| Failure::own(errno, "prctl"))?;
        if let Some(renamed) = &request.renamed {
            self.execs.rename(renamed);
        }
        self.parked = false;
        self.finish(key, &json(proto::REPLY, &proto::Nothing {}));
        Ok(())
    }
}
