"""A scripted server and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from corral_sdk import AsyncCorral, Corral
from tests.unit.sdk import scripted


@pytest.fixture
def script() -> Iterator[scripted.Script]:
    with scripted.serving() as running:
        yield running


@pytest.fixture
def corral(script: scripted.Script) -> Iterator[Corral]:
    with Corral(script.url, "ak_test", patience_s=2) as client:
        yield client


@pytest.fixture
async def async_corral(script: scripted.Script) -> AsyncIterator[AsyncCorral]:
    async with AsyncCorral(script.url, "ak_test", patience_s=2) as client:
        yield client
