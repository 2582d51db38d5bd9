from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from corral.core import errors, events
from corral.core.settings import Durability
from corral.core.store import engine, migrate
from corral.core.store import store as stores
from corral.core.store.lock import FolderLock
from corral.core.store.store import Store

#: sqlite.org/pragma.html#pragma_synchronous
NORMAL, FULL = 1, 2


def tell(subject: str) -> Callable[[sa.Connection], events.Event]:
    return lambda connection: events.append(connection, at_ms=1, subject=subject, kind="told")


def told(connection: sa.Connection) -> list[str]:
    return [event.subject for event in events.after(connection, 0)]


def fail_after_telling(connection: sa.Connection) -> None:
    tell("not kept")(connection)
    message = "changed my mind"
    raise LookupError(message)


def _synchronous(connection: sa.Connection) -> int:
    return int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())


def _create(name: str) -> Callable[[sa.Connection], object]:
    return lambda connection: connection.exec_driver_sql(f"CREATE TABLE {name} (x)")


async def test_what_is_written_is_read(store: Store) -> None:
    event = await store.write(tell("a"))
    assert event.seq == 1
    assert await store.read(told) == ["a"]


async def test_a_job_that_raises_leaves_nothing_and_spares_the_others_of_its_group(
    store: Store, feed: events.Feed
) -> None:
    heard: list[str] = []
    feed.listen(lambda event: heard.append(event.subject))
    jobs: list[Callable[[sa.Connection], object]] = [tell("a"), fail_after_telling, tell("b")]
    results = await asyncio.gather(*(store.write(job) for job in jobs), return_exceptions=True)
    assert isinstance(results[1], LookupError)
    assert await store.read(told) == ["a", "b"]
    assert heard == ["a", "b"]


async def test_events_are_delivered_after_the_commit_and_in_its_order(store: Store, feed: events.Feed) -> None:
    heard: list[int] = []
    feed.listen(lambda event: heard.append(event.seq))
    await asyncio.gather(*(store.write(tell(str(number))) for number in range(100)))
    assert heard == sorted(heard)
    assert len(heard) == 100


async def test_writers_that_come_together_share_commits(database: sa.Engine, feed: events.Feed) -> None:
    class Counting(Store):
        commits = 0

        def commit(self, connection: sa.Connection) -> None:
            Counting.commits += 1
            super().commit(connection)

    store = Counting(database, feed)
    await asyncio.gather(*(store.write(tell(str(number))) for number in range(64)))
    await store.close()
    assert Counting.commits < 20


async def test_a_failed_commit_fails_every_write_of_its_group_and_the_next_one_works(
    database: sa.Engine, feed: events.Feed
) -> None:
    class Full(Store):
        full = True

        def commit(self, connection: sa.Connection) -> None:
            if Full.full:
                raise sa.exc.OperationalError("COMMIT", {}, sqlite3.OperationalError("database or disk is full"))
            super().commit(connection)

    store = Full(database, feed)
    with pytest.raises(errors.Unavailable, match="free space"):
        await store.write(tell("a"))
    Full.full = False
    await store.write(tell("b"))
    assert await store.read(told) == ["b"]
    await store.close()


@pytest.mark.parametrize("others", [0, 5])
async def test_a_disk_that_is_full_in_the_middle_of_a_group_fails_it_with_the_remedy(
    store: Store, others: int
) -> None:
    def large(size: int) -> Callable[[sa.Connection], bool]:
        row = {"at_ms": 1, "subject": "a", "kind": "x", "data": "y" * size}
        return lambda connection: connection.execute(events.TABLE.insert(), row) is not None

    def fill(connection: sa.Connection) -> None:
        time.sleep(0.2)  # the others queue up behind it, so that they share a commit
        connection.exec_driver_sql("PRAGMA max_page_count = 1")

    limiting = asyncio.ensure_future(store.write(fill))
    await asyncio.sleep(0.05)
    sizes = [10, 10_000_000, *[10] * others] if others else [10_000_000]
    found = await asyncio.gather(*(store.write(large(size)) for size in sizes), return_exceptions=True)
    await limiting
    assert any(isinstance(one, BaseException) for one in found)
    for problem in (one for one in found if isinstance(one, BaseException)):
        assert isinstance(problem, errors.Unavailable)
        assert "free space" in problem.remedy
    kept = await store.read(lambda connection: events.after(connection, 0))
    assert len(kept) == found.count(True)


