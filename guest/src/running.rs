//! The life of an execution: start, output, exit.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use crate::conn::Role;
use crate::exec::{Exec, Live, State, View};
use crate::guest::{Guest, Source, READ, TURNS, WRITE};
use crate::proto::{self, json, Failure, Kind, Outcome};
use crate::slots::Key;
use crate::spawn::{self, Program, Streams};
use crate::spool::{write_status, Spool};
use crate::sys::{self, again, Sys, Watched};
use crate::term;
use crate::users::{self, Account};

/// Descriptors that one execution holds at most.
const FDS_EACH: u64 = 8;
const LIVE_MAX: usize = 1024;
/// Pipes of ended commands that are still drained; further ones are closed.
const SINKS_MAX: usize = 1024;

/// What is read of a terminal at most once its command has ended; its children may go on writing.
const TERMINAL_REST: usize = 1 << 20;

/// Our side of a command's streams.
struct Ours {
    streams: [Option<OwnedFd>; 2],
    input: Option<OwnedFd>,
}

impl Guest {
    pub fn exec(&mut self, key: Key, request: &proto::Exec, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        if !proto::is_id(&request.id) {
            return Err(Failure::bad("not an id"));
        }
        if let Some(found) = self.execs.find(&request.id) {
            return self.follow(key, found, true);
        }
        let fds: [OwnedFd; 3] = fds.try_into().map_err(|_| Failure::bad("not three descriptors"))?;
        if !fds.iter().all(is_output_file) {
            return Err(Failure::bad("a descriptor that is not a regular file open for writing"));
        }
        let room = usize::try_from(self.open_files.rlim_max / FDS_EACH / 2).unwrap_or(LIVE_MAX).clamp(8, LIVE_MAX);
        if self.execs.live_count() >= room {
            return Err(Kind::Busy.into());
        }
        let account = users::find(request.user.as_deref(), self.identity.user.as_ref())?;
        let program = Program::new(request, &account, &self.identity.env, self.open_files)?;
        let found = self.launch(request, &account, &program, fds)?;
        if let Some(exec) = self.execs.slots.get_mut(found) {
            if let State::Live(live) = &mut exec.state {
                live.followers.push(key);
            }
        }
        if let Some(conn) = self.conns.get_mut(key) {
            conn.role = Role::Follower { exec: found, due: false };
        }
        // The reply is sent when the program runs.
        self.await_report(key);
        Ok(())
    }

    /// Fork, and put the execution into the table.
    fn launch(
        &mut self,
        request: &proto::Exec,
        account: &Account,
        program: &Program,
        fds: [OwnedFd; 3],
    ) -> Result<Key, Failure> {
        let own = |errno| Failure::own(errno, "cannot start a process");
        let (theirs, ours) = open_streams(request, account, &self.null).map_err(own)?;
        let (report, report_writer) = sys::pipe().map_err(own)?;
        let epoll = &self.epoll;
        let found = self.execs.slots.insert_with(|key| {
            let watch = |fd: Option<OwnedFd>, source: Source, mask| {
                fd.map(|fd| epoll.watch(fd, source.token(), mask)).transpose()
            };
            let [first, second] = ours.streams;
            let awaited = || View { awaited: request.hold, ..View::default() };
            let reading = (!request.hold).then_some(READ);
            let [stdout, stderr, status] = fds;
            let now = Instant::now();
            let live = Live {
                report: Some(epoll.watch(report, Source::Report(key).token(), Some(READ))?),
                streams: [
                    watch(first, Source::Stream(key, 0), reading)?,
                    watch(second, Source::Stream(key, 1), reading)?,
                ],
                spools: [Spool::new(stdout, request.limit), Spool::new(stderr, request.limit)],
                status,
                input: watch(ours.input, Source::StdinPipe(key), None)?,
                terminal: request.terminal.map(|_| term::Ring::default()),
                views: [awaited(), awaited()],
                writers: Default::default(),
                followers: Vec::new(),
                next_event: now,
                event_due: false,
                last_event: now,
                heartbeat: false,
            };
            Sys::Ok(Exec { id: request.id.clone(), pid: 0, state: State::Live(Box::new(live)) })
        });
        let found = found.map_err(own)?;
        match program.fork(&theirs, &report_writer) {
            Ok(pid) => {
                if let Some(exec) = self.execs.slots.get_mut(found) {
                    exec.pid = pid;
                }
                self.execs.register(found);
                Ok(found)
            }
            Err(errno) => {
                self.execs.slots.remove(found);
                Err(own(errno))
            }
        }
    }

