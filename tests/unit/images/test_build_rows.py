"""What is recorded of builds when two of their changes meet."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa

from corral.core.store.store import Store
from corral.images.builds import rows
from corral.images.builds.model import BuildPlan
from corral.images.builds.tables import Job

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


async def test_a_build_that_waits_is_put_upon_other_images_and_no_other_is(store: Store) -> None:
    stock, pulled = rows.Named("base:1", "stock", "sha256:a"), rows.Named("base:1", "base:1", "sha256:b")
    other = BUILD[:-1] + "2"

    def insert(connection: sa.Connection) -> None:
        for build_id, key in ((BUILD, "of stock"), (other, "of stock too")):
            rows.insert(connection, build_id, BuildPlan("acc_tests", "one", "FROM base:1"), key, [stock], 1)

    def rebase(connection: sa.Connection, build_id: str) -> tuple[bool, Job]:
        return rows.rebase(connection, build_id, [pulled], "of pulled"), rows.get(connection, "acc_tests", build_id)

    await store.write(insert)
    for build_id in (BUILD, other):
        changed, job = await store.write(partial(rebase, build_id=build_id))
        assert (changed, job.bases) == (True, {"base:1": ("base:1", "sha256:b")})
    # Of two that are the same now, one is what the next request finds, and the other what it was asked for as.
    for key, expected in (("of pulled", BUILD), ("of stock too", other), ("of stock", None)):
        found = await store.read(partial(rows.find_open, account_id="acc_tests", key=key))
        assert (found and found.id) == expected
    await store.write(lambda connection: rows.begin(connection, BUILD, "dbx_1", None, 2))
    changed, _ = await store.write(lambda connection: rebase(connection, BUILD))
    assert not changed
