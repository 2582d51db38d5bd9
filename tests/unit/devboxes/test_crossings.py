"""Crossings: levels, hysteresis, and CPU over a window."""

from __future__ import annotations

from corral.devboxes import crossings
from corral.devboxes.crossings import Crossing, Measure
from corral.runtime.contract import Limits, Usage

LIMITS = Limits(cpu=2.0, memory=1000, disk=2000, pids=100)
NONE: frozenset[Crossing] = frozenset()
MEMORY_80 = Crossing(Measure.MEMORY, 80)
MEMORY_90 = Crossing(Measure.MEMORY, 90)


def usage(*, cpu_us: int = 0, memory: int = 0, cache: int = 50, disk: int = 0, pids: int = 0) -> Usage:
    return Usage(
        cpu_us=cpu_us,
        memory=memory + cache,
        cache=cache,
        memory_peak=memory,
        disk=disk,
        pids=pids,
        oom_kills=0,
        limits=LIMITS,
    )


def test_use_is_a_share_of_each_limit() -> None:
    before = usage(cpu_us=1_000_000)
    after = usage(cpu_us=11_000_000, memory=800, disk=500, pids=90)
    assert crossings.used(before, after, 10.0) == {
        Measure.MEMORY: 80.0,
        Measure.DISK: 25.0,
        Measure.PIDS: 90.0,
        Measure.CPU: 50.0,
    }


def test_cpu_is_not_judged_without_a_window() -> None:
    assert Measure.CPU not in crossings.used(usage(), usage(cpu_us=5), 0.0)


def test_each_level_is_crossed_at_its_value() -> None:
    assert crossings.standing(NONE, {Measure.MEMORY: 79.9}) == NONE
    assert crossings.standing(NONE, {Measure.MEMORY: 80.0}) == {MEMORY_80}
    assert crossings.standing(NONE, {Measure.MEMORY: 90.0}) == {MEMORY_80, MEMORY_90}


def test_a_disk_alone_is_said_to_be_full() -> None:
    full = Crossing(Measure.DISK, crossings.FULL)
    assert full not in crossings.standing(NONE, {Measure.DISK: crossings.FULL - 0.1})
    assert full in crossings.standing(NONE, {Measure.DISK: crossings.FULL})
    assert crossings.standing(NONE, {Measure.MEMORY: 100.0}) == {MEMORY_80, MEMORY_90}


def test_a_crossing_stands_until_the_use_is_clearly_below() -> None:
    held = frozenset({MEMORY_80, MEMORY_90})
    assert crossings.standing(held, {Measure.MEMORY: 80.0}) == held
    assert crossings.standing(held, {Measure.MEMORY: 79.9}) == {MEMORY_80}
    assert crossings.standing(held, {Measure.MEMORY: 69.9}) == NONE


def test_a_measure_that_was_not_read_stays_as_it_was() -> None:
    assert crossings.standing(frozenset({MEMORY_80}), {Measure.PIDS: 1.0}) == {MEMORY_80}
