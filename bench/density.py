"""`make density N=6000`: so many idle boxes at once on this machine; each answers, the server restarts, all go.

Fails when a box does not answer, when the last creates are slower than the first by more than the bar, when a box
costs more memory than the bar, when the server takes long to serve again, or when anything is left on the host.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import measures
from bench.leftovers import gone
from bench.server import Corral
from corral.runtime.oci.settings import Places

AT_ONCE = 8
WINDOW = 100
RESTART_LIMIT_S = 5.0

T = TypeVar("T")


@dataclass(slots=True)
class Report:
    """What was measured. `windows_ms` has the median create of each hundred, `restarts_s` the time to serve again."""

    boxes: int
    windows_ms: list[float] = field(default_factory=list)
    create_wall_s: float = 0.0
    answered: int = 0
    used_mib: float = 0.0  #: of each box, without the page cache
    unavailable_mib: float = 0.0  #: of each box, by MemAvailable
    server_mib: float = 0.0
    restarts_s: dict[str, float] = field(default_factory=dict)
    answered_after: int = 0
    removal_wall_s: float = 0.0
    left: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """What breaks a promise."""
        found = [f"left on the host: {line}" for line in self.left[:20]]
        if min(self.answered, self.answered_after) < self.boxes:
            found.append(f"{self.answered} answered, {self.answered_after} after the restarts, of {self.boxes}")
        # The second hundred: the first one pays for what is prepared once.
        if len(self.windows_ms) > 2 and self.windows_ms[-1] > 1.5 * self.windows_ms[1]:
            found.append(f"creates became slower: {self.windows_ms[1]:.0f} ms, then {self.windows_ms[-1]:.0f} ms")
        # Fewer boxes weigh less than what else the machine does meanwhile.
        if self.boxes >= 300 and self.used_mib > 2:
            found.append(f"{self.used_mib:.2f} MiB for each box")
        slow = {how: seconds for how, seconds in self.restarts_s.items() if seconds > RESTART_LIMIT_S}
        if slow:
            found.append(f"serving again took {slow}")
        return found


class Run:
    """One run on a fresh server."""

    def __init__(self, boxes: int, console: Console) -> None:
        self.report = Report(boxes)
        self._server = Corral()
        self._console = console
        self._boxes: list[str] = []

    async def run(self) -> Report:
        """Everything, in order; the server and its boxes are gone at the end."""
        server, report = self._server, self.report
        await server.start()
        try:
            async with measures.box_of(server) as box:
                await server.run(box, "true")
            await server.settle()
            used, available = measures.used_memory(), measures.available_memory()
            await self._create()
            await asyncio.sleep(2)
            report.used_mib = (measures.used_memory() - used) / report.boxes / 2**20
            report.unavailable_mib = (available - measures.available_memory()) / report.boxes / 2**20
            report.server_mib = server.memory() / 2**20
            report.answered = await self._ask("each answers")
            for how in ("SIGTERM", "SIGKILL"):
                report.restarts_s[how] = await server.restart(kill=how == "SIGKILL")
                self._console.print(f"serving again after {how}: {report.restarts_s[how]:.2f} s")
            report.answered_after = await self._ask("each answers the new server")
        finally:
            await self._remove()
            places = Places(server.data.resolve(), Path("/run/corral"))
            await server.close()
            report.left = await gone(places, within_s=30)
        return report

    async def _create(self) -> None:
        times: list[float] = []

        async def one(_: int) -> None:
            start = time.perf_counter()
            self._boxes.append(await self._server.create())
            times.append((time.perf_counter() - start) * 1e3)

        start = time.perf_counter()
        await self._each("create", range(self.report.boxes), one)
        self.report.create_wall_s = time.perf_counter() - start
        windows = [times[at : at + WINDOW] for at in range(0, len(times), WINDOW)]
        self.report.windows_ms = [round(statistics.median(window), 1) for window in windows]

    async def _ask(self, what: str) -> int:
        answered = 0

        async def one(box: str) -> None:
            nonlocal answered
            if (await self._server.run(box, "echo $HOSTNAME")).strip() == box.replace("_", "-").lower():
                answered += 1

        await self._each(what, self._boxes, one)
        return answered

    async def _remove(self) -> None:
        start = time.perf_counter()
        await self._each("shut down", self._boxes, self._server.destroy)
        await self._server.settle()
        self.report.removal_wall_s = time.perf_counter() - start

    async def _each(self, what: str, items: Sequence[T], work: Callable[[T], Awaitable[None]]) -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(f"{what:<28}", total=len(items))

            async def one(item: T) -> None:
                async with gate:
                    await work(item)
                progress.advance(task)

            async with asyncio.TaskGroup() as group:  # ends the others when one fails: no create outlives the run
                for item in items:
                    group.create_task(one(item))


def show(report: Report, console: Console) -> None:
    """Print what was measured, one line a figure."""
    windows = report.windows_ms
    console.print(f"create, median of each hundred, {AT_ONCE} at once, ms: {', '.join(f'{ms:g}' for ms in windows)}")
    console.print(f"created in {report.create_wall_s:.1f} s, removed in {report.removal_wall_s:.1f} s")
    console.print(f"answered: {report.answered}, after the restarts {report.answered_after}, of {report.boxes}")
    console.print(f"memory of a box: {report.used_mib:.2f} MiB used, {report.unavailable_mib:.2f} MiB less available")
    console.print(f"memory of the server: {report.server_mib:.0f} MiB")
    console.print(f"left on the host: {len(report.left)}")
    for problem in report.problems():
        console.print(f"MISSED: {problem}", style="red")


def main() -> int:
    """Run, print, write bench-results/density.json; 1 when a promise is broken."""
    parser = argparse.ArgumentParser(prog="density", description="Many idle boxes at once")
    parser.add_argument("boxes", type=int, nargs="?", default=6000)
    console = Console()
    report = asyncio.run(Run(parser.parse_args().boxes, console).run())
    show(report, console)
    results = Path("bench-results")
    results.mkdir(exist_ok=True)
    (results / "density.json").write_text(json.dumps(asdict(report), indent=2))
    return 1 if report.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
