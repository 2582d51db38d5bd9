"""Store, services and controller as a server has them, without HTTP, on the fake runtime.

Owns their wiring, and two ends: `stop` as SIGTERM does it, `crash` as kill -9 does it to everything in memory.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from corral.core import events
from corral.core.clock import Clock, SystemClock
from corral.core.ids import Ids
from corral.core.settings import Durability
from corral.core.store import engine, migrate
from corral.core.store.store import Store
from corral.daemon.machine import NoImages
from corral.devboxes import deadlines, service
from corral.devboxes.controller import Controller
from corral.devboxes.followers import Followers
from corral.devboxes.lifecycle import Lifecycle, Rules
from corral.devboxes.model import Devbox, DevboxRequest, Execution, ExecutionStatus, Observed
from corral.devboxes.pulse import Pace
from corral.devboxes.vitals import Vitals
from corral.images.blueprints.service import BlueprintRules
from corral.images.snapshot_controller import SnapshotController
from corral.images.snapshots import SnapshotRules, Snapshots
from corral.images.sources import Images, Sources
from corral.runtime.contract import MIB, Runtime, Stream
from corral.runtime.fake import FakeHost, FakeRuntime
from corral.storage.controller import ObjectController
from corral.storage.service import Objects, Places, Tokens, load_key, load_node, open_store

ACCOUNT = "acc_test"
COMPLETED = frozenset({ExecutionStatus.COMPLETED})
ENDS = frozenset({Observed.SHUTDOWN, Observed.FAILURE})

RULES = Rules(limits=deadlines.Limits(30, 30), starts_at_once=8, stops_at_once=8)


@dataclass
class Stack:
    """One server on `folder` and `host`. `start` it; several may follow one another on the same two."""

    folder: Path
    host: FakeHost
    clock: Clock = field(default_factory=SystemClock)
    rules: Rules = RULES
    images: Images = field(default_factory=NoImages)
    resync_s: float = 0.3
    alerts_s: float = 5
    keep_output_s: float = 3600
    object_limit: int = 64 * MIB
    pace: Pace = field(default_factory=Pace)
    store_class: type[Store] = Store
    runtime_class: type[FakeRuntime] = FakeRuntime
    runtime: Runtime = field(init=False)

    async def start(self, *, control: bool = True) -> Stack:
        """Start as the daemon does; without the controller when `control` is false."""
        database = engine.open_sqlite(self.folder / "corral.db", Durability.CRASH)
        await asyncio.to_thread(migrate.upgrade, database)
        self.feed = events.Feed()
        self.store = self.store_class(database, self.feed)
        self.runtime = self.runtime_class(self.host)
        await self.runtime.start()
        ids, self.vitals = Ids(self.clock), Vitals(self.clock)
        self.followers = Followers(self.store, self.runtime, self.vitals, clock=self.clock, ids=ids, output_limit=MIB)
        await self.followers.resume()
        sources = Sources(self.store, self.images)
        self.contents = open_store(str(self.folder / "objects"))
        places = Places(load_node(self.folder, ids))
        tokens = Tokens(load_key(self.folder, ids), self.clock)
        self.objects = Objects(
            self.store, self.contents, places, tokens, clock=self.clock, ids=ids, limit=self.object_limit
        )
        self.keeper = ObjectController(self.store, self.feed, self.contents, places, clock=self.clock)
        await self.keeper.open()
        lifecycle = Lifecycle(
            self.store, self.runtime, sources, self.followers, self.vitals,
            objects=self.objects, clock=self.clock, rules=self.rules,
        )  # fmt: skip
        self.controller = Controller(
            self.store, self.feed, self.runtime, lifecycle, self.vitals, alerts_s=self.alerts_s,
            clock=self.clock, resync_s=self.resync_s, keep_output_s=self.keep_output_s, pace=self.pace,
        )  # fmt: skip
        self.executions = service.Executions(self.store, self.runtime, self.followers, self.vitals, self.clock)
        self.calls = service.FileCalls(self.store, self.clock)
        self.files = service.Files(self.store, self.runtime, self.vitals, self.calls)
        self.tails = service.LogTails(
            self.store, self.feed, self.runtime, self.executions, self.followers, self.calls, clock=self.clock
        )
        rules = SnapshotRules(self.images, clock=self.clock, ids=ids)
        self.devboxes = service.Devboxes(
            self.store,
            self.feed,
            self.runtime,
            self.executions,
            self.vitals,
            rules,
            BlueprintRules(),
            self.objects,
            clock=self.clock,
            ids=ids,
        )
        self.snapshots = Snapshots(self.store, self.feed, self.devboxes, rules, clock=self.clock)
        self.copies = SnapshotController(
            self.store, self.feed, self.runtime, self.devboxes, clock=self.clock, at_once=4
        )
        self._tasks = [
            asyncio.ensure_future(each.run()) for each in (self.controller, self.copies, self.keeper) if control
        ]
        return self

    async def stop(self) -> None:
        """End as the daemon does."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.followers.close()
        await self.runtime.close()
        await self.store.close()

    async def again(self, **changes: Any) -> Stack:
        """Stop, and start another server in its place."""
        await self.stop()
        return await replace(self, **changes).start()

    # -- shorthand

    async def running(self, **request: Any) -> str:
        """The id of a new devbox that runs."""
        devbox = await self.devboxes.create(ACCOUNT, DevboxRequest(**request))
        return (await self.reaches(devbox.id, Observed.RUNNING)).id

    async def reaches(self, devbox_id: str, *statuses: Observed, within_s: float = 10) -> Devbox:
        """The devbox once it is in one of these states."""
        return await self.devboxes.wait(ACCOUNT, devbox_id, frozenset(statuses), within_s)

    async def ends(self, devbox_id: str, within_s: float = 10) -> Devbox:
        """The devbox once it has ended."""
        return await self.reaches(devbox_id, *ENDS, within_s=within_s)

    async def run(self, devbox_id: str, command: str, **options: Any) -> Execution:
        """A command that has ended."""
        execution = await self.executions.start(ACCOUNT, devbox_id, command, **options)
        return await self.completed(execution)

    async def completed(self, execution: Execution, within_s: float = 10) -> Execution:
        """The execution once it has ended."""
        return await self.executions.wait(ACCOUNT, execution.devbox_id, execution.id, COMPLETED, within_s)

    def stdout(self, execution: Execution, lines: int = 1000) -> str:
        """The last lines of standard output."""
        return self.executions.tail(execution, Stream.STDOUT, lines)[0]

    async def events(self, subject: str) -> list[str]:
        """Kinds of the subject's events, in order."""
        found = await self.store.read(lambda connection: events.after(connection, 0, subject=subject))
        return [event.kind for event in found]

    async def boxes(self) -> set[str]:
        """Ids of the boxes on the host."""
        return {box.id for box in await self.runtime.boxes()}

    async def until(self, holds: Any, within_s: float = 10) -> None:
        """Return once `holds()` is true; a coroutine function may be given."""
        async with asyncio.timeout(within_s):
            while True:
                found = holds()
                if await found if asyncio.iscoroutine(found) else found:
                    return
                await asyncio.sleep(0.01)

    async def sql(self, statement: str, **values: Any) -> None:
        """Change the database behind the services' back."""
        await self.store.write(lambda connection: connection.execute(sa.text(statement), values))
