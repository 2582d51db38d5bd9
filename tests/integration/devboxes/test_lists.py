from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import sqlalchemy as sa

from corral.core import errors
from corral.devboxes import listing, rows
from corral.devboxes.model import DevboxRequest, Observed, Reason
from corral.images import snapshot_rows
from tests.integration.devboxes.stack import ACCOUNT, Stack

N = 60


@pytest.fixture
async def full(cold: Stack) -> AsyncIterator[Stack]:
    """60 devboxes: every third has shut down, names and metadata go round."""
    stack = await cold.start(control=False)

    def fill(connection: sa.Connection) -> None:
        for number in range(N):
            metadata = {"parity": "even" if number % 2 == 0 else "odd", "ten": str(number // 10)}
            request = DevboxRequest(name=f"box-{number % 5}", metadata=metadata)
            rows.insert(connection, f"dbx_{number:03}", ACCOUNT, request, 1000)
            if number % 3 == 0:
                step = rows.Step((Observed.SHUTDOWN,), Reason.API_SHUTDOWN)
                rows.transition(connection, f"dbx_{number:03}", rows.LIVE, step, 2000)
        rows.insert(connection, "dbx_other", "acc_other", DevboxRequest(), 1000)

    await stack.store.write(fill)
    yield stack
    await stack.stop()


async def test_pages_follow_one_another_newest_first_without_gap_or_repeat(full: Stack) -> None:
    seen, after, pages = [], None, 0
    while True:
        page = await full.devboxes.list(ACCOUNT, limit=25, starting_after=after)
        assert page.total == N
        seen += [devbox.id for devbox in page.items]
        pages += 1
        if not page.has_more:
            break
        after = page.items[-1].id
    assert pages == 3
    assert seen == [f"dbx_{number:03}" for number in range(N - 1, -1, -1)]


async def test_a_page_that_is_exactly_full_says_that_there_is_no_more(full: Stack) -> None:
    assert (await full.devboxes.list(ACCOUNT, limit=N)).has_more is False
    assert (await full.devboxes.list(ACCOUNT, limit=N - 1)).has_more is True


async def test_filters_are_combined(full: Stack) -> None:
    page = await full.devboxes.list(
        ACCOUNT, status=Observed.SHUTDOWN, name="box-0", metadata={"parity": "even", "ten": ("0", "3")}
    )
    assert [devbox.id for devbox in page.items] == ["dbx_030", "dbx_000"]
    assert page.total == 2


async def test_a_metadata_filter_follows_updates(full: Stack) -> None:
    await full.devboxes.update(ACCOUNT, "dbx_001", metadata={"parity": "even"})
    page = await full.devboxes.list(ACCOUNT, metadata={"parity": "odd", "ten": "0"}, limit=100)
    assert "dbx_001" not in {devbox.id for devbox in page.items}
    page = await full.devboxes.list(ACCOUNT, metadata={"parity": "even"}, limit=100)
    assert "dbx_001" in {devbox.id for devbox in page.items}


async def test_name_and_metadata_are_replaced_separately(full: Stack) -> None:
    first = await full.devboxes.update(ACCOUNT, "dbx_002", name="renamed")
    assert (first.request.name, first.request.metadata) == ("renamed", {"parity": "even", "ten": "0"})
    second = await full.devboxes.update(ACCOUNT, "dbx_002", metadata={})
    assert (second.request.name, second.request.metadata) == ("renamed", {})
    assert await full.devboxes.get(ACCOUNT, "dbx_002") == second


@pytest.mark.parametrize("limit", [0, -1, 5001])
async def test_a_limit_out_of_range_is_refused(full: Stack, limit: int) -> None:
    with pytest.raises(errors.Invalid, match="limit"):
        await full.devboxes.list(ACCOUNT, limit=limit)


async def test_a_cursor_of_nobody_or_of_another_account_is_refused(full: Stack) -> None:
    for cursor in ("dbx_nobody", "dbx_other"):
        with pytest.raises(errors.Invalid, match=f"no devbox {cursor} to start after"):
            await full.devboxes.list(ACCOUNT, starting_after=cursor)


@pytest.mark.parametrize(
    ("which", "index"),
    [
        (listing.Filter(), "ix_devboxes_account_id_seq"),
        (listing.Filter(status=Observed.RUNNING), "ix_devboxes_account_id_observed_seq"),
        (listing.Filter(name="x"), "ix_devboxes_account_id_name_seq"),
        (listing.Filter(metadata={"a": "b"}), "devbox_metadata USING PRIMARY KEY"),
        (listing.Filter(metadata={"a": ("b", "c")}), "devbox_metadata USING PRIMARY KEY"),
        (listing.Filter(metadata={"a": ("b", "c"), "d": "e"}), "devbox_metadata USING PRIMARY KEY"),
        (listing.Filter(status=Observed.SHUTDOWN, metadata={"a": "b"}), "devbox_metadata USING PRIMARY KEY"),
        (listing.Filter(status=Observed.RUNNING, metadata={"a": "b"}), "ix_devboxes_account_id_observed_seq"),
        (listing.Filter(name="x", metadata={"a": "b"}), "ix_devboxes_account_id_name_seq"),
    ],
)
async def test_no_list_reads_or_sorts_a_whole_table(full: Stack, which: listing.Filter, index: str) -> None:
    plans = await _plans(
        full,
        lambda connection: listing.page(connection, ACCOUNT, which, limit=20, starting_after="dbx_030", count=True),
    )
    assert any(index in plan for plan in plans)
    assert not [plan for plan in plans if plan.startswith("SCAN") or "TEMP B-TREE" in plan]


async def test_no_list_of_snapshots_or_of_metadata_reads_or_sorts_a_whole_table(full: Stack) -> None:
    which = snapshot_rows.Filter(metadata={"a": "b", "c": ("d", "e")})
    plans = await _plans(
        full,
        lambda connection: snapshot_rows.page(connection, ACCOUNT, which, limit=20, starting_after=None, count=True),
        lambda connection: snapshot_rows.metadata_keys(connection, ACCOUNT),
        lambda connection: snapshot_rows.metadata_values(connection, ACCOUNT, "a"),
    )
    every_column = "ix_snapshot_metadata_snapshot_seq (snapshot_seq=? AND account_id=? AND key=? AND value=?)"
    assert any("ix_snapshots_account_id_seq" in plan for plan in plans)
    assert any(every_column in plan for plan in plans)
    assert not [plan for plan in plans if plan.startswith("SCAN") or "TEMP B-TREE" in plan]


async def _plans(stack: Stack, *reads: Callable[[sa.Connection], object]) -> list[str]:
    """How the database goes about the statements of these reads."""
    plans: list[str] = []

    def explain(connection: sa.Connection) -> None:
        def before(_conn: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
            if statement.startswith("SELECT"):
                found = connection.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
                plans.extend(row[3] for row in found.fetchall())

        sa.event.listen(connection, "before_cursor_execute", before)
        for read in reads:
            read(connection)
        sa.event.remove(connection, "before_cursor_execute", before)

    await stack.store.read(explain)
    return plans


async def test_live_rows_are_found_by_their_own_index(full: Stack) -> None:
    found = await full.store.read(
        lambda connection: connection.execute(
            sa.text("EXPLAIN QUERY PLAN SELECT id, observed FROM devboxes WHERE ended_at_ms IS NULL")
        ).fetchall()
    )
    assert "ix_devboxes_live" in found[0][3]
    assert len(await full.store.read(rows.live)) == 1 + N - N // 3
