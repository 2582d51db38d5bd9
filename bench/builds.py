"""What builds of blueprints cost on Corral, beside Docker's own in one of its boxes.

Takes a started server; returns milliseconds. Must not keep what it makes.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from dataclasses import dataclass

from bench.server import Corral

_PAUSE_S = 0.01
_STEPS = "RUN echo one > /one\nRUN echo two > /two\nRUN echo {last} > /last\n"
#: A base of two programs: what a cached build costs does not depend on it.
_BASE = "tar -ch -C / bin/sh bin/true lib64 lib/x86_64-linux-gnu/libc.so.6 | docker import - base:latest > /dev/null"


@dataclass(slots=True)
class Builds:
    """Milliseconds until the image is there."""

    first: float = 0.0
    unchanged: float = 0.0
    last_step: float = 0.0  #: the last step is another, the others are as they were
    docker_unchanged: float = 0.0
    docker_last_step: float = 0.0


async def measure(corral: Corral) -> Builds:
    """Both, one after the other, each with a Dockerfile of three steps."""
    found = Builds()
    base = "FROM debian-12\n" + _STEPS
    made = []
    for name, last in (("first", "a"), ("unchanged", "a"), ("last_step", "b")):
        took, blueprint = await _built(corral, base.format(last=last))
        setattr(found, name, took)
        made.append(blueprint)
    for blueprint in made:
        await corral.post(f"/v1/blueprints/{blueprint}/delete", {})
    await _docker(corral, found)
    return found


async def _built(corral: Corral, dockerfile: str) -> tuple[float, str]:
    start = time.perf_counter()
    view = await corral.post("/v1/blueprints", {"name": "bench", "dockerfile": dockerfile})
    while view["status"] not in {"build_complete", "failed"}:
        await asyncio.sleep(_PAUSE_S)
        view = await corral.get(f"/v1/blueprints/{view['id']}")
    took = (time.perf_counter() - start) * 1e3
    if view["status"] == "failed":
        lines = (await corral.get(f"/v1/blueprints/{view['id']}/logs"))["logs"]
        message = f"cannot build: {lines[-1]['message'] if lines else view}"
        raise RuntimeError(message)
    return took, str(view["id"])


async def _docker(corral: Corral, found: Builds) -> None:
    box = await corral.create(launch_parameters={"docker_in_docker": True, "resource_size_request": "MEDIUM"})
    await corral.run(box, _BASE)
    for name, last in (("", "a"), ("docker_unchanged", "a"), ("docker_last_step", "b")):
        text = shlex.quote("FROM base:latest\n" + _STEPS.format(last=last))
        start = time.perf_counter()
        await corral.run(box, f"printf %s {text} | docker build --quiet - > /dev/null")
        if name:
            setattr(found, name, (time.perf_counter() - start) * 1e3)
    await corral.destroy(box)
