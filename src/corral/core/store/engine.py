"""SQLite as the store needs it: WAL, explicit transactions, a known durability, foreign keys.

Owns connection settings and the translation of database failures. Must not run a statement of any capability.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from corral.core import errors, wholefile
from corral.core.settings import Durability

#: Only another program (a shell on the file, a backup) can hold the lock; a commit of ours takes milliseconds.
BUSY_S: Final = 5

# synchronous=FULL costs one fdatasync a commit: 0.23 ms against 0.014 ms (p50, ext4 on a virtual disk), which group
# commit shares among concurrent writers. Without it a loss of power may take back the last commits.
_SYNCHRONOUS: Final = {Durability.POWER_LOSS: "FULL", Durability.CRASH: "NORMAL"}

#: Keys of a connection's `info`: the durability of the settings, and the one of its next commit.
_ASKED: Final = "durability asked"
_IN_FORCE: Final = "durability in force"

_REMEDIES: Final = (
    ("locked", "end the other program that has the database open"),
    ("full", "free space on the file system of the data folder"),
    ("readonly", "make the data folder writable for the server"),
    ("disk i/o", "check the disk of the data folder"),
    ("malformed", "restore the database from a copy"),
    ("not a database", "restore the database from a copy, or name another folder with --data"),
    ("unable to open", "make the data folder writable for the server"),
)


def open_sqlite(path: Path, durability: Durability) -> sa.Engine:
    """Return an engine on the file `path`, which is made when it is not there. Nothing is opened yet."""
    engine = sa.create_engine(f"sqlite+pysqlite:///{path}", poolclass=NullPool, connect_args={"timeout": BUSY_S})

    @event.listens_for(engine, "connect")
    def connected(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        # The driver's own transaction handling begins too late for savepoints and for BEGIN IMMEDIATE.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
        entry.info[_ASKED] = entry.info[_IN_FORCE] = durability
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA temp_store = MEMORY")
        cursor.execute("PRAGMA journal_size_limit = 67108864")
        cursor.close()

    return engine


def set_durability(connection: sa.Connection, *, relaxed: bool) -> None:
    """Before a transaction: have it survive a loss of power as the settings ask, or, when relaxed, only a crash.

    A later commit that is not relaxed makes the earlier ones durable too: they are in the same log.
    """
    wanted = Durability.CRASH if relaxed else connection.info[_ASKED]
    if connection.info[_IN_FORCE] is not wanted:
        connection.exec_driver_sql(f"PRAGMA synchronous = {_SYNCHRONOUS[wanted]}")
        connection.info[_IN_FORCE] = wanted


def flush(connection: sa.Connection) -> None:
    """Bring commits that were relaxed to the disk, where the settings ask for that. Raises OSError."""
    if connection.info[_ASKED] is Durability.POWER_LOSS:
        wholefile.sync(Path(f"{connection.engine.url.database}-wal"))


@contextmanager
def translated(verb: str) -> Iterator[None]:
    """Turn failures of the database itself into errors.Unavailable. Broken constraints and bugs pass as they are."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        cause = str(error.orig)
        if not isinstance(error.orig, sqlite3.OperationalError | sqlite3.DatabaseError) or isinstance(
            error.orig, sqlite3.IntegrityError | sqlite3.ProgrammingError
        ):
            raise
        remedy = next((remedy for sign, remedy in _REMEDIES if sign in cause.lower()), None)
        if remedy is None:
            raise
        raise errors.Unavailable(f"cannot {verb} the store: {cause}", remedy=remedy) from error
