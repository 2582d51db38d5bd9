"""A devbox's box, made from its source: the layers, the disk and the memory that it begins as.

Owns what the runtime is asked for, how many boxes are made at once, and that one whose memory cannot be brought back
begins as its disk alone, where its devbox allows that. Must not move the devbox to another state, nor judge a failure:
it says what was made, `lifecycle` acts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from corral.core import log
from corral.core.clock import Clock
from corral.devboxes import deadlines
from corral.devboxes.model import Devbox, Inheritance, KeepMemory, Memory
from corral.runtime.contract import Box, BoxExists, BoxGone, BoxSpec, BoxStatus, Layer, MemoryNotKept, Runtime

_MAX_HOSTNAME: Final = 63


class Source(Protocol):
    """What a box begins as."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """From the lowest to the highest."""

    @property
    def env(self) -> Mapping[str, str]:
        """Variables that every box of it gets, unless the devbox sets them."""

    @property
    def origin(self) -> str | None:
        """The snapshot that its disk begins as."""

    @property
    def lent(self) -> tuple[Layer, ...]:
        """Layers of other images that its processes can read."""

    @property
    def memory(self) -> Inheritance | None:
        """What is kept there of another devbox's memory; None where nobody asked for it."""


class Sources(Protocol):
    """Where boxes come from."""

    async def find(self, devbox: Devbox) -> Source | None:
        """What the devbox's box begins as; None while that is being copied.

        Raises errors.CorralError when it is not there, and will not be.
        """


@dataclass(frozen=True, slots=True)
class Made:
    """A devbox has its box. `restored` says that processes go on in it, with the devbox's own memory or its parent's.

    `memory` says what became of that; None where there was none. `executions` are those of the parent that go on in
    it: new ids, by the parent's.
    """

    restored: bool
    memory: Memory | None
    executions: Mapping[str, str]


class Provisioning:
    """One for each store. `at_once` boxes are made at a time, each in what is left of the limit for its state."""

    def __init__(self, runtime: Runtime, *, clock: Clock, limits: deadlines.Limits, at_once: int) -> None:
        self._runtime = runtime
        self._clock = clock
        self._limits = limits
        self._log = log.get("devboxes.provisioning")
        self._starts = asyncio.Semaphore(at_once)

    async def make(self, devbox: Devbox, source: Source) -> Made:
        """Make the box of a devbox in `provisioning`, or keep the one that was made before a restart.

        Raises RuntimeFailure, of which MemoryNotKept only where the disk alone is not allowed; TimeoutError.
        """
        memory, wanted, parents = devbox.memory, devbox.request.keep_memory, source.memory
        if parents is not None:
            memory, wanted = Memory(parents.kept, parents.message, parents.size, parents.launch), parents.wanted
        async with self._starts:
            try:
                box = await self._box(devbox, source, memory=memory is not None and memory.kept)
            except MemoryNotKept as problem:
                if memory is None or wanted is KeepMemory.ALWAYS:
                    raise
                self._log.warning("memory not brought back", devbox=devbox.id, message=problem.message)
                memory = replace(memory, kept=False, message=problem.message)
                box = await self._box(devbox, source, memory=False)
        if memory is not None and not box.restored:
            memory = replace(memory, kept=False, launch=None)
        executions = parents.executions_of(devbox.id) if parents is not None and box.restored else {}
        return Made(box.restored, memory, executions)

    async def _box(self, devbox: Devbox, source: Source, *, memory: bool) -> Box:
        spec = _spec(devbox, source, memory=memory)
        # Nobody is idle who has no box yet.
        due = deadlines.deadline(devbox, self._limits, now_ms=self._clock.now_ms(), idle_s=0)
        async with asyncio.timeout(max(1.0, due.left_s) if due is not None else None):
            try:
                return await self._runtime.create(spec)
            except BoxExists:
                with contextlib.suppress(BoxGone):
                    box = await self._runtime.inspect(devbox.id)
                    if box.status is BoxStatus.RUNNING:
                        return box
                await self._runtime.destroy(devbox.id)
                return await self._runtime.create(spec)


def _spec(devbox: Devbox, source: Source, *, memory: bool) -> BoxSpec:
    request = devbox.request
    return BoxSpec(
        id=devbox.id,
        layers=source.layers,
        hostname=devbox.id.replace("_", "-").lower()[:_MAX_HOSTNAME],
        limits=request.limits,
        user=request.user,
        env={**source.env, **request.env},
        origin=source.origin,
        nested=request.nested or request.docker_in_docker,
        lent=source.lent,
        memory=memory,
        executions=source.memory.executions_of(devbox.id) if memory and source.memory is not None else {},
    )
