//! Followers of an execution: told of its growth at a pace, and of its end.

use std::time::{Duration, Instant};

use crate::conn::Role;
use crate::exec::{Exec, Live, State};
use crate::guest::Guest;
use crate::proto::{self, json, Failure, Kind};
use crate::slots::Key;
use crate::timers::Timer;

/// Followers get at most one event in this time.
const EVENT_PACE: Duration = Duration::from_millis(20);
/// And at least one in this, unless the host wants them more often.
pub const HEARTBEAT: Duration = Duration::from_secs(20);

impl Guest {
    pub fn wait(&mut self, key: Key, id: &str) -> Result<(), Failure> {
        let found = self.execs.find(id).ok_or(Kind::NoSuchExecution)?;
        self.follow(key, found, true)
    }

    /// Reply, then tell where the execution is, then how it goes on.
    pub fn follow(&mut self, key: Key, found: Key, known: bool) -> Result<(), Failure> {
        let exec = self.execs.slots.get_mut(found).ok_or(Kind::NoSuchExecution)?;
        let reply = json(proto::REPLY, &proto::Started { pid: exec.pid, known });
        let live = match &mut exec.state {
            State::Ended(outcome) => {
                let events = [reply, json(proto::EVENT, outcome)].concat();
                self.finish(key, &events);
                return Ok(());
            }
            State::Live(live) => live,
        };
        live.followers.push(key);
        let starting = live.report.is_some();
        let growth = growth_of(live);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.role = Role::Follower { exec: found, due: false };
        }
        if starting {
            self.await_report(key);
        } else {
            self.send(key, &[reply, growth].concat());
            self.arm_heartbeat(found);
        }
        Ok(())
    }

    /// Tell the followers now, or when the pace allows.
    pub fn on_growth(&mut self, found: Key) {
        let now = Instant::now();
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        if live.followers.is_empty() || live.event_due || live.report.is_some() {
            return;
        }
        if now < live.next_event {
            live.event_due = true;
            let when = live.next_event;
            self.timers.at(when, Timer::Growth(found));
            return;
        }
        self.tell_growth(found, now);
    }

    pub fn on_growth_due(&mut self, found: Key) {
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        live.event_due = false;
        self.tell_growth(found, Instant::now());
    }

    fn tell_growth(&mut self, found: Key, now: Instant) {
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        live.next_event = now + EVENT_PACE;
        live.last_event = now;
        let event = growth_of(live);
        for follower in live.followers.clone() {
            match self.conns.get_mut(follower) {
                // It has not taken the last event: it gets one with the then present sizes afterwards.
                Some(conn) if !conn.out.is_empty() => {
                    if let Role::Follower { due, .. } = &mut conn.role {
                        *due = true;
                    }
                }
                _ => self.send(follower, &event),
            }
        }
    }

    /// A connection has taken everything it was sent.
    pub fn on_flushed(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        match &mut conn.role {
            Role::Follower { exec, due } if *due => {
                *due = false;
                let found = *exec;
                if let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) {
                    let event = growth_of(live);
                    self.send(key, &event);
                }
            }
            _ => {}
        }
    }

    pub fn arm_heartbeat(&mut self, found: Key) {
        if let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) {
            if !live.heartbeat && !live.followers.is_empty() {
                live.heartbeat = true;
                self.timers.after(self.heartbeat, Timer::Heartbeat(found));
            }
        }
    }

    pub fn on_heartbeat(&mut self, found: Key) {
        let now = Instant::now();
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        live.heartbeat = false;
        if now >= live.last_event + self.heartbeat / 2 {
            self.tell_growth(found, now);
        }
        self.arm_heartbeat(found);
    }
}

fn growth_of(live: &Live) -> Vec<u8> {
    let [stdout, stderr] = &live.spools;
    json(proto::EVENT, &proto::Growth { stdout: stdout.written, stderr: stderr.written })
}
