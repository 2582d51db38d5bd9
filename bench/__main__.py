"""`make bench`: every measure on every system of this host, then the figures beside the bars."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import builds, disks, measures, stats
from bench.docker import Docker
from bench.floor import Floor
from bench.server import Corral
from corral.images.service import Images

GIB = 1 << 30
CLIENTS = 16  #: callers of the throughput measure


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int = 30
    executes: int = 300
    executes_at_once: int = 100  #: of each of 16 callers
    at_once: int = 100
    idle: int = 300
    claims: int = 60
    forks: int = 20
    levels: int = 50
    changed: int = 100_000_000
    transfer: int = GIB


QUICK = Size(
    rounds=15,
    executes=50,
    executes_at_once=10,
    at_once=20,
    idle=60,
    claims=15,
    forks=5,
    levels=8,
    changed=20_000_000,
    transfer=GIB // 8,
)


@dataclass(slots=True)
class Figures:
    """What was measured on one system; series in milliseconds."""

    name: str
    first_output: stats.Summary | None = None
    execute: stats.Summary | None = None
    throughput: float = 0.0
    burst: stats.Summary | None = None
    burst_wall_ms: float = 0.0
    burst_ok: str = ""
    burst_score: float = 0.0
    mib_per_box: float = 0.0
    transfer: dict[str, float] = field(default_factory=dict)
    warm_claim: stats.Summary | None = None
    disks: disks.Disks | None = None
    builds: builds.Builds | None = None


async def run(size: Size, console: Console) -> list[Figures]:
    """Measure Corral, Docker where it answers, and the floor."""
    rootfs = Images(Path(os.environ.get("CORRAL_IMAGES", "/var/lib/corral/images"))).resolve().layers[0].path.resolve()
    async with AsyncExitStack() as undo:
        corral = Corral()
        undo.push_async_callback(corral.close)
        await corral.start()
        adapters: list[measures.Adapter] = [corral]
        if await Docker.available():
            docker = Docker()
            undo.push_async_callback(docker.close)
            await docker.start(rootfs)
            adapters.append(docker)
        else:
            console.print("docker: no daemon answers here; the peer is left out")
        floor = Floor(rootfs)
        await floor.start()
        undo.push_async_callback(floor.close)
        adapters.append(floor)
        found = {adapter.name: Figures(adapter.name) for adapter in adapters}
        await _in_turns(adapters, found, size, console)
        for adapter in adapters:
            await _alone(adapter, found[adapter.name], size, console)
        console.print("corral: upload and download")
        found[corral.name].transfer = await corral.transfer(size.transfer)
        console.print("corral: snapshots, forks, suspend and resume")
        found[corral.name].disks = await disks.measure(
            corral, changed=size.changed, forks=size.forks, levels=size.levels
        )
        console.print("corral: builds, beside Docker's in a box of it")
        found[corral.name].builds = await builds.measure(corral)
        console.print("corral: claims of prepared boxes")
        found[corral.name].warm_claim = stats.summary(await _claims(size.claims))
    return list(found.values())


async def _claims(rounds: int) -> list[float]:
    """On a server of its own: where boxes are prepared, no other measure begins with nothing."""
    prepared = Corral(warm=4)
    try:
        await prepared.start()
        return await prepared.warm_claims(rounds)
    finally:
        await prepared.close()


async def _in_turns(
    adapters: Sequence[measures.Adapter], found: Mapping[str, Figures], size: Size, console: Console
) -> None:
    console.print("all, in turns: create to first output")
    for name, times in (await measures.first_output(adapters, size.rounds)).items():
        found[name].first_output = stats.summary(times)
    console.print("all, in turns: execute true")
    for name, times in (await measures.execute_true(adapters, size.executes)).items():
        found[name].execute = stats.summary(times)


async def _alone(adapter: measures.Adapter, figures: Figures, size: Size, console: Console) -> None:
    console.print(f"{adapter.name}: execute true, {CLIENTS} callers")
    figures.throughput = await measures.throughput(adapter, CLIENTS, size.executes_at_once)
    console.print(f"{adapter.name}: {size.at_once} at once: create, node -v")
    burst = await measures.burst(adapter, size.at_once)
    await adapter.settle()
    figures.burst = stats.summary(burst.times_ms) if burst.times_ms else None
    figures.burst_wall_ms = burst.wall_ms
    figures.burst_ok = f"{len(burst.times_ms)}/{burst.attempted}"
    figures.burst_score = stats.leaderboard_score(burst.times_ms, burst.attempted)
    for error in burst.errors[:3]:
        console.print(f"{adapter.name}: failed: {error}")
    console.print(f"{adapter.name}: memory of {size.idle} idle boxes")
    figures.mib_per_box = await measures.memory_per_box(adapter, size.idle)
    await adapter.settle()


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise: `value` must be at most `limit` (at least, when `at_least`)."""

    what: str
    value: float
    limit: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the promise holds in this run."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def bars(found: list[Figures]) -> list[Bar]:
    """The promises of SPECIFICATION.md, with this run's figures."""
    by_name = {figures.name: figures for figures in found}
    corral, floor = by_name["corral"], by_name["crun"]
    assert corral.first_output
    assert corral.execute
    assert floor.first_output
    assert corral.warm_claim
    listed = [
        Bar("create of a prepared box, p50", corral.warm_claim.p50, 10.0, "ms"),
        Bar("create to first output, p50, beside crun", corral.first_output.p50 / floor.first_output.p50, 2.0, "x"),
        Bar("execute true over HTTP, p50", corral.execute.p50, 5.0, "ms"),
        Bar("execute true over HTTP, p99", corral.execute.p99, 25.0, "ms"),
        Bar(f"execute true, {CLIENTS} callers", corral.throughput, 150, "/s", at_least=True),
        Bar("all at once: wall time beside crun", corral.burst_wall_ms / floor.burst_wall_ms, 1.5, "x"),
        Bar("memory of an idle box", corral.mib_per_box, 2.0, "MiB"),
        Bar("server's growth in a transfer", corral.transfer["growth_mib"], 32, "MiB"),
        Bar("upload", corral.transfer["upload_mb_s"], 300, "MB/s", at_least=True),
        Bar("download", corral.transfer["download_mb_s"], 300, "MB/s", at_least=True),
    ]
    assert corral.disks
    kept = corral.disks
    listed += [
        Bar("snapshot of a running box", kept.snapshot, 500, "ms"),
        Bar("of that, it stands still", kept.still, 300, "ms"),
        Bar("snapshot of a suspended box", kept.snapshot_asleep, 30, "ms"),
        Bar("create from a snapshot beside the image", kept.from_snapshot, 1.2, "x"),
        Bar("forks of a running box, all running", kept.forks, 4000, "ms"),
        Bar("create at the last level of a row of snapshots", kept.deep, 1.5, "x"),
        Bar("suspend, the disk", kept.suspend, 2000, "ms"),
        Bar("suspend, 200 MB of memory", kept.suspend_memory, 2000, "ms"),
        Bar("resume, 200 MB of memory", kept.resume_memory, 1500, "ms"),
        Bar("resume, the disk", kept.resume, 1500, "ms"),
    ]
    assert corral.builds
    built = corral.builds
    listed += [
        Bar("unchanged rebuild", built.unchanged, 2000, "ms"),
        Bar("unchanged rebuild beside docker build", built.unchanged / built.docker_unchanged, 1.0, "x"),
    ]
    docker = by_name.get("docker")
    if docker and docker.first_output:
        ratio = docker.first_output.p50 / corral.first_output.p50
        listed.append(Bar("create to first output, p50: faster than docker", ratio, 8, "x", at_least=True))
    return listed


