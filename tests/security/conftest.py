"""One driver and three boxes for the whole tier; a test that ruins a box makes one of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from tests.security.yard import HOSTILE, LIMITS, NEIGHBOUR, NESTED, Yard, settings


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def grounds(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Yard]:
    made = Yard(settings(tmp_path_factory.mktemp("security") / "data"))
    await made.runtime.start()
    try:
        for box in (HOSTILE, NEIGHBOUR):
            await made.box(box, LIMITS)
        await made.runtime.create(replace(made.spec(NESTED, LIMITS), nested=True))
        yield made
    finally:
        await made.clear()
        await made.runtime.close()


@pytest.fixture
def yard(grounds: Yard, request: pytest.FixtureRequest) -> Yard:
    """The same driver for all; which box attacks is the test's to say, a plain one without a word."""
    grounds.hostile = getattr(request, "param", HOSTILE)
    return grounds
