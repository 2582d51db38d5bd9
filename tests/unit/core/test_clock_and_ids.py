from __future__ import annotations

import asyncio
import re
import uuid

from corral.core.clock import ManualClock, SystemClock
from corral.core.ids import ALPHABET, Ids


async def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    clock, woken = ManualClock(), []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.monotonic()))

    tasks = [asyncio.ensure_future(sleeper(seconds)) for seconds in (3, 1, 2)]
    await clock.advance(2.5)
    assert woken == [(1, 1.0), (2, 2.0)]
    await clock.advance(1)
    await asyncio.gather(*tasks)
    assert woken[-1] == (3, 3.0)


async def test_a_sleeper_that_is_cancelled_does_not_hold_time_up() -> None:
    clock = ManualClock()
    task = asyncio.ensure_future(clock.sleep(1))
    await asyncio.sleep(0)
    task.cancel()
    await clock.advance(2)
    assert clock.monotonic() == 2
    assert task.cancelled()


def test_both_clocks_of_a_manual_clock_move_together() -> None:
    clock = ManualClock(now_ms=5_000)
    assert (clock.now_ms(), clock.monotonic()) == (5_000, 0)


def test_the_host_booted_before_now() -> None:
    clock = SystemClock()
    assert 0 < clock.booted_at_ms() < clock.now_ms()


def test_an_id_has_its_prefix_and_21_characters() -> None:
    assert re.fullmatch(r"dbx_[0-9A-Za-z]{21}", Ids(SystemClock()).new("dbx"))


def test_every_letter_is_equally_likely() -> None:
    # All 256 bytes once: the last 8 are dropped, so each of the 62 letters comes exactly four times.
    ids = Ids(ManualClock(), random_bytes=lambda _size: bytes(range(256)))
    text = ids.base62(248)
    assert {letter: text.count(letter) for letter in ALPHABET} == dict.fromkeys(ALPHABET, 4)


def test_ids_of_one_process_differ() -> None:
    ids = Ids(SystemClock())
    assert len({ids.new("dbx") for _ in range(1000)}) == 1000


def test_a_uuid_is_of_version_7_and_carries_the_time() -> None:
    clock = ManualClock(now_ms=1_700_000_000_123)
    made = uuid.UUID(Ids(clock).uuid7())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == 1_700_000_000_123