def show(found: list[Figures], console: Console) -> None:
    """Print the series and the bars."""
    table = Table(title="Milliseconds: p50 / p95 / p99 / max, raw", title_justify="left")
    for heading in (
        "system",
        "create → first output",
        "execute true",
        f"{CLIENTS} callers, /s",
        "at once: create → node -v",
        "wall",
        "ok",
        "score",
    ):
        table.add_column(heading, justify="left" if heading == "system" else "right")
    for figures in found:
        throughput = f"{figures.throughput:.0f}"
        cells = (_series(figures.first_output), _series(figures.execute), throughput, _series(figures.burst))
        score = f"{figures.burst_score:.1f}"
        table.add_row(figures.name, *cells, f"{figures.burst_wall_ms:.0f}", figures.burst_ok, score)
    console.print(table)
    console.print(f"corral: create of a prepared box: {_series(found[0].warm_claim)}")
    built = found[0].builds
    assert built
    console.print(
        f"corral: builds: first {built.first:.0f} ms, unchanged {built.unchanged:.0f}, another last step "
        f"{built.last_step:.0f}; docker's: {built.docker_unchanged:.0f}, {built.docker_last_step:.0f}"
    )
    promised = Table(title="Bars", title_justify="left")
    for heading in ("what", "measured", "bar", ""):
        promised.add_column(heading, justify="left" if heading == "what" else "right")
    for bar in bars(found):
        sign = "≥" if bar.at_least else "≤"
        promised.add_row(
            bar.what, f"{bar.value:.2f} {bar.unit}", f"{sign} {bar.limit:g}", "met" if bar.met else "MISSED"
        )
    console.print(promised)


def _series(summary: stats.Summary | None) -> str:
    if summary is None:
        return "none"
    return f"{summary.p50:.1f} / {summary.p95:.1f} / {summary.p99:.1f} / {summary.max:.1f}"


def _document(found: list[Figures]) -> dict[str, Any]:
    host = {"kernel": platform.release(), "cpus": os.cpu_count()}
    return {"host": host, "systems": [asdict(figures) for figures in found], "bars": [asdict(b) for b in bars(found)]}


def main() -> int:
    """Measure, print, write bench-results/last.json; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure Corral beside crun and Docker")
    parser.add_argument("--quick", action="store_true", help="a small run: does it work, not how fast is it")
    arguments = parser.parse_args()
    console = Console(width=160 if not sys.stdout.isatty() else None)
    found = asyncio.run(run(QUICK if arguments.quick else Size(), console))
    show(found, console)
    results = Path("bench-results")
    results.mkdir(exist_ok=True)
    (results / "last.json").write_text(json.dumps(_document(found), indent=2))
    return 0 if arguments.quick or all(bar.met for bar in bars(found)) else 1


sys.exit(main())
