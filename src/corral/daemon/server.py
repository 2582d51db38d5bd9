"""One server: all of its parts, in the order in which they start; they stop in the reverse order.

Owns the process: signals and the exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

import sqlalchemy as sa
import uvloop

from corral.api import app
from corral.api.gate import Gate
from corral.core import errors, events, log
from corral.core.clock import SystemClock
from corral.core.settings import Settings
from corral.core.store.store import Store
from corral.core.tasks import TaskOwner
from corral.daemon import base as bases
from corral.daemon import builds, copies, devboxes, health, listeners, storage
from corral.daemon import machine as machines
from corral.daemon.base import Base
from corral.daemon.copies import Copies
from corral.daemon.devboxes import DevboxParts
from corral.daemon.machine import Machine
from corral.daemon.storage import Storage
from corral.devboxes.service import SshKeys
from corral.identity.service import Identity
from corral.images.blueprints.service import Blueprints
from corral.images.builds.controller import BuildController
from corral.images.builds.furnish import Contexts, StoredContexts
from corral.images.builds.service import Builds
from corral.runtime.contract import HostUnfit


def main(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. Standard error tells what the host lacks."""
    log.configure(format=settings.log_format, level=settings.log_level)
    try:
        return uvloop.run(Daemon(settings).run())
    except (errors.CorralError, HostUnfit) as problem:
        sys.stderr.write(f"corral: {problem.message}{health.remedy(problem)}\n")
        return 1


class Loop(Protocol):
    """What works until it is cancelled."""

    async def run(self) -> None:
        """Never returns."""


class Daemon:
    """One server. `make_…` are separate so that tests can put their own part in the place of one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = SystemClock()
        self._log = log.get("daemon")
        self._stop = asyncio.Event()

    # -- parts

    def make_store(self, database: sa.Engine, feed: events.Feed) -> Store:
        """The store on a migrated database."""
        return Store(database, feed, readers=self.settings.store_readers)

    def make_contexts(self, storage: Storage) -> Contexts:
        """Where the files of builds come from."""
        return StoredContexts(storage.objects)

    def make_builds(
        self, base: Base, machine: Machine, storage: Storage, boxes: DevboxParts, copied: Copies
    ) -> tuple[Builds, BuildController]:
        """Builds, and what carries them out, not running."""
        return builds.make(base, machine, boxes, copied, self.make_contexts(storage))

    # -- life

    async def run(self) -> int:
        """Start, serve until told to stop, stop. Raises what prevents the start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with contextlib.AsyncExitStack() as undo:
            ends = await self._start(undo)
            stop = asyncio.ensure_future(self._stop.wait())
            undo.callback(stop.cancel)
            await asyncio.wait([stop, *ends], return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                if end.done():
                    self._log.error("part ended by itself", part=end.get_name(), exc_info=end.exception())
                    return 1
            self._log.info("stopping")
        return 0

    async def _start(self, undo: contextlib.AsyncExitStack) -> Sequence[asyncio.Task[None]]:
        """Start every part, each with its undo; return the tasks that must not end before the server does."""
        base = await bases.start(self.settings, self.clock, undo, self.make_store)
        machine = machines.make(self.settings, self.clock, undo)
        await machines.start(machine, undo)
        identity = Identity(base.store, base.clock, base.ids)
        key = await identity.ensure_first_key(self.settings.data / "api-key", self.settings.api_key)

        objects = storage.make(base)
        boxes = devboxes.make(base, machine, objects)
        copied = copies.make(base, machine, objects, boxes)
        built, builder = self.make_builds(base, machine, objects, boxes, copied)
        blueprints, follower = builds.make_blueprints(base, objects, boxes, built)

        undo.push_async_callback(boxes.followers.close)
        await boxes.followers.resume()
        await objects.controller.open()
        undo.push_async_callback(copied.leave)  # after all that makes boxes has ended
        owner = TaskOwner("daemon")
        undo.push_async_callback(owner.close)
        lasting: Mapping[str, Loop | None] = {
            "controller": boxes.controller,
            "snapshots": copied.controller,
            "remote copies": copied.sender,
            "objects": objects.controller,
            "builds": builder,
            "blueprints": follower,
        }
        running = [owner.spawn(part.run(), name=name) for name, part in lasting.items() if part is not None]
        undo.push_async_callback(boxes.controller.finish, self.settings.shutdown_grace_s)
        helping: Mapping[str, Loop | None] = {"sessions": boxes.sessions, "sweeper": copied.sweeper}
        for name, part in helping.items():
            if part is not None:  # should one of these fail, the server goes on
                owner.spawn(part.run(), name=name)
        keys = await listeners.start_ssh(base, boxes, undo)
        gate = self._gate(base, machine, identity, objects, boxes, copied, blueprints, keys)
        listener = await listeners.start_http(self.settings, gate, undo)
        self._greet(key)
        return [*running, owner.spawn(listener.wait(), name="listener")]

    def _gate(
        self,
        base: Base,
        machine: Machine,
        identity: Identity,
        objects: Storage,
        boxes: DevboxParts,
        copied: Copies,
        blueprints: Blueprints,
        keys: SshKeys,
    ) -> Gate:
        """The HTTP side of all parts."""
        return app.build(
            store=base.store,
            clock=base.clock,
            identity=identity,
            devboxes=boxes.devboxes,
            snapshots=copied.snapshots,
            blueprints=blueprints,
            tails=boxes.tails,
            executions=boxes.executions,
            objects=objects.objects,
            remote=copied.remote,
            files=boxes.files,
            sessions=boxes.sessions,
            tunnels=boxes.tunnels,
            ssh_keys=keys,
            health=health.Health(self.settings.data, base.store, machine).reasons,
            url=self.settings.public_url,
            architecture=machines.architecture(),
        )

    def _greet(self, key: str | None) -> None:
        listens = {"listen": self.settings.listen, "ssh": self.settings.ssh_listen or "off"}
        self._log.info("serving", **listens, data=str(self.settings.data))
        if key is not None:
            sys.stdout.write(f"first API key, shown once and kept in {self.settings.data}/api-key: {key}\n")
            sys.stdout.flush()
