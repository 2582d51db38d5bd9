from __future__ import annotations

import asyncio

import pytest
import structlog

from corral.core import errors
from corral.core.tasks import TaskOwner


async def test_closing_cancels_and_awaits_what_runs() -> None:
    owner, ended = TaskOwner("test"), []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    owner.spawn(work(), name="work")
    await asyncio.sleep(0)
    await owner.close()
    assert ended == [True]
    assert len(owner) == 0


async def test_nothing_starts_after_the_end() -> None:
    owner = TaskOwner("test")
    await owner.close()
    with pytest.raises(errors.Unavailable, match="the server is stopping"):
        owner.spawn(asyncio.sleep(0), name="late")
    assert owner.closed


async def test_a_failure_that_nobody_awaits_is_logged_and_leaves_the_others_alone() -> None:
    owner = TaskOwner("test")

    async def fail() -> None:
        message = "a defect"
        raise LookupError(message)

    with structlog.testing.capture_logs() as lines:
        other = owner.spawn(asyncio.sleep(0.02), name="other")
        owner.spawn(fail(), name="fails")
        await other
    assert [(line["event"], line["task"]) for line in lines] == [("task failed", "fails")]
    await owner.close()
