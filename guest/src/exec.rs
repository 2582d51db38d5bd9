//! Executions that the guest knows: the running ones whole, the ended ones as their outcome.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::proto::Outcome;
use crate::slots::{Key, Slots};
use crate::spool::Spool;
use crate::sys::Watched;
use crate::term::Ring;

/// Ended executions that are remembered; the oldest is forgotten first.
const REMEMBERED: usize = 1000;

pub struct Exec {
    pub id: String,
    pub pid: i32,
    pub state: State,
}

pub enum State {
    Live(Box<Live>),
    Ended(Outcome),
}

/// A command whose main process has not been reaped.
pub struct Live {
    /// Readable or closed once the child has run its program or failed to; None after that.
    pub report: Option<Watched>,
    /// Our ends of its output; a terminal has only the first. None after end of file.
    pub streams: [Option<Watched>; 2],
    pub spools: [Spool; 2],
    pub status: OwnedFd,
    /// The write end of its standard input.
    pub input: Option<Watched>,
    /// Present for a terminal: `streams[0]` is then both output and input.
    pub terminal: Option<Ring>,
    /// Who sees what comes out of `streams`.
    pub views: [View; 2],
    /// Connections with input for it, first come first served.
    pub writers: VecDeque<Key>,
    pub followers: Vec<Key>,
    /// No event before this, so that they are at most one per 20 ms.
    pub next_event: Instant,
    /// A timer for the next event is set.
    pub event_due: bool,
    pub last_event: Instant,
    pub heartbeat: bool,
}

#[derive(Default)]
pub struct View {
    pub viewers: Vec<Key>,
    /// The stream is not read because a viewer has too much to take.
    pub held: bool,
    /// The stream is not read because its first viewer has not come yet.
    pub awaited: bool,
}

impl View {
    pub fn paused(&self) -> bool {
        self.held || self.awaited
    }
}

impl Exec {
    pub fn live(&mut self) -> Option<&mut Live> {
        match &mut self.state {
            State::Live(live) => Some(live),
            State::Ended(_) => None,
        }
    }
}

pub struct Execs {
    pub slots: Slots<Exec>,
    by_id: HashMap<String, Key>,
    by_pid: HashMap<i32, Key>,
    ended: VecDeque<Key>,
}

impl Execs {
    pub fn new() -> Execs {
        Execs { slots: Slots::new(), by_id: HashMap::new(), by_pid: HashMap::new(), ended: VecDeque::new() }
    }

    pub fn find(&self, id: &str) -> Option<Key> {
        self.by_id.get(id).copied()
    }

    pub fn of_pid(&self, pid: i32) -> Option<Key> {
        self.by_pid.get(&pid).copied()
    }

    pub fn live_count(&self) -> usize {
        self.by_pid.len()
    }

    /// Make `key`, which is in the slots, findable.
    pub fn register(&mut self, key: Key) {
        if let Some(exec) = self.slots.get(key) {
            self.by_id.insert(exec.id.clone(), key);
            self.by_pid.insert(exec.pid, key);
        }
    }

    /// The main process has been reaped. Returns what lived, for the caller to wind up.
    pub fn end(&mut self, key: Key, outcome: Outcome) -> Option<Box<Live>> {
        let exec = self.slots.get_mut(key)?;
        let before = std::mem::replace(&mut exec.state, State::Ended(outcome));
        self.by_pid.remove(&exec.pid);
        self.ended.push_back(key);
        if self.ended.len() > REMEMBERED {
            if let Some(oldest) = self.ended.pop_front().and_then(|oldest| self.slots.remove(oldest)) {
                self.by_id.remove(&oldest.id);
            }
        }
        match before {
            State::Live(live) => Some(live),
            State::Ended(_) => None,
        }
    }

    /// Have those that run go by their new ids, and forget what was before the box was another one's copy: those that
    /// have ended, and the ids of those that have no new one.
    pub fn rename(&mut self, renamed: &BTreeMap<String, String>) {
        for key in std::mem::take(&mut self.ended) {
            self.slots.remove(key);
        }
        for (old, key) in std::mem::take(&mut self.by_id) {
            if let (Some(new), Some(exec)) = (renamed.get(&old), self.slots.get_mut(key)) {
                exec.id.clone_from(new);
                self.by_id.insert(new.clone(), key);
            }
        }
    }

    /// The command never began: its id is free again.
    pub fn discard(&mut self, key: Key) -> Option<Exec> {
        let exec = self.slots.remove(key)?;
        self.by_id.remove(&exec.id);
        self.by_pid.remove(&exec.pid);
        Some(exec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTCOME: Outcome =
        Outcome { exit_code: 0, signal: None, stdout: 0, stderr: 0, stdout_cut: false, stderr_cut: false };

    fn add(execs: &mut Execs, number: i32) -> Key {
        let exec = Exec { id: format!("e{number}"), pid: number, state: State::Ended(OUTCOME) };
        let key = execs.slots.insert_with(|_| Ok::<_, ()>(exec)).unwrap();
        execs.register(key);
        key
    }

    #[test]
    fn the_oldest_ended_execution_is_forgotten_first() {
        let mut execs = Execs::new();
        for number in 0..REMEMBERED as i32 + 1 {
            let key = add(&mut execs, number);
            assert!(execs.end(key, OUTCOME).is_none());
        }
        assert_eq!(execs.find("e0"), None);
        assert!(execs.find("e1").is_some());
        assert_eq!((execs.slots.len(), execs.live_count()), (REMEMBERED, 0));
    }

    #[test]
    fn what_runs_goes_by_another_id_and_what_has_ended_is_forgotten() {
        let mut execs = Execs::new();
        let (first, ended, third) = (add(&mut execs, 1), add(&mut execs, 2), add(&mut execs, 3));
        assert!(execs.end(ended, OUTCOME).is_none());
        // The second takes the id that the first had.
        let renamed = [("e1", "new"), ("e2", "old"), ("e3", "e1")].map(|(old, new)| (old.into(), new.into()));
        execs.rename(&BTreeMap::from(renamed));
        assert_eq!((execs.find("new"), execs.find("e1"), execs.find("old")), (Some(first), Some(third), None));
        assert_eq!((execs.find("e3"), execs.of_pid(1), execs.slots.len()), (None, Some(first), 2));
        assert_eq!(execs.slots.get(first).map(|exec| exec.id.as_str()), Some("new"));
    }

    #[test]
    fn a_discarded_execution_frees_its_id_and_pid() {
        let mut execs = Execs::new();
        let key = add(&mut execs, 7);
        execs.discard(key);
        assert_eq!((execs.find("e7"), execs.of_pid(7), execs.slots.len()), (None, None, 0));
    }
}
