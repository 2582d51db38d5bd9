"""The append-only record of what happened, and the wake-up of those who wait for it.

Owns the table `events` and delivery inside this process. An event is written in the transaction of the change that it
tells of, and delivered after the commit. Must not decide what is worth an event.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from corral.core.store import schema
from corral.core.wake import Wake

TABLE: Final = sa.Table(
    "events",
    schema.METADATA,
    sa.Column("seq", schema.ROW_NUMBER, primary_key=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Index("ix_events_subject_seq", "subject", "seq"),
    sqlite_autoincrement=True,
)

_INSERT: Final = TABLE.insert().returning(TABLE.c.seq)

_PENDING: Final = "corral.events"


@dataclass(frozen=True, slots=True)
class Event:
    """`kind` happened to `subject` (an id). `seq` grows with every event of the store and is never used twice."""

    seq: int
    at_ms: int
    subject: str
    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)


def append(
    connection: sa.Connection, *, at_ms: int, subject: str, kind: str, data: Mapping[str, Any] | None = None
) -> Event:
    """Write an event in the caller's transaction. It is delivered when, and only if, that is committed."""
    told = dict(data or {})
    values = {"at_ms": at_ms, "subject": subject, "kind": kind, "data": told}
    seq = connection.execute(_INSERT, values).scalar_one()
    event = Event(seq=seq, at_ms=at_ms, subject=subject, kind=kind, data=told)
    connection.info.setdefault(_PENDING, []).append(event)
    return event


def take(connection: sa.Connection) -> list[Event]:
    """Return, and forget, what was appended on this connection since the last call. For the store."""
    pending: list[Event] = connection.info.pop(_PENDING, [])
    return pending


def after(connection: sa.Connection, seq: int, *, subject: str | None = None, limit: int = 1000) -> list[Event]:
    """Events that follow `seq`, oldest first, at most `limit`; only those of `subject` when it is given."""
    query = sa.select(TABLE).where(TABLE.c.seq > seq).order_by(TABLE.c.seq).limit(limit)
    if subject is not None:
        query = query.where(TABLE.c.subject == subject)
    return [Event(**row) for row in connection.execute(query).mappings()]


def of_kinds(connection: sa.Connection, subject: str, kinds: Sequence[str], *, limit: int) -> list[Event]:
    """The newest events of these kinds about `subject`, oldest first."""
    query = sa.select(TABLE).where(TABLE.c.subject == subject, TABLE.c.kind.in_(kinds))
    found = connection.execute(query.order_by(TABLE.c.seq.desc()).limit(limit)).mappings()
    return [Event(**row) for row in found][::-1]


class Feed:
    """Delivers committed events inside this process, in the order of their commits. One event loop only."""

    def __init__(self) -> None:
        self._watched: dict[str, list[Wake]] = {}
        self._listeners: list[Callable[[Event], None]] = []

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event from now on. It must return at once and must not raise."""
        self._listeners.append(listener)

    @contextlib.contextmanager
    def watch(self, subject: str) -> Iterator[Wake]:
        """Give a wake-up that fires at every event of `subject`. Enter it before the first look at the state."""
        wake = Wake()
        self._watched.setdefault(subject, []).append(wake)
        try:
            yield wake
        finally:
            wakes = self._watched[subject]
            wakes.remove(wake)
            if not wakes:
                del self._watched[subject]

    def publish(self, event: Event) -> None:
        """Tell everybody. For the store, after the commit."""
        for listener in self._listeners:
            listener(event)
        for wake in self._watched.get(event.subject, ()):
            wake.fire()
