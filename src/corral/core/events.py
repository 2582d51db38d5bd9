"""The append-only record of what happened, and the wake-up of those who wait for it.

Owns the table `events` and delivery inside this process. An event is written in the transaction of the change that it
tells of, and delivered after the commit. Must not decide what is worth an event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from corral.core.store import schema
from corral.core.wake import Wake, Wakes

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


def count(connection: sa.Connection, subject: str, *, before_ms: int | None = None) -> int:
    """How many events `subject` has; with `before_ms`, those that come before the first one of that time or later."""
    query = sa.select(sa.func.count()).select_from(TABLE).where(TABLE.c.subject == subject)
    if before_ms is not None:
        later = sa.select(sa.func.min(TABLE.c.seq)).where(TABLE.c.subject == subject, TABLE.c.at_ms >= before_ms)
        first = connection.execute(later).scalar()
        if first is not None:
            query = query.where(TABLE.c.seq < first)
    return int(connection.execute(query).scalar_one())


def seq_of(connection: sa.Connection, subject: str, number: int) -> int | None:
    """The `seq` of the event of `subject` with this number, counted from 1; None when there are not so many."""
    query = sa.select(TABLE.c.seq).where(TABLE.c.subject == subject).order_by(TABLE.c.seq)
    return connection.execute(query.offset(number - 1).limit(1)).scalar()


def of_kinds(connection: sa.Connection, subject: str, kinds: Sequence[str], *, limit: int) -> list[Event]:
    """The newest events of these kinds about `subject`, oldest first."""
    query = sa.select(TABLE).where(TABLE.c.subject == subject, TABLE.c.kind.in_(kinds))
    found = connection.execute(query.order_by(TABLE.c.seq.desc()).limit(limit)).mappings()
    return [Event(**row) for row in found][::-1]


class Feed:
    """Delivers committed events inside this process, in the order of their commits. One event loop only."""

    def __init__(self) -> None:
        self._wakes = Wakes()
        self._listeners: list[Callable[[Event], None]] = []

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event from now on. It must return at once and must not raise."""
        self._listeners.append(listener)

    def watch(self, subject: str, wake: Wake | None = None) -> AbstractContextManager[Wake]:
        """Give a wake-up, or `wake`, that fires at every event of `subject`. Enter it before the first look."""
        return self._wakes.watch(subject, wake)

    def publish(self, event: Event) -> None:
        """Tell everybody. For the store, after the commit."""
        for listener in self._listeners:
            listener(event)
        self._wakes.fire(event.subject)
