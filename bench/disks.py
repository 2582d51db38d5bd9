"""What copies of disks cost on Corral alone: snapshots, boxes that begin as them, forks, suspend and resume.

Takes a started server; returns milliseconds, and ratios of medians. Must not keep what it makes.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

from bench.server import Corral

MB = 1_000_000
HELD = 200 * MB
_HOLD = f"""
python3 -c 'import os, time; held = os.urandom({HELD}); open("held", "w"); time.sleep(600)' > /dev/null 2>&1 &
until [ -e held ]; do sleep 0.05; done
"""


@dataclass(slots=True)
class Disks:
    """Milliseconds, but for ratios. `still` is how long a box stood still while it was copied."""

    snapshot: float = 0.0
    still: float = 0.0
    snapshot_asleep: float = 0.0
    from_snapshot: float = 0.0  #: create from a snapshot beside create from the image
    forks: float = 0.0
    suspend: float = 0.0
    resume: float = 0.0
    suspend_memory: float = 0.0  #: with a Python process that holds HELD bytes
    resume_memory: float = 0.0
    deep: float = 0.0  #: create at the last level of a row of snapshots beside create at the first ones
    series: dict[str, list[float]] = field(default_factory=dict)


async def measure(
    corral: Corral, *, changed: int = 100 * MB, forks: int = 20, levels: int = 50, rounds: int = 15
) -> Disks:
    """Everything, in a box with `changed` bytes that no snapshot has yet."""
    found = Disks()
    box = await corral.create(launch_parameters={"keep_memory": "never"})
    await _change(corral, box, changed)
    took, view = await _timed(corral.post(f"/v1/devboxes/{box}/snapshot_disk", {}))
    found.snapshot, found.still, origin = took, float(view["still_ms"]), str(view["id"])
    await _beginnings(corral, origin, rounds, found)
    await _change(corral, box, changed)
    found.forks, children = await _forks(corral, box, forks)
    await asyncio.gather(*(corral.destroy(child) for child in children))
    await corral.settle_to(1)
    await _memory(corral, found)
    found.suspend, _ = await _timed(_reach(corral, box, "suspend", "suspended"))
    found.snapshot_asleep, view = await _timed(corral.post(f"/v1/devboxes/{box}/snapshot_disk", {}))
    found.resume, _ = await _timed(_reach(corral, box, "resume", "running"))
    await corral.destroy(box)
    for name in (origin, str(view["id"])):
        await corral.post(f"/v1/devboxes/disk_snapshots/{name}/delete", {})
    await _row(corral, levels, found)
    return found


async def _memory(corral: Corral, found: Disks) -> None:
    """Of a box whose process goes on. Raises RuntimeError where it does not, for want of CRIU."""
    box = await corral.create()
    await corral.run(box, _HOLD)
    found.suspend_memory, _ = await _timed(_reach(corral, box, "suspend", "suspended"))
    found.resume_memory, _ = await _timed(_reach(corral, box, "resume", "running"))
    await corral.run(box, "pgrep -f os.urandom")
    await corral.destroy(box)
    await corral.settle_to(1)


async def _beginnings(corral: Corral, origin: str, rounds: int, found: Disks) -> None:
    """In turns, so that what else the machine does falls on both; a first round is not counted."""
    times: dict[str, list[float]] = {"image": [], "snapshot": []}
    for counted in range(-1, rounds):
        for name, wish in (("image", {}), ("snapshot", {"snapshot_id": origin})):
            took, box = await _timed(corral.create(**wish))
            if counted >= 0:
                times[name].append(took)
            await corral.destroy(box)
            await corral.settle_to(1)
    found.series |= times
    found.from_snapshot = statistics.median(times["snapshot"]) / statistics.median(times["image"])


async def _forks(corral: Corral, box: str, count: int) -> tuple[float, list[str]]:
    start = time.perf_counter()
    made = (await corral.post(f"/v1/devboxes/{box}/fork", {"count": count}))["devboxes"]
    children = [str(child["id"]) for child in made]
    await asyncio.gather(*(corral.reaches(child, "running") for child in children))
    return (time.perf_counter() - start) * 1e3, children


async def _row(corral: Corral, levels: int, found: Disks) -> None:
    """Each level is a box that begins as a snapshot of the one before."""
    box, times, names = await corral.create(), list[float](), list[str]()
    for level in range(levels):
        await corral.run(box, f"echo {level} >> levels")
        names.append(str((await corral.post(f"/v1/devboxes/{box}/snapshot_disk", {}))["id"]))
        await corral.destroy(box)
        await corral.settle()
        took, box = await _timed(corral.create(snapshot_id=names[-1]))
        times.append(took)
    await corral.destroy(box)
    for name in names:
        await corral.post(f"/v1/devboxes/disk_snapshots/{name}/delete", {})
    found.series["levels"] = times
    # Five of each: one create alone says little.
    found.deep = statistics.median(times[-5:]) / statistics.median(times[:5])


async def _change(corral: Corral, box: str, size: int) -> None:
    await corral.run(box, f"head -c {size} /dev/urandom > changed")


async def _reach(corral: Corral, box: str, verb: str, status: str) -> None:
    await corral.post(f"/v1/devboxes/{box}/{verb}", {})
    await corral.reaches(box, status)


async def _timed(work: Awaitable[Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = await work
    return (time.perf_counter() - start) * 1e3, value
