from __future__ import annotations

import asyncio

import sqlalchemy as sa

from corral.core import events
from corral.core.store.store import Store
from corral.core.wake import Wake, Wakes


async def test_a_watcher_wakes_at_its_subject_only(store: Store, feed: events.Feed) -> None:
    with feed.watch("a") as wake:
        waiting = asyncio.ensure_future(wake.wait(5))
        await asyncio.sleep(0)
        await store.write(lambda connection: events.append(connection, at_ms=1, subject="b", kind="x"))
        assert not waiting.done()
        await store.write(lambda connection: events.append(connection, at_ms=1, subject="a", kind="x"))
        assert await waiting is True


async def test_events_are_read_from_a_place_in_their_order(store: Store) -> None:
    def tell(connection: sa.Connection) -> None:
        for number in range(5):
            events.append(connection, at_ms=number, subject=f"s{number % 2}", kind="x", data={"n": number})

    await store.write(tell)
    found = await store.read(lambda connection: events.after(connection, 1, subject="s0", limit=2))
    assert [(event.seq, event.data["n"]) for event in found] == [(3, 2), (5, 4)]


async def test_a_wait_ends_after_its_time() -> None:
    assert await Wake().wait(0.01) is False


async def test_a_wake_up_reaches_all_who_wait_and_nobody_later() -> None:
    wake = Wake()
    waiting = [asyncio.ensure_future(wake.wait(5)) for _ in range(3)]
    await asyncio.sleep(0)
    wake.fire()
    assert await asyncio.gather(*waiting) == [True, True, True]
    assert await wake.wait(0.01) is False


async def test_a_waiter_that_is_cancelled_is_forgotten() -> None:
    wake = Wake()
    waiting = asyncio.ensure_future(wake.wait(5))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not wake._waiters


def test_a_watch_that_ends_is_forgotten() -> None:
    wakes = Wakes()
    with wakes.watch("a"), wakes.watch("a"):
        assert len(wakes) == 1
    assert len(wakes) == 0
