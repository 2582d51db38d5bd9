"""A devbox's log as it is written: what is recorded so far, then every new line, until the devbox has ended.

Owns the order of lines and the place of a reader in them. Three records are read as one: the devbox's events, its file
calls, and the spool of each command. Nothing is buffered between reader and records, so that a slow reader costs no
memory. Must not write anything.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from corral.core import errors, events
from corral.core.clock import Clock
from corral.core.store.store import Store
from corral.core.wake import Wake
from corral.devboxes import alerts, execution_rows, file_calls, logs, output, rows
from corral.devboxes.cursors import OPEN, STREAMS, Cursor
from corral.devboxes.executions import Executions
from corral.devboxes.file_calls import FileCall, FileCalls
from corral.devboxes.followers import Followers
from corral.devboxes.model import ENDED, Devbox, Execution, LogEntry, Reason
from corral.runtime.contract import NoSuchExecution, Runtime, Stream

#: Events that are read at once.
_BATCH: Final = 500

#: A reader that waits looks again this often even if nothing wakes it: the bound on a wake-up lost to a defect.
_LOOK_AGAIN_S: Final = 30.0

#: Seconds between two looks of one reader, so that a command that writes all the time costs few of them.
_PACE_S: Final = 0.05

#: Seconds after the end of a devbox in which its commands are expected to be recorded as ended.
LAST_WORDS_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Which:
    """Whose lines are wanted: of one command, of the commands of one named shell, or all of the devbox."""

    execution_id: str | None = None
    shell_name: str | None = None

    @property
    def everything(self) -> bool:
        """Whether lines that belong to no command are wanted too."""
        return self.execution_id is None and self.shell_name is None

    def takes(self, execution: Execution) -> bool:
        """Whether its lines are wanted."""
        return self.execution_id in {None, execution.id} and self.shell_name in {None, execution.shell_name}


class LogTails:
    """One for each server."""

    def __init__(
        self,
        store: Store,
        feed: events.Feed,
        runtime: Runtime,
        executions: Executions,
        followers: Followers,
        calls: FileCalls,
        *,
        clock: Clock,
    ) -> None:
        self._store = store
        self._feed = feed
        self._runtime = runtime
        self._executions = executions
        self._followers = followers
        self._calls = calls
        self._clock = clock

    async def tail(
        self, account_id: str, devbox_id: str, which: Which, after: str | None = None
    ) -> AsyncIterator[tuple[LogEntry, str]]:
        """Begin at the cursor `after`, or with what `logs` shows; give an iterator over lines, each with its cursor.

        It ends when the devbox, or the command that is wanted, has ended and all is sent. Raises errors.NotFound for
        what is not the account's, errors.Invalid for a cursor that is none.
        """
        if which.execution_id is not None:
            await self._executions.get(account_id, devbox_id, which.execution_id)
        cursor = Cursor.parse(after) if after is not None else await self._begin(account_id, devbox_id, which)

        def place(connection: sa.Connection) -> int:
            rows.get(connection, account_id, devbox_id)
            if cursor.events == 0:
                return 0
            seq = events.seq_of(connection, devbox_id, cursor.events)
            if seq is None:  # the host has lost its last commits with its power: go on at the end
                cursor.events = events.count(connection, devbox_id)
                seq = events.seq_of(connection, devbox_id, cursor.events)
            return seq or 0

        look = _Look(devbox_id, which, cursor, await self._store.read(place))
        return self._follow(look)

    async def _begin(self, account_id: str, devbox_id: str, which: Which) -> Cursor:
        """The place of the oldest command that `logs` shows; of the first event when it shows all."""

        def find(connection: sa.Connection) -> tuple[list[Execution], int]:
            rows.get(connection, account_id, devbox_id)
            if which.execution_id is not None:
                executions = [*execution_rows.by_id(connection, [which.execution_id]).values()]
            else:
                executions = execution_rows.newest(connection, devbox_id, logs.EXECUTIONS)
            return executions, events.count(connection, devbox_id)

        executions, past = await self._store.read(find)
        shown = len(await logs.newest(executions, self._executions.tail, self._clock))
        if which.execution_id is None and shown == len(executions) < logs.EXECUTIONS:
            return Cursor(past=past)
        oldest = executions[shown - 1]

        def find_older(connection: sa.Connection) -> tuple[int, list[Execution]]:
            open_ones = execution_rows.open_in(connection, devbox_id)
            running = [one for one in open_ones if one.created_at_ms < oldest.created_at_ms]
            return _number_of_begin(connection, oldest) - 1, running[:OPEN]

        before, older = await self._store.read(find_older)
        cursor = Cursor(events=before, past=past)
        for one in filter(which.takes, older):  # what they have written is not shown by `logs` either
            cursor.offsets[one.id] = [self._runtime.output_size(devbox_id, one.id, stream) for stream in STREAMS]
        return cursor

    async def _follow(self, look: _Look) -> AsyncIterator[tuple[LogEntry, str]]:
        reading = _Reading(look, self._runtime, self._clock)
        last_words: float | None = None
        with ExitStack() as watches:
            wake = watches.enter_context(self._feed.watch(look.devbox_id, Wake()))
            watches.enter_context(self._followers.grown.watch(look.devbox_id, wake))
            watches.enter_context(self._calls.recorded.watch(look.devbox_id, wake))
            while True:
                fires, begun = wake.fires, self._clock.monotonic()
                seen = await self._store.read(look.read)
                for entry in reading.lines(seen):
                    yield entry, look.cursor.text()
                if reading.more:
                    continue
                if seen.devbox.observed in ENDED:
                    last_words = last_words or begun + LAST_WORDS_S
                over = last_words is not None and (not seen.open or begun > last_words)
                if over or (look.which.execution_id is not None and not seen.open):
                    return
                await self._clock.sleep(max(0.0, _PACE_S - (self._clock.monotonic() - begun)))
                left = _LOOK_AGAIN_S if last_words is None else max(0.0, last_words - self._clock.monotonic())
                await wake.wait(min(left, _LOOK_AGAIN_S), since=fires)


def _number_of_begin(connection: sa.Connection, execution: Execution) -> int:
    """The number, from 1, of the event that an execution began with among those of its devbox."""
    box = execution.devbox_id
    number = events.count(connection, box, before_ms=execution.created_at_ms) + 1
    seq = events.seq_of(connection, box, number) or 0
    for event in events.after(connection, seq - 1, subject=box):  # of the same millisecond there are few
        if event.data.get("execution_id") == execution.id:
            break
        number += 1
    return number


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is recorded after a place, in one state of the store. `open` are wanted commands that have not ended."""

    devbox: Devbox
    told: list[events.Event]
    calls: list[FileCall]
    executions: dict[str, Execution]
    open: list[Execution]

    @property
    def full(self) -> bool:
        """Whether there may be more events than were read."""
        return len(self.told) == _BATCH


