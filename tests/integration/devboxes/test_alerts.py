"""Rounds of alerts over many devboxes: read in batches, told once, whatever else happens in between."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from corral.devboxes import alerts
from corral.devboxes.alerts import Alerts
from corral.devboxes.model import LogSource
from corral.runtime.contract import Limits, Usage
from corral.runtime.fake import FakeRuntime
from tests.integration.devboxes.stack import ACCOUNT, Stack

LIMITS = Limits(pids=12)


async def told(stack: Stack, devbox_id: str) -> list[str]:
    """What its log says of its limits."""
    entries = await stack.devboxes.logs(ACCOUNT, devbox_id)
    return [entry.message or "" for entry in entries if entry.source is LogSource.STATS]


async def test_every_devbox_of_every_batch_is_told_of_once(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "AT_ONCE", 2)
    boxes = [await stack.running(limits=LIMITS) for _ in range(5)]
    near, over, _, gone, _ = boxes
    for devbox_id, count in ((near, 10), (over, 11), (gone, 11)):
        for _ in range(count):
            await stack.executions.start(ACCOUNT, devbox_id, "exec sleep 300")
    await stack.controller._alerts.look()
    await stack.runtime.destroy(gone)
    for _ in range(3):
        await stack.controller._alerts.look()
    found = {devbox_id: await told(stack, devbox_id) for devbox_id in boxes if devbox_id != gone}
    assert [len(lines) for lines in found.values()] == [1, 2, 0, 0]
    assert all(line.startswith("pids at ") for lines in found.values() for line in lines)
    await Alerts(stack.store, stack.runtime, clock=stack.clock).look()  # as the next server does
    assert {devbox_id: await told(stack, devbox_id) for devbox_id in found} == found


async def test_a_round_over_many_devboxes_is_few_calls_of_the_runtime(cold: Stack) -> None:
    calls: list[int] = []

    class Counting(FakeRuntime):
        async def usages(self, box_ids: Sequence[str]) -> dict[str, Usage]:
            calls.append(len(box_ids))
            return await super().usages(box_ids)

    stack = await cold.start()
    for _ in range(70):
        await stack.running()
    runtime = Counting(cold.host)
    await runtime.start()
    await Alerts(stack.store, runtime, clock=stack.clock).look()
    await runtime.close()
    await stack.stop()
    assert calls == [64, 6]
