"""One server a test, without HTTP, on the fake runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.runtime.fake import FakeHost
from tests.integration.devboxes.stack import Stack


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    with FakeHost(tmp_path / "host") as host:
        one = await Stack(tmp_path, host).start()
        yield one
        await one.stop()
