"""The same request again: a repeat with the same x-request-id gets the answer of the first, also after a restart.

Owns what counts as the same (account, method, path, id and body), which answers are kept and for how long. Answers
that ask for another try (408, 409, 429, 500 and above) are never kept. Must not be used for waits and streams.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import sqlalchemy as sa

from corral.api.tables import REPLAYS
from corral.core import errors
from corral.core.clock import Clock
from corral.core.store import store as stores

#: Clients repeat for half a minute; people who set the id themselves come back later.
KEPT_MS: Final = 15 * 60 * 1000

#: Between two removals of what is too old.
SWEEP_MS: Final = 60 * 1000

_NOT_KEPT: Final = frozenset({408, 409, 425, 429})


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished JSON answer."""

    status: int
    body: bytes

    @property
    def keepable(self) -> bool:
        """Whether a repeat shall get this answer."""
        return self.status < errors.Internal.status and self.status not in _NOT_KEPT


class Replays:
    """One for the server. Repeats that come while the first is at work wait for it."""

    def __init__(self, store: stores.Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._running: dict[bytes, asyncio.Future[None]] = {}
        self._kept: set[bytes] = set()  #: of those that run: the act itself has kept its answer
        self._swept_ms = 0

    async def once(self, digest: bytes, act: Callable[[], Awaitable[Answer]]) -> tuple[Answer, bool]:
        """Return the kept answer, or do the act and keep its answer; and whether it was kept before.

        An act whose effect must not happen twice even if the server dies in between calls `keep` in its transaction.
        """
        while (running := self._running.get(digest)) is not None:
            await asyncio.shield(running)
        done = self._running[digest] = asyncio.get_running_loop().create_future()
        try:
            kept = await self._store.read(partial(self._find, digest))
            if kept is not None:
                return kept, True
            answer = await act()
            if answer.keepable and digest not in self._kept:
                await self._store.write(partial(self._insert, digest, answer))
            return answer, False
        finally:
            self._kept.discard(digest)
            del self._running[digest]
            done.set_result(None)

    def keep(self, digest: bytes, connection: sa.Connection, body: bytes) -> None:
        """Keep an answer of 200 in the transaction of the act itself."""
        self._insert(digest, Answer(200, body), connection)
        self._kept.add(digest)

    # -- inside, on the store's threads

    def _find(self, digest: bytes, connection: sa.Connection) -> Answer | None:
        oldest = self._clock.now_ms() - KEPT_MS
        query = sa.select(REPLAYS.c.status, REPLAYS.c.body).where(
            REPLAYS.c.digest == digest, REPLAYS.c.created_at_ms > oldest
        )
        row = connection.execute(query).one_or_none()
        return None if row is None else Answer(status=row.status, body=row.body)

    def _insert(self, digest: bytes, answer: Answer, connection: sa.Connection) -> None:
        now = self._clock.now_ms()
        if now - self._swept_ms >= SWEEP_MS:
            self._swept_ms = now
            connection.execute(REPLAYS.delete().where(REPLAYS.c.created_at_ms <= now - KEPT_MS))
        # A row that is too old to be used may be there until the next sweep.
        connection.execute(REPLAYS.delete().where(REPLAYS.c.digest == digest))
        values = {"digest": digest, "status": answer.status, "body": answer.body, "created_at_ms": now}
        connection.execute(REPLAYS.insert(), values)


def digest(*parts: bytes) -> bytes:
    """One key for all that makes a request the same."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.digest()
