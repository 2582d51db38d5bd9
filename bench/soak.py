"""`make soak N=1000 SECONDS=600`: a standing population of boxes of which some are replaced all the time.

Fails when a command answers wrongly, when anything is left on the host, or when the server without boxes has more
files open, or more memory, than the bars allow over what it had once it was warm.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console

from bench.leftovers import gone
from bench.server import Corral
from corral.runtime.oci.settings import Places

AT_ONCE = 8
#: Replacements, at most, before the server is weighed for the first time: what is made once is made then.
WARM = 100
FILES_MORE = 8
#: Rows of the store's cache and of recent executions, at most; a leak of 1 KiB for each of 30,000 boxes is more.
MEMORY_MORE_MIB = 48.0
SAY_S = 10.0
IDLE_S = 30.0


@dataclass(slots=True)
class Report:
    """What was counted. `left` has the leftovers by kind, each zero on a sound host; `found` what they are."""

    boxes: int
    seconds: float
    seed: int
    replaced: int = 0
    commands: int = 0
    transient: int = 0
    left: dict[str, int] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    files: tuple[int, int] = (0, 0)  #: open in the server without boxes, before and after
    memory_mib: tuple[float, float] = (0.0, 0.0)  #: the same
    cpu_idle: float = 0.0  #: cores that the server uses while all boxes stand idle

    def problems(self) -> list[str]:
        """What breaks a promise."""
        found = [f"left on the host: {line}" for line in self.found[:20]]
        if self.transient:
            found.append(f"{self.transient} devboxes are neither running nor ended")
        if self.files[1] > self.files[0] + FILES_MORE:
            found.append(f"the server has {self.files[1]} files open, and had {self.files[0]}")
        if self.memory_mib[1] > self.memory_mib[0] + MEMORY_MORE_MIB:
            found.append(f"the server has {self.memory_mib[1]:.0f} MiB, and had {self.memory_mib[0]:.0f}")
        return found


KINDS = ("mount", "loop", "cgroup", "box", "bundle", "claim", "link", "table", "process")


class Run:
    """One run on a fresh server. The seed decides which box is replaced when."""

    def __init__(self, boxes: int, seconds: float, seed: int, console: Console) -> None:
        self.report = Report(boxes, seconds, seed)
        self._server = Corral()
        self._console = console
        self._lot = random.Random(seed)
        self._standing: list[str] = []
        self._number = 0

    async def run(self) -> Report:
        """Everything, in order; the server and its boxes are gone at the end."""
        server, report = self._server, self.report
        await server.start()
        try:
            await self._churn(lambda: report.replaced < min(WARM, report.boxes), population=AT_ONCE)
            files, memory = await self._weigh()
            await self._fill(report.boxes)
            report.cpu_idle = await self._idle()
            deadline = time.monotonic() + report.seconds
            await self._churn(lambda: time.monotonic() < deadline, population=report.boxes)
            files_after, memory_after = await self._weigh()
            report.files, report.memory_mib = (files, files_after), (memory, memory_after)
            report.transient = await self._transient()
        finally:
            places = Places(server.data.resolve(), Path("/run/corral"))
            await self._empty()
            await server.close()
            report.found = await gone(places, within_s=60)
            counted = Counter(line.partition(" ")[0] for line in report.found)
            report.left = {kind: counted.pop(kind, 0) for kind in KINDS} | dict(counted)
        return report

    # -- load

    async def _fill(self, population: int) -> None:
        await self._each([self._stand] * (population - len(self._standing)))

    async def _empty(self) -> None:
        gone_ones, self._standing = self._standing, []
        await self._each([partial(self._server.destroy, box) for box in gone_ones])
        await self._server.settle()

    async def _stand(self) -> None:
        self._standing.append(await self._server.create())

    async def _churn(self, goes_on: Callable[[], bool], *, population: int) -> None:
        """Replace boxes of the population, each after commands and a file, for as long as `goes_on`."""
        await self._fill(population)
        said = time.monotonic()

        async def one() -> None:
            nonlocal said
            while goes_on():
                await self._replace()
                if time.monotonic() - said > SAY_S:
                    said = time.monotonic()
                    self._say()

        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, population)):
                group.create_task(one())

    async def _replace(self) -> None:
        box = self._standing.pop(self._lot.randrange(len(self._standing)))
        try:
            for _ in range(self._lot.randrange(3)):
                self._number += 1
                text = f"{self._number}"
                said = await self._server.run(box, f"echo {text} > note; (sleep 60 &) ; cat note")
                if said.strip() != text:
                    raise RuntimeError(f"cannot trust box {box}: it said {said!r} for {text!r}")
                self.report.commands += 1
        finally:
            await self._server.destroy(box)
        await self._stand()
        self.report.replaced += 1

    async def _each(self, work: Sequence[Callable[[], Awaitable[None]]]) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(act: Callable[[], Awaitable[None]]) -> None:
            async with gate:
                await act()

        async with asyncio.TaskGroup() as group:
            for act in work:
                group.create_task(one(act))

    # -- figures

    async def _weigh(self) -> tuple[int, float]:
        """Open files and MiB of the server once it has no boxes."""
        await self._empty()
        await asyncio.sleep(2)
        return self._server.files(), self._server.memory() / 2**20

    async def _idle(self) -> float:
        """Cores that the server uses over some seconds in which nobody asks anything of it."""
        await asyncio.sleep(2)
        before, start = self._server.cpu_s(), time.monotonic()
        await asyncio.sleep(min(IDLE_S, self.report.seconds / 4))
        return (self._server.cpu_s() - before) / (time.monotonic() - start)

    async def _transient(self) -> int:
        count = 0
        for status in ("provisioning", "initializing", "running"):
            async with self._server.http.get(f"/v1/devboxes?status={status}&limit=1000") as answer:
                answer.raise_for_status()
                count += len((await answer.json())["devboxes"])
        return count

    def _say(self) -> None:
        server, report = self._server, self.report
        self._console.print(
            f"{report.replaced} replaced, {report.commands} commands; the server has {server.files()} files open and "
            f"{server.memory() / 2**20:.0f} MiB"
        )


def show(report: Report, console: Console) -> None:
    """Print what was counted, one line a figure."""
    console.print(
        f"{report.boxes} boxes for {report.seconds:.0f} s: {report.replaced} replaced, {report.commands} commands"
    )
    console.print(f"left on the host: {', '.join(f'{count} {kind}' for kind, count in report.left.items())}")
    console.print(f"open files of the server without boxes: {report.files[0]}, then {report.files[1]}")
    console.print(
        f"memory of the server without boxes: {report.memory_mib[0]:.0f} MiB, then {report.memory_mib[1]:.0f}"
    )
    console.print(f"the server with {report.boxes} idle boxes: {report.cpu_idle:.3f} cores")
    for problem in report.problems():
        console.print(f"MISSED: {problem}", style="red")


def main() -> int:
    """Run, print, write bench-results/soak.json; 1 when a promise is broken."""
    parser = argparse.ArgumentParser(prog="soak", description="Churn, then a count of what stayed")
    parser.add_argument("--boxes", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    console = Console()
    report = asyncio.run(Run(given.boxes, given.seconds, given.seed, console).run())
    show(report, console)
    results = Path("bench-results")
    results.mkdir(exist_ok=True)
    (results / "soak.json").write_text(json.dumps(asdict(report), indent=2))
    return 1 if report.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