async def test_a_database_that_another_program_holds_is_reported_with_the_remedy(
    database: sa.Engine, feed: events.Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_S", 0.1)
    impatient = engine.open_sqlite(tmp_path / "corral.db", Durability.CRASH)
    other = sqlite3.connect(tmp_path / "corral.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store = Store(impatient, feed)
    with pytest.raises(errors.Unavailable, match="end the other program"):
        await store.write(tell("a"))
    other.execute("ROLLBACK")
    other.close()
    await store.write(tell("b"))
    await store.close()


async def test_a_read_sees_one_state_and_cannot_write(store: Store) -> None:
    await store.read(tell("ghost"))
    assert await store.read(told) == []


async def test_a_write_that_is_cancelled_before_it_begins_does_not_happen(store: Store) -> None:
    task = asyncio.ensure_future(store.write(tell("a")))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.write(tell("b"))
    assert await store.read(told) == ["b"]


async def test_a_closed_store_finishes_what_it_took_and_refuses_more(database: sa.Engine, feed: events.Feed) -> None:
    store = Store(database, feed)
    taken = asyncio.gather(*(store.write(tell(str(number))) for number in range(10)))
    await asyncio.sleep(0)
    await store.close()
    assert len(await taken) == 10
    with pytest.raises(errors.Unavailable):
        await store.write(tell("late"))
    await store.close()


def test_the_tables_are_the_sum_of_the_migrations(database: sa.Engine, tmp_path: Path) -> None:
    # In a process of its own: every capability has to have declared its tables, whatever this test run imported.
    script = (
        "import sys, corral.daemon, sqlalchemy as sa\n"
        "from alembic.autogenerate import compare_metadata\n"
        "from alembic.migration import MigrationContext\n"
        "from corral.core.store import schema\n"
        "with sa.create_engine(sys.argv[1]).connect() as connection:\n"
        "    context = MigrationContext.configure(connection, opts={'compare_type': True})\n"
        "    found = compare_metadata(context, schema.METADATA)\n"
        "print(found)\n"
    )
    path = f"sqlite:///{tmp_path / 'corral.db'}"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_partial_indexes_and_row_numbers_are_the_same_in_tables_and_migrations(
    database: sa.Engine, tmp_path: Path
) -> None:
    # Alembic's comparison does not see the WHERE of an index, AUTOINCREMENT or WITHOUT ROWID.
    script = (
        "import sys, corral.daemon, sqlalchemy as sa\n"
        "from corral.core.store import schema\n"
        "schema.METADATA.create_all(sa.create_engine(sys.argv[1]))\n"
    )
    subprocess.run([sys.executable, "-c", script, f"sqlite:///{tmp_path / 'made.db'}"], check=True, timeout=60)
    assert _details(tmp_path / "made.db") == _details(tmp_path / "corral.db")


def _details(path: Path) -> dict[str, tuple[bool, bool, str]]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {
        name: ("AUTOINCREMENT" in sql, "WITHOUT ROWID" in sql, sql.partition("WHERE")[2])
        for name, sql in rows
        if not name.startswith(("sqlite_", "alembic_"))
    }


def test_migrating_twice_changes_nothing(database: sa.Engine) -> None:
    migrate.upgrade(database)
    with database.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM alembic_version")).scalar() == 1


def test_a_database_of_a_newer_program_is_refused_with_the_remedy(database: sa.Engine) -> None:
    with database.connect() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(errors.Unavailable, match="run the version of Corral that wrote it"):
        migrate.upgrade(database)


def test_a_migration_that_fails_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    made = engine.open_sqlite(tmp_path / "corral.db", Durability.CRASH)
    with made.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE executions (x INTEGER)")  # in the way of 0001's last table
    with pytest.raises(sa.exc.OperationalError, match="already exists"):
        migrate.upgrade(made)
    with made.connect() as connection:
        tables = connection.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
    assert tables == ["executions"]


def test_a_second_server_on_a_data_folder_is_told_who_has_it(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path / "data"), FolderLock(tmp_path / "data")
    first.acquire()
    with pytest.raises(errors.Unavailable, match=r"process \d+ serves it; stop that server"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.Unavailable, match="cannot use data folder .*file/data"):
        FolderLock(tmp_path / "file" / "data").acquire()


async def test_only_a_group_of_relaxed_writes_is_committed_without_a_sync(tmp_path: Path, feed: events.Feed) -> None:
    store = Store(engine.open_sqlite(tmp_path / "durable.db", Durability.POWER_LOSS), feed)
    assert await store.write(_synchronous) == FULL
    assert await store.write(_synchronous, relaxed=True) == NORMAL
    together = await asyncio.gather(*(store.write(_synchronous, relaxed=number != 5) for number in range(10)))
    assert together[5] == FULL
    assert await store.write(_synchronous) == FULL
    await store.close()


async def test_relaxed_writes_are_on_the_disk_soon(
    tmp_path: Path, feed: events.Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes: list[float] = []
    flush = engine.flush

    def flush_and_tell(connection: sa.Connection) -> None:
        flush(connection)
        flushes.append(time.monotonic())

    monkeypatch.setattr(stores, "RELAXED_S", 0.2)
    monkeypatch.setattr(engine, "flush", flush_and_tell)
    store = Store(engine.open_sqlite(tmp_path / "durable.db", Durability.POWER_LOSS), feed)
    await store.write(_create("a"), relaxed=True)
    while not flushes:
        await asyncio.sleep(0.01)
    # While there is always something to write, one of the writes waits for the disk, and brings all before it there.
    waited = 0
    for _ in range(150):
        waited += await store.write(_synchronous, relaxed=True) == FULL
        await asyncio.sleep(0.01)
    assert 3 <= waited + len(flushes) <= 20
    # What was on the disk at its commit needs nothing more.
    await store.write(_create("b"))
    flushes.clear()
    await asyncio.sleep(0.5)
    assert not flushes
    await store.close()
