//! Viewers of a command's output: replay, live output, and what happens to one that is slow.
//!
//! A viewer with too much to take holds the stream back, as a slow line does. One that is patient may do so for as
//! long as it is connected; any other only for a moment, then it is dropped and the command goes on.

use std::time::{Duration, Instant};

use crate::conn::Role;
use crate::exec::Exec;
use crate::guest::{Guest, READ};
use crate::proto::{self, json, Failure, Kind};
use crate::slots::Key;
use crate::timers::Timer;

/// Bytes that wait for a viewer before it holds its stream back, and to which it must get down again.
const HIGH: usize = 256 << 10;
const LOW: usize = 128 << 10;
/// A line that loses a packet stands still for a second or two.
const PATIENCE: Duration = Duration::from_secs(3);
const VIEWERS_MAX: usize = 32;

impl Guest {
    pub fn attach(&mut self, key: Key, request: &proto::Attach) -> Result<(), Failure> {
        let (found, _, live) = self.live_exec(&request.id)?;
        let which = match request.stream.as_deref() {
            None if live.terminal.is_none() => return Err(Kind::NoTerminal.into()),
            None | Some("stdout") => 0,
            Some("stderr") if live.terminal.is_none() => 1,
            Some("stderr") => return Err(Kind::NoTerminal.into()),
            Some(_) => return Err(Failure::bad("no such stream")),
        };
        let view = &mut live.views[which];
        if view.viewers.len() >= VIEWERS_MAX {
            return Err(Kind::Busy.into());
        }
        view.viewers.push(key);
        view.awaited = false;
        let spool = &live.spools[which];
        let mut answer = json(proto::REPLY, &proto::Attached { passed: spool.written, cut: spool.cut });
        for part in live.terminal.iter().flat_map(|ring| ring.parts()).filter(|part| !part.is_empty()) {
            answer.extend(proto::header(proto::DATA, part.len()));
            answer.extend(part);
        }
        if let Some(conn) = self.conns.get_mut(key) {
            conn.role = Role::Viewer { exec: found, which, slow_since: None };
            conn.patient = request.patient;
        }
        self.send(key, &answer);
        self.listen_for_output(found, which);
        Ok(())
    }

    /// `count` bytes of a stream are in the scratch buffer.
    pub fn show(&mut self, found: Key, which: usize, count: usize) {
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        if live.views[which].viewers.is_empty() {
            return;
        }
        let viewers = live.views[which].viewers.clone();
        let mut frame = proto::header(proto::DATA, count).to_vec();
        frame.extend_from_slice(&self.scratch.bytes()[..count]);
        for key in viewers {
            self.send(key, &frame);
            let Some(conn) = self.conns.get_mut(key) else { continue };
            let (over, patient) = (conn.out.len() > HIGH, conn.patient);
            if let Role::Viewer { slow_since: slow_since @ None, .. } = &mut conn.role {
                if over {
                    *slow_since = Some(Instant::now());
                    self.hold(found, which, patient);
                }
            }
        }
    }

    fn hold(&mut self, found: Key, which: usize, patient: bool) {
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        live.views[which].held = true;
        if !patient {
            self.timers.after(PATIENCE, Timer::Held(found));
        }
        self.listen_for_output(found, which);
    }

    /// Read a stream, or leave it alone, as its viewers allow.
    fn listen_for_output(&mut self, found: Key, which: usize) {
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        if live.terminal.is_some() {
            return self.listen_for_input(found);
        }
        let paused = live.views[which].paused();
        let failed = match &mut live.streams[which] {
            // A stream that is left alone and whose other side is closed would report that again and again.
            Some(stream) => stream.want((!paused).then_some(READ)).is_err(),
            None => false,
        };
        if failed {
            // No memory for a watch: give the stream up rather than forget about it.
            live.streams[which] = None;
        }
    }

    /// A viewer has taken some of its bytes.
    pub fn on_viewer_progress(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let low = conn.out.len() <= LOW;
        if let Role::Viewer { exec, which, slow_since: slow_since @ Some(_) } = &mut conn.role {
            if low {
                *slow_since = None;
                let (found, which) = (*exec, *which);
                self.release_if_all_took(found, which);
            }
        }
    }

    pub fn release_if_all_took(&mut self, found: Key, which: usize) {
        let conns = &self.conns;
        let slow = |key: &Key| {
            matches!(conns.get(*key).map(|conn| &conn.role), Some(Role::Viewer { slow_since: Some(_), .. }))
        };
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        let view = &mut live.views[which];
        view.held = view.held && view.viewers.iter().any(slow);
        self.listen_for_output(found, which);
    }

    /// The patience with slow viewers is at its end for those that were slow all the time and are not patient.
    pub fn on_held(&mut self, found: Key) {
        let now = Instant::now();
        let mut waiting = false;
        for which in 0..2 {
            let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
            if !live.views[which].held {
                continue;
            }
            for key in live.views[which].viewers.clone() {
                let Some(conn) = self.conns.get(key).filter(|conn| !conn.patient) else { continue };
                if let Role::Viewer { slow_since: Some(since), .. } = conn.role {
                    if now >= since + PATIENCE {
                        self.close(key);
                    } else {
                        waiting = true;
                    }
                }
            }
            self.release_if_all_took(found, which);
        }
        if waiting {
            self.timers.after(PATIENCE / 4, Timer::Held(found));
        }
    }
}