    /// Nothing more is read from this connection.
    pub fn await_report(&mut self, key: Key) {
        if self.listen_as_needed(key).is_err() {
            self.close(key);
        }
    }

    /// The child runs its program (end of file), or tells why not.
    pub fn on_report(&mut self, found: Key) {
        let Some(exec) = self.execs.slots.get_mut(found) else { return };
        let pid = exec.pid;
        let Some(report) = exec.live().and_then(|live| live.report.as_ref()) else { return };
        let mut said = [0u8; 5];
        let failure = match sys::read(report.raw(), &mut said) {
            Err(errno) if again(errno) => return,
            Ok(0) => None,
            Ok(count) if count == said.len() => Some(spawn::failure_of(&said)),
            _ => Some(spawn::unknown_failure()),
        };
        if let Some(failure) = failure {
            if let Some(mut exec) = self.execs.discard(found) {
                if let Some(live) = exec.live() {
                    let viewers = live.views.iter().flat_map(|view| &view.viewers);
                    let others: Vec<Key> =
                        live.followers.iter().chain(&live.writers).chain(viewers).copied().collect();
                    for other in others {
                        self.fail(other, &failure);
                    }
                }
            }
            return;
        }
        let mut followers = Vec::new();
        if let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) {
            live.report = None;
            followers.clone_from(&live.followers);
        }
        for (index, follower) in followers.into_iter().enumerate() {
            self.send(follower, &json(proto::REPLY, &proto::Started { pid, known: index > 0 }));
        }
        self.arm_heartbeat(found);
    }

    // ---- output

    pub fn on_stream(&mut self, found: Key, which: usize, mask: u32) {
        // A terminal is one descriptor for both ways.
        if mask & WRITE != 0 {
            self.pump_input(found);
        }
        for _ in 0..TURNS {
            let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
            if live.views[which].paused() {
                return;
            }
            let Some(stream) = &live.streams[which] else { return };
            let room = self.scratch.bytes();
            match sys::read(stream.raw(), room) {
                Ok(count) if count > 0 => {
                    let full = count == room.len();
                    self.on_output(found, which, count);
                    if !full {
                        return;
                    }
                }
                Err(errno) if again(errno) => return,
                // End of file; a terminal whose other side is closed answers EIO.
                _ => {
                    live.streams[which] = None;
                    return;
                }
            }
        }
    }

    /// `count` bytes of output are in the scratch buffer.
    fn on_output(&mut self, found: Key, which: usize, count: usize) {
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        let data = &self.scratch.bytes()[..count];
        let grown = live.spools[which].take(data);
        if let Some(ring) = &mut live.terminal {
            ring.push(data);
        }
        self.show(found, which, count);
        if grown {
            self.on_growth(found);
        }
    }

    // ---- exit

    /// The main process of an execution has been reaped with `status`.
    pub fn on_exit(&mut self, found: Key, status: i32) {
        // A command that ended before its report was looked at: the report is complete by now.
        self.on_report(found);
        if self.execs.slots.get(found).is_none() {
            return;
        }
        for which in 0..2 {
            self.drain(found, which);
        }
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        let outcome = outcome_of(status, live);
        let line = status_line(&outcome);
        // A status that cannot be written is missed by the host, which then says that the end was not seen.
        let _ = write_status(&live.status, &line);
        if let Some(live) = self.execs.end(found, outcome) {
            self.wind_up(*live, &outcome);
        }
        self.trim_later();
    }

    /// Take what the command wrote before it ended: exactly what waits now, since what comes later is its children's.
    /// A terminal does not know how much waits; it is read until it has nothing, up to a limit.
    fn drain(&mut self, found: Key, which: usize) {
        let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
        let Some(stream) = &live.streams[which] else { return };
        let mut left = if live.terminal.is_some() { TERMINAL_REST } else { sys::waiting(stream.raw()) };
        while left > 0 {
            let Some(live) = self.execs.slots.get_mut(found).and_then(Exec::live) else { return };
            let Some(stream) = &live.streams[which] else { return };
            let room = self.scratch.bytes();
            let most = room.len().min(left);
            match sys::read(stream.raw(), &mut room[..most]) {
                Ok(count) if count > 0 => {
                    left -= count;
                    self.on_output(found, which, count);
                }
                Err(errno) if errno.0 == libc::EINTR => {}
                _ => return,
            }
        }
    }

    fn wind_up(&mut self, live: Live, outcome: &Outcome) {
        let event = json(proto::EVENT, outcome);
        for follower in live.followers {
            self.finish(follower, &event);
        }
        for writer in live.writers {
            if !matches!(self.conns.get(writer).map(|conn| &conn.role), Some(Role::Viewer { .. })) {
                self.finish(writer, &Failure::from(Kind::Ended).frame());
            }
        }
        for viewer in live.views.into_iter().flat_map(|view| view.viewers) {
            self.finish(viewer, &proto::header(proto::END, 0));
        }
        for stream in live.streams.into_iter().flatten() {
            self.sink(stream);
        }
    }

    /// Children of the command may still write here: read on, so that they neither block nor get SIGPIPE.
    fn sink(&mut self, mut stream: Watched) {
        if self.sinks.len() >= SINKS_MAX.min(usize::try_from(self.open_files.rlim_max / 4).unwrap_or(SINKS_MAX)) {
            return;
        }
        // At end of file it is gone at the first event.
        let _ = self.sinks.insert_with(|key| {
            stream.rename(Source::Sink(key).token())?;
            // It may have been held back until now.
            stream.want(Some(READ))?;
            Sys::Ok(stream)
        });
    }

    pub fn on_sink(&mut self, key: Key) {
        for _ in 0..TURNS {
            let Some(stream) = self.sinks.get(key) else { return };
            match sys::read(stream.raw(), self.scratch.bytes()) {
                Ok(count) if count > 0 => {}
                Err(errno) if again(errno) => return,
                _ => {
                    self.sinks.remove(key);
                    return;
                }
            }
        }
    }

    /// Take a connection out of what it took part in.
    pub fn leave(&mut self, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        let (Role::Follower { exec, .. } | Role::Writer { exec, .. } | Role::Viewer { exec, .. }) = conn.role else {
            return;
        };
        if let Some(live) = self.execs.slots.get_mut(exec).and_then(Exec::live) {
            live.followers.retain(|other| *other != key);
            live.writers.retain(|other| *other != key);
            let alone = live.followers.is_empty();
            for view in &mut live.views {
                view.viewers.retain(|other| *other != key);
                // Whoever started it is gone: nobody is to come.
                view.awaited &= !alone;
            }
            for which in 0..2 {
                self.release_if_all_took(exec, which);
            }
        }
    }
}

