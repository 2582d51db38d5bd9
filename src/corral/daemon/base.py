"""What every part stands on: the data folder, the descriptors of the process, the store."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from corral.core import events
from corral.core.clock import SystemClock
from corral.core.ids import Ids
from corral.core.settings import Settings
from corral.core.store import engine, migrate
from corral.core.store.lock import FolderLock
from corral.core.store.store import Store


@dataclass(frozen=True, slots=True)
class Base:
    """Given to every part. `feed` tells of what `store` has committed."""

    settings: Settings
    clock: SystemClock
    ids: Ids
    store: Store
    feed: events.Feed


async def start(
    settings: Settings,
    clock: SystemClock,
    undo: contextlib.AsyncExitStack,
    make_store: Callable[[sa.Engine, events.Feed], Store],
) -> Base:
    """Take the data folder, and open the store on its migrated database."""
    raise_limits()
    lock = FolderLock(settings.data)
    lock.acquire()
    undo.callback(lock.release)
    feed = events.Feed()
    database = engine.open_sqlite(settings.data / "corral.db", settings.durability)
    await asyncio.to_thread(migrate.upgrade, database)
    store = make_store(database, feed)
    undo.push_async_callback(store.close)
    return Base(settings, clock, Ids(clock), store, feed)


def raise_limits() -> None:
    """Every box costs the server a descriptor, every connection one, and a box has no more processes than the server
    may have: take what the host allows.
    """
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (hard, hard))
