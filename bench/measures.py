"""The measures: what is timed, in which order, and when it counts as done.

Each takes Adapters and returns plain numbers; no measure knows which systems it runs. Those whose figures are compared
take turns, round by round: what else the machine does then falls on all of them alike.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Adapter(ABC):
    """One system under test. `create` returns only when the box is usable."""

    name: str

    @abstractmethod
    async def create(self) -> Any:
        """Make a box and return a handle for the other calls."""

    @abstractmethod
    async def run(self, box: Any, command: str) -> str:
        """Run a shell command to its end and return its output. Raises RuntimeError when it fails."""

    @abstractmethod
    async def destroy(self, box: Any) -> None:
        """Remove the box."""

    async def settle(self) -> None:  # noqa: B027 - most systems remove a box before they say that they did
        """Return when nothing of removed boxes is at work behind the answers."""

    @abstractmethod
    async def close(self) -> None:
        """Remove what the adapter made for itself."""


@dataclass(frozen=True, slots=True)
class Burst:
    """`times_ms` of the successful starts, from request to the command's output; wall clock of them all."""

    times_ms: list[float]
    attempted: int
    wall_ms: float
    errors: list[str]


@asynccontextmanager
async def box_of(adapter: Adapter) -> AsyncIterator[Any]:
    """A box for the length of the block."""
    box = await adapter.create()
    try:
        yield box
    finally:
        await adapter.destroy(box)


async def first_output(adapters: Sequence[Adapter], rounds: int) -> dict[str, list[float]]:
    """Milliseconds from the create request to the output of a first `echo`, one box after another, by adapter's name.

    A first round is not counted: it pays for what each system prepares once.
    """
    times: dict[str, list[float]] = {adapter.name: [] for adapter in adapters}
    for counted in range(-1, rounds):
        for adapter in adapters:
            start = time.perf_counter()
            async with box_of(adapter) as box:
                output = await adapter.run(box, "echo ready")
                elapsed_ms = (time.perf_counter() - start) * 1e3
            if output.strip() != "ready":
                raise RuntimeError(f"cannot use box of {adapter.name}: it answered {output!r}")
            if counted >= 0:
                times[adapter.name].append(elapsed_ms)
            await adapter.settle()
    return times


async def execute_true(adapters: Sequence[Adapter], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of one `true` after another in one box of each adapter, after ten that are not counted."""
    times: dict[str, list[float]] = {adapter.name: [] for adapter in adapters}
    async with AsyncExitStack() as undo:
        boxes = [(adapter, await undo.enter_async_context(box_of(adapter))) for adapter in adapters]
        for counted in range(-10, rounds):
            for adapter, box in boxes:
                start = time.perf_counter()
                await adapter.run(box, "true")
                if counted >= 0:
                    times[adapter.name].append((time.perf_counter() - start) * 1e3)
    return times


async def throughput(adapter: Adapter, clients: int, rounds: int) -> float:
    """`true` a second, when each of `clients` callers runs `rounds` of them one after another in one box."""
    async with box_of(adapter) as box:
        await adapter.run(box, "true")
        start = time.perf_counter()

        async def one() -> None:
            for _ in range(rounds):
                await adapter.run(box, "true")

        await asyncio.gather(*(one() for _ in range(clients)))
        return clients * rounds / (time.perf_counter() - start)


async def burst(adapter: Adapter, count: int, command: str = "node -v", limit_s: float = 180) -> Burst:
    """`count` boxes asked for at the same moment, each running `command`; removal is not timed."""
    start = time.perf_counter()
    boxes: list[Any] = []
    times: list[float] = []
    errors: list[str] = []

    async def one() -> None:
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(limit_s):
                box = await adapter.create()
                boxes.append(box)
                await adapter.run(box, command)
            times.append((time.perf_counter() - begun) * 1e3)
        except Exception as error:  # noqa: BLE001 - a failed start is a figure of the report, not its end
            errors.append(repr(error))

    await asyncio.gather(*(one() for _ in range(count)))
    wall = (time.perf_counter() - start) * 1e3
    await remove(adapter, boxes)
    return Burst(times_ms=times, attempted=count, wall_ms=wall, errors=errors)


async def remove(adapter: Adapter, boxes: list[Any], at_once: int = 16) -> None:
    """Remove many boxes, a few at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(box: Any) -> None:
        async with gate:
            await adapter.destroy(box)

    await asyncio.gather(*(one(box) for box in boxes))


def used_memory() -> int:
    """Bytes of the host's memory in use, the page cache of files apart: what processes and the kernel hold for them.

    MemAvailable would not do: it counts reclaimable slab as free, and inodes and dentries of boxes are slab.
    """
    kib = _meminfo()
    return (kib["MemTotal"] - kib["MemFree"] - kib["Buffers"] - kib["Cached"] + kib["Shmem"]) * 1024


def available_memory() -> int:
    """Bytes that the kernel says programs could still have (MemAvailable)."""
    return _meminfo()["MemAvailable"] * 1024


def _meminfo() -> dict[str, int]:
    """/proc/meminfo, in KiB."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


async def memory_per_box(adapter: Adapter, count: int, at_once: int = 8) -> float:
    """MiB of host memory that one idle box costs, all in, at `count` boxes."""
    async with box_of(adapter) as box:
        await adapter.run(box, "true")
    await asyncio.sleep(2)
    before = used_memory()
    gate = asyncio.Semaphore(at_once)
    boxes: list[Any] = []

    async def one() -> None:
        async with gate:
            boxes.append(await adapter.create())

    try:
        await asyncio.gather(*(one() for _ in range(count)))
        await asyncio.sleep(3)
        return (used_memory() - before) / count / (1 << 20)
    finally:
        await remove(adapter, boxes)
