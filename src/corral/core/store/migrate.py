"""Brings a database to the schema of this program, at start.

Owns the running of Alembic; the history is in `migrations/versions`. Must not be called on a store that is in use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from corral.core import errors
from corral.core.store import engine as engines

_FOLDER: Final = Path(__file__).parent / "migrations"


def configuration(connection: sa.Connection) -> Config:
    """Alembic's configuration for the packaged history, run on `connection`."""
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: sa.Engine) -> None:
    """Run the migrations that are missing, all in one transaction.

    Raises errors.Unavailable when the database was written by a newer program, or cannot be written.
    """
    with engines.translated("open"), engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            command.upgrade(configuration(connection), "head")
            connection.exec_driver_sql("COMMIT")
        except CommandError as error:
            connection.exec_driver_sql("ROLLBACK")
            raise errors.Unavailable(
                f"cannot open the store: its schema is not one that this program knows ({error})",
                remedy="run the version of Corral that wrote it, or a newer one",
            ) from error
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
