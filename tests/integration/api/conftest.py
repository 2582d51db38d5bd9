"""One server a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.runtime.fake import FakeHost
from tests.integration.api.stand import Stand, standing


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    with FakeHost(tmp_path / "host") as host:
        async with standing(tmp_path, host) as one:
            yield one
