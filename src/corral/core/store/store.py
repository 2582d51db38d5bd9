"""Transactions for the event loop: `write(fn)` and `read(fn)` run `fn` on threads that own a connection each.

Owns the writer thread, group commit and the hand-over of committed events. A transaction never spans an await.
Must not know any table but the one of events.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import sqlalchemy as sa

from corral.core import errors, events, log
from corral.core.store import engine as engines

T = TypeVar("T")

#: Jobs that share one commit. At 0.1 ms a job the last one waits 6 ms at most.
GROUP: Final = 64

#: Seconds for which a relaxed commit may be in the memory of the host alone: one fdatasync in each, not one a command.
RELAXED_S: Final = 1.0

#: Seconds that `close` gives each thread to finish what it has begun.
_CLOSE_S: Final = 30


@dataclass(slots=True)
class _Job(Generic[T]):
    work: Callable[[sa.Connection], T]
    future: asyncio.Future[T]
    relaxed: bool = False
    result: T | None = None
    error: BaseException | None = None
    committed: list[events.Event] = field(default_factory=list)


class Store:
    """One database, for one event loop. `feed` is told of every event after its transaction has been committed."""

    def __init__(self, engine: sa.Engine, feed: events.Feed, *, readers: int = 2) -> None:
        self._engine = engine
        self._feed = feed
        self._loop = asyncio.get_running_loop()
        self._writes: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._closed = False
        self._relaxed_s: float | None = None  #: when the oldest commit was made that is not known to be on the disk
        self._threads = [threading.Thread(target=self._write_all, name="store-writer", daemon=True)]
        self._threads += [
            threading.Thread(target=self._read_all, name=f"store-reader-{number}", daemon=True)
            for number in range(readers)
        ]
        for thread in self._threads:
            thread.start()

    async def write(self, work: Callable[[sa.Connection], T], *, relaxed: bool = False) -> T:
        """Run `work` in one transaction on the writer thread; return its value once that is committed.

        When `work` raises, nothing of it is kept. A write that is cancelled before it has begun does not happen;
        one that has begun is committed, and its events are delivered, although nobody learns its value.
        A relaxed write survives the end of the server like any other, but a loss of power within RELAXED_S may take
        it back: for records of what a loss of power ends anyway.
        Raises errors.Unavailable with a remedy when the database cannot be written.
        """
        return await self._submit(self._writes, work, relaxed=relaxed)

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` on a reader thread in a transaction that sees one state of the database and keeps nothing."""
        return await self._submit(self._reads, work)

    async def close(self) -> None:
        """Finish what was submitted, then end the threads and close the connections. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._writes.put(None)
            for _ in self._threads[1:]:
                self._reads.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join, _CLOSE_S)
        self._engine.dispose()

    async def _submit(
        self, jobs: queue.SimpleQueue[_Job[Any] | None], work: Callable[[sa.Connection], T], *, relaxed: bool = False
    ) -> T:
        if self._closed:
            raise errors.Unavailable("cannot use the store: the server is stopping")
        future: asyncio.Future[T] = self._loop.create_future()
        jobs.put(_Job(work, future, relaxed))
        return await future

    # -- the writer thread

    def _write_all(self) -> None:
        connection: sa.Connection | None = None
        while (job := self._next(connection)) is not None:
            group = [job, *self._more()]
            last = group[-1] is None
            jobs = [one for one in group if one is not None and not one.future.cancelled()]
            try:
                with engines.translated("write"):
                    connection = connection or self._engine.connect()
                    self._write_group(connection, jobs)
            except BaseException as error:  # noqa: BLE001 - handed to every caller of the group
                for one in jobs:
                    one.error, one.committed = error, []
                if connection is not None:
                    connection.invalidate()
                    connection.close()
                    connection = None
            self._deliver(jobs)
            if last:
                break
        if connection is not None:
            connection.close()

    def _next(self, connection: sa.Connection | None) -> _Job[Any] | None:
        """Wait for a job; meanwhile bring relaxed commits to the disk once it is time."""
        while self._relaxed_s is not None and connection is not None:
            try:
                return self._writes.get(timeout=max(0.0, self._relaxed_s + RELAXED_S - time.monotonic()))
            except queue.Empty:
                self._relaxed_s = None
                try:
                    engines.flush(connection)
                except OSError as error:
                    log.get("store").error("last commits not on the disk", error=str(error))
        return self._writes.get()

    def _more(self) -> list[_Job[Any] | None]:
        """Jobs that wait already; ends with None when the store is closing."""
        more: list[_Job[Any] | None] = []
        while len(more) < GROUP - 1:
            try:
                more.append(self._writes.get_nowait())
            except queue.Empty:
                break
            if more[-1] is None:
                break
        return more

    def _write_group(self, connection: sa.Connection, jobs: list[_Job[Any]]) -> None:
        if not jobs:
            return
        now = time.monotonic()
        late = self._relaxed_s is not None and now - self._relaxed_s >= RELAXED_S
        relaxed = all(job.relaxed for job in jobs) and not late
        engines.set_durability(connection, relaxed=relaxed)
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        if len(jobs) == 1:  # a savepoint would cost as much as the rest of an empty transaction
            self._run(connection, jobs[0])
            if jobs[0].error is not None:
                if _in_transaction(connection):
                    connection.exec_driver_sql("ROLLBACK")
                connection.rollback()
                return
        else:
            for job in jobs:
                self._run_in_savepoint(connection, job)
        self.commit(connection)
        self._relaxed_s = (self._relaxed_s or now) if relaxed else None

    def _run_in_savepoint(self, connection: sa.Connection, job: _Job[Any]) -> None:
        connection.exec_driver_sql("SAVEPOINT job")
        self._run(connection, job)
        if job.error is not None:
            if not _in_transaction(connection):
                raise job.error  # for the whole group: what the others did is gone too
            connection.exec_driver_sql("ROLLBACK TO job")
        connection.exec_driver_sql("RELEASE job")

    def _run(self, connection: sa.Connection, job: _Job[Any]) -> None:
        try:
            with engines.translated("write"):
                job.result = job.work(connection)
        except Exception as error:  # noqa: BLE001 - handed to the caller, whose part alone is undone
            job.error = error
        told = events.take(connection)
        job.committed = told if job.error is None else []

    def commit(self, connection: sa.Connection) -> None:
        """Make the group durable. Crash tests override this: before it nothing was acknowledged, after it all was."""
        connection.exec_driver_sql("COMMIT")
        connection.rollback()  # ends SQLAlchemy's own view of the transaction; nothing is left to undo

    # -- reader threads

    def _read_all(self) -> None:
        connection: sa.Connection | None = None
        while (job := self._reads.get()) is not None:
            if job.future.cancelled():
                continue
            try:
                with engines.translated("read"):
                    connection = connection or self._engine.connect()
                    connection.exec_driver_sql("BEGIN")
                    try:
                        job.result = job.work(connection)
                    finally:
                        connection.exec_driver_sql("ROLLBACK")
                        connection.rollback()
            except Exception as error:  # noqa: BLE001 - handed to the caller
                job.error = error
            self._deliver([job])
        if connection is not None:
            connection.close()

    # -- back on the loop

    def _deliver(self, jobs: list[_Job[Any]]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle, jobs)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more, and what was committed is

    def _settle(self, jobs: list[_Job[Any]]) -> None:
        for job in jobs:
            for one in job.committed:
                self._feed.publish(one)
            if job.future.done():
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)


def _in_transaction(connection: sa.Connection) -> bool:
    """Whether SQLite still is in one: on a full disk it has undone the transaction by itself."""
    return bool(getattr(connection.connection.dbapi_connection, "in_transaction", False))
