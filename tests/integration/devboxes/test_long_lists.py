"""Lists of ten thousand devboxes: what a page costs, in steps of the database's own machine, which do not vary."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import pytest
import sqlalchemy as sa

from corral.devboxes import listing, rows
from corral.devboxes.model import DevboxRequest, Observed, Page, Reason
from tests.integration.devboxes.stack import ACCOUNT, Stack

N: Final = 10_000
LIMIT: Final = 100

#: Which devboxes, and how many of them there are.
FILTERS: Final = [
    (listing.Filter(), N),
    (listing.Filter(status=Observed.SHUTDOWN), N - N // 100),
    (listing.Filter(status=Observed.PROVISIONING), N // 100),
    (listing.Filter(name="box-0"), N // 5),
    (listing.Filter(metadata={"all": "1"}), N),
    (listing.Filter(metadata={"half": "1"}), N // 2),
    (listing.Filter(metadata={"one": "7"}), 1),
    (listing.Filter(metadata={"half": ("0", "1")}), N),
    (listing.Filter(metadata={"one": tuple(str(one) for one in range(99))}), 99),
    (listing.Filter(metadata={"all": "1", "half": "0"}), N // 2),
    (listing.Filter(status=Observed.SHUTDOWN, metadata={"all": "1"}), N - N // 100),
    (listing.Filter(status=Observed.PROVISIONING, metadata={"all": "1"}), N // 100),
]

#: A page, whichever of the list and however long that is, takes at most so many times the steps of a page of all.
#: With 99 values there are 99 places to look at before the newest is known.
TIMES: Final = 6


@pytest.fixture
async def long(cold: Stack) -> AsyncIterator[Stack]:
    """All but each hundredth have shut down."""
    stack = await cold.start(control=False)

    def fill(connection: sa.Connection) -> None:
        step = rows.Step((Observed.SHUTDOWN,), Reason.API_SHUTDOWN)
        for number in range(N):
            metadata = {"all": "1", "half": str(number % 2), "one": str(number)}
            rows.insert(connection, name(number), ACCOUNT, DevboxRequest(f"box-{number % 5}", metadata), 1000)
            if number % 100:
                rows.transition(connection, name(number), rows.LIVE, step, 2000)

    await stack.store.write(fill)
    yield stack
    await stack.stop()


def name(number: int) -> str:
    return f"dbx_{number:05}"


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_every_page_of_a_long_list_costs_about_the_same_with_every_filter(long: Stack) -> None:
    usual = (await pages(long, listing.Filter()))[0][1]
    for which, size in FILTERS:
        found = await pages(long, which)
        ids = [devbox.id for page, _ in found for devbox in page.items]
        assert len(ids) == len(set(ids)) == size, which
        assert ids == sorted(ids, reverse=True), which
        steps = [cost for _, cost in found]
        assert max(steps) <= TIMES * usual, f"{which}: {max(steps)} steps, a page of all takes {usual}"


async def pages(stack: Stack, which: listing.Filter) -> list[tuple[Page[Any], int]]:
    """Every page with what it cost."""
    found: list[tuple[Page[Any], int]] = []
    after = None
    while not found or found[-1][0].has_more:

        def counted(connection: sa.Connection, after: str | None = after) -> tuple[Page[Any], int]:
            steps = 0

            def step() -> None:
                nonlocal steps
                steps += 1

            database = cast("sqlite3.Connection", connection.connection.dbapi_connection)
            database.set_progress_handler(step, 1)
            try:
                page = listing.page(connection, ACCOUNT, which, limit=LIMIT, starting_after=after, count=False)
            finally:
                database.set_progress_handler(None, 1)
            return page, steps

        found.append(await stack.store.read(counted))
        after = found[-1][0].items[-1].id if found[-1][0].items else None
    return found