fn is_output_file(fd: &OwnedFd) -> bool {
    // SAFETY: no memory is involved.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    let writable = flags >= 0 && flags & libc::O_ACCMODE != libc::O_RDONLY && flags & libc::O_PATH == 0;
    writable && sys::fstat(fd.as_raw_fd()).is_ok_and(|found| sys::is_regular(&found))
}

fn open_streams(request: &proto::Exec, account: &Account, null: &OwnedFd) -> Sys<(Streams, Ours)> {
    if let Some(size) = request.terminal {
        let (master, slave) = term::open(size, account)?;
        let copy = || slave.try_clone().map_err(sys::Errno::from);
        let streams = Streams { stdin: copy()?, stdout: copy()?, stderr: slave, terminal: true };
        return Ok((streams, Ours { streams: [Some(master), None], input: None }));
    }
    let (stdin, input) = if request.stdin {
        let (theirs, ours) = spawn::input_pipe(account)?;
        (theirs, Some(ours))
    } else {
        (null.try_clone()?, None)
    };
    let (out, stdout) = spawn::output_pipe(account)?;
    let (err, stderr) = spawn::output_pipe(account)?;
    let streams = Streams { stdin, stdout, stderr, terminal: false };
    Ok((streams, Ours { streams: [Some(out), Some(err)], input }))
}

fn outcome_of(status: i32, live: &Live) -> Outcome {
    let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
    let exit_code = signal.map_or_else(|| libc::WEXITSTATUS(status), |signal| 128 + signal);
    let [stdout, stderr] = &live.spools;
    Outcome {
        exit_code,
        signal,
        stdout: stdout.written,
        stderr: stderr.written,
        stdout_cut: stdout.cut,
        stderr_cut: stderr.cut,
    }
}

fn status_line(outcome: &Outcome) -> Vec<u8> {
    let status = proto::Status {
        exit_code: outcome.exit_code,
        signal: outcome.signal,
        stdout_bytes: outcome.stdout,
        stderr_bytes: outcome.stderr,
        stdout_cut: outcome.stdout_cut,
        stderr_cut: outcome.stderr_cut,
    };
    let mut line = serde_json::to_vec(&status).unwrap_or_default();
    line.push(b'\n');
    line
}
