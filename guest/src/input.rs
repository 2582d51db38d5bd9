//! Input for commands: from `stdin` requests into a pipe or terminal, from viewers into a terminal.
//!
//! A connection's frame is written whole before the next connection's: several writers never mix inside a frame.

use crate::conn::{Feed, Role, Share};
use crate::exec::{Exec, Live};
use crate::guest::{Guest, READ, WRITE};
use crate::proto::{self, json, Failure, Kind};
use crate::slots::Key;
use crate::sys::{self, again, Errno, Watched};

/// End of file, typed.
const CTRL_D: u8 = 4;

/// What became of writing one connection's frame.
enum Fed {
    All,
    Blocked,
    /// Nobody reads any more.
    Closed,
}

impl Guest {
    pub fn stdin(&mut self, key: Key, request: &proto::Stdin) -> Result<(), Failure> {
        let (found, _, live) = self.live_exec(&request.id)?;
        if live.terminal.is_none() && live.input.is_none() {
            return Err(Kind::TakesNoInput.into());
        }
        if let Some(conn) = self.conns.get_mut(key) {
            conn.role = Role::Writer { exec: found, eof: request.eof, last: false };
        }
        Ok(())
    }

    /// A data frame has come from a writer or a viewer.
    pub fn on_feed(&mut self, key: Key, data: Vec<u8>, share: Option<Share>) -> Result<(), Failure> {
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        let (Role::Writer { exec, .. } | Role::Viewer { exec, .. }) = conn.role else { return Ok(()) };
        conn.feed = Feed { data, done: 0, total: conn.feed.total, _share: share };
        let live = self.execs.slots.get_mut(exec).and_then(Exec::live).ok_or(Kind::Ended)?;
        live.writers.push_back(key);
        self.pump_input(exec);
        if self.listen_as_needed(key).is_err() {
            self.close(key);
        }
        Ok(())
    }

    /// The end frame has come: all data before it is written.
    pub fn on_feed_end(&mut self, key: Key) -> Result<(), Failure> {
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        if let Role::Viewer { exec, which: 0, .. } = conn.role {
            // Of a command without a terminal: the end of its input. A terminal has none but what is typed.
            if let Some(live) = self.execs.slots.get_mut(exec).and_then(Exec::live) {
                live.input = None;
            }
            return Ok(());
        }
        let Role::Writer { exec, eof, ref mut last } = conn.role else { return Ok(()) };
        *last = true;
        let live = self.execs.slots.get_mut(exec).and_then(Exec::live).ok_or(Kind::Ended)?;
        if eof && live.terminal.is_some() {
            let total = conn.feed.total;
            return self.on_feed(key, vec![CTRL_D], None).map(|()| self.settle(key, total));
        }
        if eof {
            live.input = None;
        }
        let total = conn.feed.total;
        self.settle(key, total);
        Ok(())
    }

    /// Answer a writer whose data is written.
    fn settle(&mut self, key: Key, total: u64) {
        if self.conns.get(key).is_some_and(|conn| conn.feed.data.is_empty() && !conn.closing) {
            self.leave(key);
            self.finish(key, &json(proto::REPLY, &proto::Bytes { bytes: total }));
        }
    }

    /// Write what waits for this command, as far as it reads.
    pub fn pump_input(&mut self, found: Key) {
        loop {
            let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
            let Some(key) = live.writers.front().copied() else { break };
            let Some(conn) = self.conns.get_mut(key) else {
                live.writers.pop_front();
                continue;
            };
            let fed = match input_of(live) {
                Some(target) => write_feed(target, &mut conn.feed),
                None => Fed::Closed,
            };
            match fed {
                Fed::Blocked => break,
                Fed::All => {
                    live.writers.pop_front();
                    self.on_fed(key);
                }
                Fed::Closed => {
                    live.writers.pop_front();
                    live.input = None;
                    if let (Role::Viewer { .. }, None) = (&conn.role, &live.terminal) {
                        // It still wants the output: what it sends is dropped.
                        self.on_fed(key);
                    } else {
                        self.fail(key, &Kind::Ended.into());
                    }
                }
            }
        }
        self.listen_for_input(found);
    }

    fn on_fed(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.feed = Feed { total: conn.feed.total, ..Feed::default() };
        if let Role::Writer { last: true, .. } = conn.role {
            // It was the typed end of file, which is not counted.
            let total = conn.feed.total.saturating_sub(1);
            self.settle(key, total);
        } else if self.listen_as_needed(key).is_err() {
            self.close(key);
        }
    }

    /// Ask epoll for what the command's input and terminal wait for.
    pub fn listen_for_input(&mut self, found: Key) {
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        let waiting = !live.writers.is_empty();
        let paused = live.terminal.as_ref().map(|_| live.views[0].paused());
        let result = match (paused, &mut live.streams[0], &mut live.input) {
            (Some(paused), Some(master), _) => {
                let mask = if paused { 0 } else { READ } | if waiting { WRITE } else { 0 };
                // A held terminal whose other side is closed would report that again and again.
                master.want(Some(mask).filter(|mask| *mask != 0))
            }
            (None, _, Some(input)) => input.want(waiting.then_some(WRITE)),
            _ => Ok(()),
        };
        if result.is_err() {
            // No memory for a watch: give the input up rather than forget about it.
            live.input = None;
        }
    }
}

fn input_of(live: &mut Live) -> Option<&mut Watched> {
    if live.terminal.is_some() {
        live.streams[0].as_mut()
    } else {
        live.input.as_mut()
    }
}

fn write_feed(target: &Watched, feed: &mut Feed) -> Fed {
    while feed.done < feed.data.len() {
        match sys::write(target.raw(), &feed.data[feed.done..]) {
            Ok(count) => {
                feed.done += count;
                feed.total += count as u64;
            }
            Err(Errno(libc::EINTR)) => {}
            Err(errno) if again(errno) => return Fed::Blocked,
            Err(_) => return Fed::Closed,
        }
    }
    Fed::All
}
