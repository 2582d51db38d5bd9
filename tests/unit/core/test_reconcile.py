from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from corral.core.clock import ManualClock
from corral.core.reconcile import Reconciler, rounds


@asynccontextmanager
async def running(
    step: Callable[[str], Awaitable[float | None]], clock: ManualClock, workers: int = 8
) -> AsyncIterator[Reconciler]:
    loop = Reconciler(step, clock=clock, workers=workers)
    task = asyncio.ensure_future(loop.run())
    await clock.advance(0)
    yield loop
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Steps:
    """Steps that wait to be let through, and remember what they saw."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.now: set[str] = set()
        self.most = 0
        self.gate = asyncio.Event()

    async def __call__(self, key: str) -> float | None:
        assert key not in self.now
        self.seen.append(key)
        self.now.add(key)
        self.most = max(self.most, len(self.now))
        try:
            await self.gate.wait()
        finally:
            self.now.discard(key)
        return None


async def test_a_key_has_one_step_at_a_time_and_another_when_it_was_poked_meanwhile() -> None:
    steps, clock = Steps(), ManualClock()
    async with running(steps, clock) as loop:
        for _ in range(5):
            loop.poke("a")
            await clock.advance(0)
        assert steps.seen == ["a"]
        steps.gate.set()
        await clock.advance(0)
        assert steps.seen == ["a", "a"]
        assert not loop.knows("a")


async def test_no_more_steps_run_than_there_are_workers() -> None:
    steps, clock = Steps(), ManualClock()
    async with running(steps, clock, workers=3) as loop:
        for number in range(10):
            loop.poke(str(number))
        await clock.advance(0)
        assert steps.most == 3
        steps.gate.set()
        await clock.advance(0)
        assert len(steps.seen) == 10
        assert steps.most == 3


async def test_what_was_poked_before_the_start_is_not_lost() -> None:
    seen: list[str] = []

    async def step(key: str) -> None:
        seen.append(key)

    loop = Reconciler(step, clock=ManualClock())
    loop.poke("early")
    task = asyncio.ensure_future(loop.run())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert seen == ["early"]


async def test_a_step_that_fails_is_tried_again_ever_later_up_to_30_s() -> None:
    clock, at = ManualClock(), []

    async def step(_key: str) -> float | None:
        at.append(clock.monotonic())
        message = "no"
        raise LookupError(message)

    async with running(step, clock) as loop:
        loop.poke("a")
        await clock.advance(200)
    gaps = [round(after - before, 1) for before, after in itertools.pairwise(at)]
    assert gaps[:9] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0]
    assert set(gaps[8:]) == {30.0}


async def test_success_forgets_earlier_failures() -> None:
    clock, at = ManualClock(), []
    outcomes: list[Exception | float | None] = [LookupError(), LookupError(), 1.0, LookupError(), None]

    async def step(_key: str) -> float | None:
        at.append(round(clock.monotonic(), 1))
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async with running(step, clock) as loop:
        loop.poke("a")
        await clock.advance(10)
    assert at == [0, 0.2, 0.6, 1.6, 1.8]


async def test_a_key_is_looked_at_when_its_time_has_come_and_only_then() -> None:
    clock, seen = ManualClock(), []
    delays = {"a": 10.0, "b": 5.0}

    async def step(key: str) -> float | None:
        seen.append((key, clock.monotonic()))
        return delays.pop(key, None)

    async with running(step, clock) as loop:
        loop.poke("a")
        loop.poke("b")
        await clock.advance(4)
        assert len(seen) == 2
        assert loop.knows("b")
        await clock.advance(10)
    assert seen[2:] == [("b", 5.0), ("a", 10.0)]


async def test_a_poke_takes_the_place_of_the_timer() -> None:
    clock, seen = ManualClock(), []

    async def step(_key: str) -> float | None:
        seen.append(clock.monotonic())
        return 10.0 if len(seen) == 1 else None

    async with running(step, clock) as loop:
        loop.poke("a")
        await clock.advance(3)
        loop.poke("a")
        await clock.advance(20)
    assert seen == [0, 3]


async def test_an_interrupted_step_ends_and_the_key_is_looked_at_again() -> None:
    steps, clock = Steps(), ManualClock()
    async with running(steps, clock) as loop:
        loop.poke("a")
        await clock.advance(0)
        loop.interrupt("a")
        await clock.advance(0)
        assert steps.seen == ["a", "a"]
        steps.gate.set()
        await clock.advance(0)
        assert not loop.knows("a")


async def test_the_end_cancels_and_awaits_every_step() -> None:
    steps, clock = Steps(), ManualClock()
    async with running(steps, clock) as loop:
        loop.poke("a")
        loop.poke("b")
        await clock.advance(0)
        assert steps.now == {"a", "b"}
    assert steps.now == set()


async def test_the_end_of_a_cancelled_step_starts_no_other() -> None:
    steps, clock = Steps(), ManualClock()
    async with running(steps, clock, workers=1) as loop:
        for key in "abc":
            loop.poke(key)
        loop.poke("a")
        await clock.advance(0)
    assert steps.seen == ["a"]
    assert steps.now == set()


async def test_timers_of_keys_that_were_poked_before_their_time_do_not_pile_up() -> None:
    clock = ManualClock()

    delays = itertools.count(3600)

    async def step(_key: str) -> float | None:
        return float(next(delays))

    async with running(step, clock) as loop:
        for _ in range(5000):
            loop.poke("a")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await clock.advance(0)
        kept = len(loop._timers)
        assert kept < 2000
        assert loop.knows("a")


async def test_a_round_that_fails_is_followed_by_the_next_and_a_long_one_by_a_long_rest() -> None:
    clock = ManualClock()
    begun: list[float] = []

    async def work() -> None:
        begun.append(clock.monotonic())
        if len(begun) == 1:
            raise OSError("the host is out of order")
        if len(begun) == 2:
            await clock.sleep(3)

    start = clock.monotonic()
    task = asyncio.ensure_future(rounds(work, first_s=2, every_s=5, clock=clock, part="test"))
    for _ in range(60):
        await clock.advance(1)
    assert [moment - start for moment in begun] == [2, 7, 40, 45, 50, 55, 60]
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
