"""What every table is declared on. Owns the names of constraints, so that migrations can refer to them."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

METADATA: Final = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: Row numbers. SQLite numbers rows by itself only when the column is INTEGER.
ROW_NUMBER: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
