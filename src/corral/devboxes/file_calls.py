"""The record of file calls: who reads a devbox's log sees what was read and written through the API.

Owns the table `file_calls` and its bound: the newest 1,000 calls of a devbox, each with a path and a cause of bounded
length, until the devbox's output is forgotten. Must not touch a file.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from corral.core import errors, log
from corral.core.clock import Clock
from corral.core.store.store import Store
from corral.core.wake import Wakes
from corral.devboxes.model import LogEntry, LogLevel, LogSource
from corral.devboxes.tables import FILE_CALLS

#: Calls of one devbox that are kept.
KEPT: Final = 1000

#: Characters of a path, and of a cause, that are kept.
PATH_CHARS: Final = 256
PROBLEM_CHARS: Final = 512

_C = FILE_CALLS.c
_LAST: Final = sa.select(sa.func.max(_C.number)).where(_C.devbox_id == sa.bindparam("devbox_id"))
_TRIM: Final = FILE_CALLS.delete().where(_C.devbox_id == sa.bindparam("box"), _C.number <= sa.bindparam("last"))


class FileVerb(enum.StrEnum):
    """What was asked."""

    READ = "read"
    WRITE = "write"
    UPLOAD = "upload"
    DOWNLOAD = "download"


@dataclass(frozen=True, slots=True)
class FileCall:
    """A call that has ended. `number` counts those of its devbox from 1; `size` in bytes, None when it failed."""

    number: int
    at_ms: int
    verb: FileVerb
    path: str
    size: int | None
    problem: str


class FileCalls:
    """One for each store. `recorded` wakes whoever watches a devbox's id."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._log = log.get("devboxes.file_calls")
        self.recorded = Wakes()

    async def record(
        self, devbox_id: str, verb: FileVerb, path: str, *, size: int | None = None, problem: str = ""
    ) -> None:
        """Keep a call that has ended. One that cannot be kept is told in the server's log: the call itself stands."""
        values = {
            "devbox_id": devbox_id,
            "at_ms": self._clock.now_ms(),
            "verb": verb.value,
            "path": _shortened(path, PATH_CHARS),
            "size": size,
            "problem": _shortened(problem, PROBLEM_CHARS),
        }

        def insert(connection: sa.Connection) -> None:
            number = (connection.execute(_LAST, {"devbox_id": devbox_id}).scalar() or 0) + 1
            connection.execute(FILE_CALLS.insert(), {**values, "number": number})
            connection.execute(_TRIM, {"box": devbox_id, "last": number - KEPT})

        try:
            await self._store.write(insert, relaxed=True)
        except errors.Unavailable as error:
            self._log.warning("file call not kept", devbox=devbox_id, verb=verb.value, error=error.message)
            return
        self.recorded.fire(devbox_id)


def after(connection: sa.Connection, devbox_id: str, number: int) -> list[FileCall]:
    """Calls that follow `number` and are still kept, oldest first."""
    query = sa.select(FILE_CALLS).where(_C.devbox_id == devbox_id, _C.number > number).order_by(_C.number)
    return [
        FileCall(row["number"], row["at_ms"], FileVerb(row["verb"]), row["path"], row["size"], row["problem"])
        for row in connection.execute(query).mappings()
    ]


def forget(connection: sa.Connection, devbox_ids: Sequence[str]) -> None:
    """Drop the calls of these devboxes."""
    connection.execute(FILE_CALLS.delete().where(_C.devbox_id.in_(devbox_ids)))


def entry(call: FileCall, user: str) -> LogEntry:
    """A call as a line of its devbox's log. `user` is whose rights in the box it had."""
    path = visible(call.path)
    if call.problem:
        message = f"{call.verb.value} {path} as {user} failed: {visible(call.problem)}"
        return LogEntry(LogLevel.ERROR, LogSource.FILES, call.at_ms, message)
    message = f"{call.verb.value} {path} as {user}: {call.size} bytes"
    return LogEntry(LogLevel.INFO, LogSource.FILES, call.at_ms, message)


def visible(text: str) -> str:
    """`text` on one line: a path with a line break must not look like two entries."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
