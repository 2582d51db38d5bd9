//! Deadlines of the event loop. A timer that is not wanted any more fires all the same; its owner sees that it is early.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::slots::Key;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A connection must have made progress.
    Conn(Key),
    /// Followers of an execution are owed an event.
    Growth(Key),
    /// Followers of a quiet execution are told that the guest lives.
    Heartbeat(Key),
    /// A viewer has held a terminal back for long enough.
    Held(Key),
    /// Accept connections again after running out of descriptors.
    Accept,
    /// File calls wait for their turn.
    Files,
    /// Give memory back.
    Trim,
}

pub struct Timers(BinaryHeap<Reverse<(Instant, Timer)>>);

impl Timers {
    pub fn new() -> Timers {
        Timers(BinaryHeap::new())
    }

    pub fn at(&mut self, when: Instant, timer: Timer) {
        self.0.push(Reverse((when, timer)));
    }

    pub fn after(&mut self, delay: Duration, timer: Timer) {
        self.at(Instant::now() + delay, timer);
    }

    /// The next timer that is due.
    pub fn due(&mut self, now: Instant) -> Option<Timer> {
        match self.0.peek() {
            Some(Reverse((when, _))) if *when <= now => self.0.pop().map(|Reverse((_, timer))| timer),
            _ => None,
        }
    }

    /// Forget timers that nobody waits for any more, and give back what a burst of them took.
    pub fn keep(&mut self, wanted: impl Fn(Timer) -> bool) {
        self.0.retain(|Reverse((_, timer))| wanted(*timer));
        self.0.shrink_to(2 * self.0.len());
    }

    /// For epoll_wait: milliseconds until the next timer, rounded up; -1 without any.
    pub fn wait_ms(&self, now: Instant) -> i32 {
        self.0.peek().map_or(-1, |Reverse((when, _))| {
            let left = when.saturating_duration_since(now);
            i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_that_nobody_wants_take_no_room() {
        let (mut timers, now) = (Timers::new(), Instant::now());
        for _ in 0..1000 {
            timers.at(now, Timer::Accept);
        }
        timers.at(now, Timer::Trim);
        timers.keep(|timer| timer == Timer::Trim);
        assert!(timers.0.capacity() < 10);
        assert_eq!((timers.due(now), timers.due(now)), (Some(Timer::Trim), None));
    }

    #[test]
    fn timers_come_in_order_and_only_when_due() {
        let (mut timers, now) = (Timers::new(), Instant::now());
        assert_eq!(timers.wait_ms(now), -1);
        timers.at(now + Duration::from_millis(20), Timer::Trim);
        timers.at(now + Duration::from_micros(1500), Timer::Accept);
        assert_eq!(timers.wait_ms(now), 2);
        assert_eq!(timers.due(now), None);
        assert_eq!(timers.due(now + Duration::from_millis(2)), Some(Timer::Accept));
        assert_eq!(timers.due(now + Duration::from_millis(2)), None);
        assert_eq!(timers.due(now + Duration::from_millis(21)), Some(Timer::Trim));
    }
}
