"""A stack on a host of its own; what a test leaves running is ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from corral.runtime.fake import FakeHost
from tests.integration.devboxes.stack import Stack


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FakeHost]:
    with FakeHost(tmp_path / "host") as made:
        yield made


@pytest.fixture
def cold(tmp_path: Path, host: FakeHost) -> Stack:
    """A stack that is not started; the test starts it and stops it."""
    return Stack(tmp_path, host)


@pytest.fixture
async def stack(cold: Stack) -> AsyncIterator[Stack]:
    yield await cold.start()
    await cold.stop()