@dataclass(slots=True)
class _Look:
    """Where one reader is; `seq` is that of the event whose number its cursor has."""

    devbox_id: str
    which: Which
    cursor: Cursor
    seq: int

    def read(self, connection: sa.Connection) -> _Seen:
        devbox = rows.find(connection, self.devbox_id)
        if devbox is None:
            raise errors.NotFound(f"cannot follow log of devbox {self.devbox_id}: there is none with this id")
        told = events.after(connection, self.seq, subject=self.devbox_id, limit=_BATCH)
        names = {event.data["execution_id"] for event in told if event.kind.startswith("execution.")}
        calls = file_calls.after(connection, self.devbox_id, self.cursor.calls) if self.which.everything else []
        running = [one for one in execution_rows.open_in(connection, self.devbox_id) if self.which.takes(one)]
        executions = execution_rows.by_id(connection, [*names]) if names else {}
        return _Seen(devbox, told, calls, executions, running)


@dataclass(slots=True)
class _Reading:
    """Makes lines of what was seen. The cursor has passed a line when it is yielded, and nothing beyond it."""

    look: _Look
    runtime: Runtime
    clock: Clock
    more: bool = False  #: whether the last look left something that can be read at once
    caught_up: bool = False  #: whether what was there when the reader came has been read
    skipped: list[LogEntry] = field(default_factory=list)

    def lines(self, seen: _Seen) -> Iterator[LogEntry]:
        self.more = seen.full
        calls = seen.calls
        if seen.full:  # calls after the last of these events have their turn after the events in between
            calls = [call for call in calls if call.at_ms <= seen.told[-1].at_ms]
        both: list[list[events.Event | FileCall]] = [[*seen.told], [*calls]]
        for one in heapq.merge(*both, key=lambda one: one.at_ms):
            if isinstance(one, FileCall):
                self.look.cursor.calls = one.number
                yield file_calls.entry(one, seen.devbox.request.user.name)
            else:
                yield from self._of_event(one, seen.executions)
        if seen.full:
            return
        for execution in seen.open:
            if self._place(execution) is not None:
                yield from self._take_skipped()
                yield from self._new_lines(execution)
        self.caught_up = True

    def _of_event(self, event: events.Event, executions: dict[str, Execution]) -> Iterator[LogEntry]:
        if event.kind.startswith("execution."):
            execution = executions.get(event.data["execution_id"])
            if execution is not None and self.look.which.takes(execution):
                yield from self._of_execution(event, execution)
                return
        self._pass(event)
        if not self.look.which.everything:
            return
        if event.kind in alerts.KINDS:
            yield alerts.entry(event)
        elif event.kind == "devbox.failure":
            yield logs.of_failure(Reason(event.data["reason"]), event.data["message"], event.at_ms)

    def _of_execution(self, event: events.Event, execution: Execution) -> Iterator[LogEntry]:
        if event.kind == "execution.completed":
            self._place(execution, beyond=True)
            yield from self._take_skipped()
            yield from self._rest(execution)
            self._pass(event)
            self.look.cursor.offsets.pop(execution.id, None)
            yield logs.ended(execution)
            return
        begins = not event.data.get(execution_rows.PROMOTED)
        if begins:
            self._place(execution)
        self._pass(event)
        if begins:
            yield logs.begun(execution)
            yield from self._take_skipped()

    def _pass(self, event: events.Event) -> None:
        self.look.cursor.events += 1
        self.look.seq = event.seq

    # -- output

    def _place(self, execution: Execution, *, beyond: bool = False) -> list[int] | None:
        """How much of its output was sent. None when as many commands are followed as can be, unless `beyond`."""
        cursor = self.look.cursor
        place = cursor.offsets.get(execution.id)
        if place is None and (beyond or len(cursor.offsets) < OPEN):
            place = [0, 0]
            if cursor.events < cursor.past:
                place = [self._start_of_last_lines(execution, stream) for stream in STREAMS]
            cursor.offsets[execution.id] = place
        return place

    def _start_of_last_lines(self, execution: Execution, stream: Stream) -> int:
        size = self.runtime.output_size(execution.devbox_id, execution.id, stream)
        _, start = output.last_lines(
            lambda offset, limit: self._read(execution, stream, offset, limit), size, logs.LINES
        )
        if start:
            self.skipped.append(logs.left_out(execution, stream))
        return start

    def _take_skipped(self) -> Iterator[LogEntry]:
        while self.skipped:
            yield self.skipped.pop(0)

    def _rest(self, execution: Execution) -> Iterator[LogEntry]:
        """All that a command that has ended wrote and that was not sent."""
        for stream in STREAMS:
            while (yield from self._lines_at(execution, stream, ended=True)) == output.CHUNK:
                pass

    def _new_lines(self, execution: Execution) -> Iterator[LogEntry]:
        """Lines that are whole, at most a chunk of each stream: other commands have their turn."""
        for stream in STREAMS:
            if (yield from self._lines_at(execution, stream, ended=False)) == output.CHUNK:
                self.more = True

    def _lines_at(self, execution: Execution, stream: Stream, *, ended: bool) -> Generator[LogEntry, None, int]:
        """Read a chunk and pass its lines; return how many bytes there were."""
        number = STREAMS.index(stream)
        place = self.look.cursor.offsets[execution.id]
        data = self._read(execution, stream, place[number], output.CHUNK)
        for line in output.lines_of(data, whole=ended and len(data) < output.CHUNK):
            place[number] += len(line)
            at_ms = self.clock.now_ms() if self.caught_up else None
            yield logs.said(execution, stream, output.shown(line), at_ms)
        return len(data)

    def _read(self, execution: Execution, stream: Stream, offset: int, limit: int) -> bytes:
        try:
            return self.runtime.read_output(execution.devbox_id, execution.id, stream, offset, limit)
        except NoSuchExecution:  # queued, or about to start; or forgotten
            return b""
