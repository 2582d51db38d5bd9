"""Lists of an account's rows as the dialect has them: pages, newest first.

Tables have the columns `id`, `account_id` and `seq`.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from corral.core import errors


def newest_first(
    connection: sa.Connection,
    table: sa.Table,
    account_id: str,
    conditions: Sequence[sa.ColumnElement[bool]],
    *,
    noun: str,
    limit: int,
    most: int,
    starting_after: str | None,
    count: bool,
) -> tuple[Sequence[sa.RowMapping], bool, int | None]:
    """At most `limit` rows that meet the conditions, whether there are more, and how many in all if `count`.

    Raises errors.Invalid for a limit that is not between 1 and `most`, and for an unknown cursor.
    """
    if not 0 < limit <= most:
        raise errors.Invalid(f"cannot list {noun}s: limit {limit} is not between 1 and {most}")
    after = []
    if starting_after is not None:
        same = sa.select(table.c.seq).where(table.c.id == starting_after, table.c.account_id == account_id)
        seq = connection.execute(same).scalar()
        if seq is None:
            raise errors.Invalid(f"cannot list {noun}s: starting_after: there is no {noun} {starting_after}")
        after.append(table.c.seq < seq)
    query = sa.select(table).where(*conditions, *after).order_by(table.c.seq.desc()).limit(limit + 1)
    found = connection.execute(query).mappings().all()
    total = None
    if count:
        total = connection.execute(sa.select(sa.func.count()).select_from(table).where(*conditions)).scalar_one()
    return found[:limit], len(found) > limit, total
