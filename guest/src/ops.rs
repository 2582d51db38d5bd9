//! Requests: which operation is asked for, and the answers that need no more than a look.

use std::os::fd::OwnedFd;

use serde::de::DeserializeOwned;

use crate::conn::Role;
use crate::exec::{Live, State};
use crate::files::{self, Job};
use crate::guest::Guest;
use crate::proto::{self, json, Failure, Kind};
use crate::slots::Key;
use crate::sys::{check, Errno};
use crate::term;
use crate::timers::Timer;
use crate::users;

type Answer = Result<(), Failure>;

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|_| Failure::bad("not JSON, or a field is missing or of another type"))
}

impl Guest {
    pub fn on_request(&mut self, key: Key, body: &[u8]) -> Answer {
        let proto::Op { op } = parse(body)?;
        let fds = match self.conns.get_mut(key) {
            Some(conn) => std::mem::take(&mut conn.input.fds),
            None => return Ok(()),
        };
        if !fds.is_empty() && !matches!(op.as_str(), "exec" | "wake") {
            return Err(Failure::bad("descriptors with an operation that takes none"));
        }
        if self.parked && !matches!(op.as_str(), "hello" | "park" | "wake") {
            return Err(Kind::Busy.into());
        }
        match op.as_str() {
            "hello" => self.hello(key),
            "park" => self.park(key),
            "wake" => self.wake(key, &parse(body)?, fds),
            "claim" => {
                self.identity.claim(parse(body)?)?;
                self.finish(key, &json(proto::REPLY, &proto::Nothing {}));
                Ok(())
            }
            "exec" => self.exec(key, &parse(body)?, fds),
            "wait" => self.wait(key, &parse::<proto::Named>(body)?.id),
            "executions" => self.executions(key),
            "signal" => self.signal(key, &parse(body)?),
            "stdin" => self.stdin(key, &parse(body)?),
            "resize" => self.resize(key, &parse(body)?),
            "attach" => self.attach(key, &parse(body)?),
            "read" => {
                let request: proto::Read = parse(body)?;
                self.file_job(key, request.user.clone(), Job::Read(request))
            }
            "write" => {
                let request: proto::Write = parse(body)?;
                self.file_job(key, request.user.clone(), Job::Write(request))
            }
            "list" => {
                let request: proto::Look = parse(body)?;
                self.file_job(key, request.user.clone(), Job::List(request))
            }
            "stat" => {
                let request: proto::Look = parse(body)?;
                self.file_job(key, request.user.clone(), Job::Stat(request))
            }
            "connect" => self.connect(key, parse::<proto::Connect>(body)?.port),
            _ => Err(Kind::UnknownOp.into()),
        }
    }

    fn hello(&mut self, key: Key) -> Answer {
        let hello = proto::Hello {
            protocol: proto::VERSION,
            version: env!("CARGO_PKG_VERSION"),
            ready: true,
            claimed: self.identity.claimed,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        self.finish(key, &json(proto::REPLY, &hello));
        Ok(())
    }

    fn executions(&mut self, key: Key) -> Answer {
        let mut answer = json(proto::REPLY, &proto::Nothing {});
        let rows: Vec<_> = self
            .execs
            .slots
            .iter()
            .map(|exec| match &exec.state {
                State::Live(_) => (exec.id.as_str(), exec.pid, true, None),
                State::Ended(outcome) => (exec.id.as_str(), exec.pid, false, Some(outcome.exit_code)),
            })
            .collect();
        // An id has at most 128 characters of one byte: 300 rows stay under ROWS_BYTES.
        for rows in rows.chunks(300) {
            answer.extend(json(proto::EVENT, &proto::Rows { rows: rows.to_vec() }));
        }
        answer.extend(proto::header(proto::END, 0));
        self.finish(key, &answer);
        Ok(())
    }

    /// The execution of this id with its live part, or why there is none.
    pub fn live_exec(&mut self, id: &str) -> Result<(Key, i32, &mut Live), Failure> {
        let found = self.execs.find(id).ok_or(Kind::NoSuchExecution)?;
        let exec = self.execs.slots.get_mut(found).ok_or(Kind::NoSuchExecution)?;
        let pid = exec.pid;
        exec.live().map(|live| (found, pid, live)).ok_or_else(|| Kind::Ended.into())
    }

    fn signal(&mut self, key: Key, request: &proto::Signal) -> Answer {
        if !(1..=64).contains(&request.signal) {
            return Err(Failure::bad("no such signal"));
        }
        let (_, pid, live) = self.live_exec(&request.id)?;
        // Before the program runs there may be no process group of that number yet.
        let mut target = if request.group && live.report.is_none() { -pid } else { pid };
        if request.foreground {
            let master = live.terminal.as_ref().and(live.streams[0].as_ref()).ok_or(Kind::NoTerminal)?;
            target = -term::foreground(master.raw()).ok_or(Kind::Ended)?;
        }
        // The process has not been reaped, so the number is still its own.
        // SAFETY: no memory is involved.
        check(unsafe { libc::kill(target, request.signal) }).map_err(|errno| match errno {
            Errno(libc::ESRCH) => Kind::Ended.into(),
            errno => Failure::own(errno, "kill"),
        })?;
        self.finish(key, &json(proto::REPLY, &proto::Nothing {}));
        Ok(())
    }

    fn resize(&mut self, key: Key, request: &proto::Resize) -> Answer {
        let (_, _, live) = self.live_exec(&request.id)?;
        if live.terminal.is_none() {
            return Err(Kind::NoTerminal.into());
        }
        let master = live.streams[0].as_ref().ok_or(Kind::Ended)?;
        let size = proto::Size { rows: request.rows, cols: request.cols };
        term::resize(master.raw(), size).map_err(|errno| Failure::own(errno, "resize"))?;
        self.finish(key, &json(proto::REPLY, &proto::Nothing {}));
        Ok(())
    }

    /// Hand the connection to a thread of its own, which changes its user to the request's, when it has its turn.
    fn file_job(&mut self, key: Key, user: Option<String>, job: Job) -> Answer {
        let account = users::find(user.as_deref(), self.identity.user.as_ref())?;
        let Some(conn) = self.conns.get(key) else { return Ok(()) };
        let socket: OwnedFd = conn.io.duplicate().map_err(|errno| Failure::own(errno, "dup"))?;
        let waited = self.files.any_waits();
        self.files.take(socket, account, job)?;
        if self.files.any_waits() && !waited {
            self.timers.after(files::TURN, Timer::Files);
        }
        // The call has the connection now.
        if let Some(conn) = self.conns.get_mut(key) {
            conn.role = Role::Answered;
        }
        self.close(key);
        Ok(())
    }
}
