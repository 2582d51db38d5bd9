"""A migrated store on a file of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from corral.core import events
from corral.core.settings import Durability
from corral.core.store import engine, migrate
from corral.core.store.store import Store


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sa.Engine]:
    made = engine.open_sqlite(tmp_path / "corral.db", Durability.CRASH)
    migrate.upgrade(made)
    yield made
    made.dispose()


@pytest.fixture
def feed() -> events.Feed:
    return events.Feed()


@pytest.fixture
async def store(database: sa.Engine, feed: events.Feed) -> AsyncIterator[Store]:
    made = Store(database, feed)
    yield made
    await made.close()
