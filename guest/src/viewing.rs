//! Viewers of a terminal: replay, live output, and what happens to one that is slow.
//!
//! A viewer with too much to take holds the terminal's output back, as a slow line does; but only for a moment,
//! then it is dropped and the command goes on.

use std::time::{Duration, Instant};

use crate::conn::Role;
use crate::exec::Exec;
use crate::guest::Guest;
use crate::proto::{self, json, Failure, Kind};
use crate::slots::Key;
use crate::timers::Timer;

/// Bytes that wait for a viewer before it holds the terminal back, and to which it must get down again.
const HIGH: usize = 256 << 10;
const LOW: usize = 128 << 10;
const PATIENCE: Duration = Duration::from_secs(1);
const VIEWERS_MAX: usize = 32;

impl Guest {
    pub fn attach(&mut self, key: Key, id: &str) -> Result<(), Failure> {
        let (found, _, live) = self.live_exec(id)?;
        let terminal = live.terminal.as_mut().ok_or(Kind::NoTerminal)?;
        if terminal.viewers.len() >= VIEWERS_MAX {
            return Err(Kind::Busy.into());
        }
        terminal.viewers.push(key);
        let mut answer = json(proto::REPLY, &proto::Nothing {});
        for part in terminal.ring.parts().into_iter().filter(|part| !part.is_empty()) {
            answer.extend(proto::header(proto::DATA, part.len()));
            answer.extend(part);
        }
        if let Some(conn) = self.conns.get_mut(key) {
            conn.role = Role::Viewer { exec: found, slow_since: None };
        }
        self.send(key, &answer);
        Ok(())
    }

    /// `count` bytes of terminal output are in the scratch buffer.
    pub fn show(&mut self, found: Key, count: usize) {
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        let Some(viewers) = live.terminal.as_ref().map(|terminal| terminal.viewers.clone()) else { return };
        if viewers.is_empty() {
            return;
        }
        let mut frame = proto::header(proto::DATA, count).to_vec();
        frame.extend_from_slice(&self.scratch.bytes()[..count]);
        for key in viewers {
            self.send(key, &frame);
            let Some(conn) = self.conns.get_mut(key) else { continue };
            let over = conn.out.len() > HIGH;
            if let Role::Viewer { slow_since: slow_since @ None, .. } = &mut conn.role {
                if over {
                    *slow_since = Some(Instant::now());
                    self.hold(found);
                }
            }
        }
    }

    fn hold(&mut self, found: Key) {
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        if let Some(terminal) = live.terminal.as_mut().filter(|terminal| !terminal.held) {
            terminal.held = true;
            self.timers.after(PATIENCE, Timer::Held(found));
            self.listen_for_input(found);
        }
    }

    /// A viewer has taken some of its bytes.
    pub fn on_viewer_progress(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let low = conn.out.len() <= LOW;
        if let Role::Viewer { exec, slow_since: slow_since @ Some(_) } = &mut conn.role {
            if low {
                *slow_since = None;
                let found = *exec;
                self.release_if_all_took(found);
            }
        }
    }

    pub fn release_if_all_took(&mut self, found: Key) {
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        let Some(terminal) = live.terminal.as_mut().filter(|terminal| terminal.held) else { return };
        let conns = &self.conns;
        let slow = |key: &Key| {
            matches!(conns.get(*key).map(|conn| &conn.role), Some(Role::Viewer { slow_since: Some(_), .. }))
        };
        if !terminal.viewers.iter().any(slow) {
            terminal.held = false;
            self.listen_for_input(found);
        }
    }

    /// The patience with slow viewers is at its end for those that were slow all the time.
    pub fn on_held(&mut self, found: Key) {
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        let Some(terminal) = live.terminal.as_ref().filter(|terminal| terminal.held) else { return };
        let now = Instant::now();
        for key in terminal.viewers.clone() {
            let role = self.conns.get(key).map(|conn| &conn.role);
            if let Some(Role::Viewer { slow_since: Some(since), .. }) = role {
                if now >= *since + PATIENCE {
                    self.close(key);
                }
            }
        }
        self.release_if_all_took(found);
        let held = self.execs.slots.get_mut(found).and_then(Exec::live).and_then(|live| live.terminal.as_ref());
        if held.is_some_and(|terminal| terminal.held) {
            self.timers.after(PATIENCE / 4, Timer::Held(found));
        }
    }
}
