"""What is recorded of builds when two of their changes meet."""

from __future__ import annotations

import sqlalchemy as sa

from corral.core.store.store import Store
from corral.images.builds import rows
from corral.images.builds.model import BuildPlan

BUILD = "bld_000000000000000000001"


async def test_a_build_released_while_it_is_cleared_is_cleared_again(store: Store) -> None:
    """Or the image that it made while it was wanted would stay for good."""

    def insert(connection: sa.Connection) -> None:
        rows.insert(connection, BUILD, BuildPlan("acc_tests", "one", "FROM base"), "key", [], 1)
        rows.use(connection, BUILD, "one")

    def clear(connection: sa.Connection, *, wanted: bool) -> tuple[bool, list[str]]:
        return rows.cleared(connection, BUILD, wanted=wanted), rows.to_do(connection)

    await store.write(insert)
    await store.write(lambda connection: rows.release(connection, BUILD, "one", 2))
    assert await store.write(lambda connection: clear(connection, wanted=True)) == (False, [BUILD])
    assert await store.write(lambda connection: clear(connection, wanted=False)) == (True, [])
