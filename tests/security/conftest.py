"""One driver and two boxes for the whole tier; a test that ruins a box makes one of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.security.yard import HOSTILE, LIMITS, NEIGHBOUR, Yard, settings


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def yard(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Yard]:
    made = Yard(settings(tmp_path_factory.mktemp("security") / "data"))
    await made.runtime.start()
    try:
        for box in (HOSTILE, NEIGHBOUR):
            await made.box(box, LIMITS)
        yield made
    finally:
        await made.clear()
        await made.runtime.close()
