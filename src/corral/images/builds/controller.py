"""Carries builds out: a devbox for each, what goes in, the program, what comes out, the disk for the next one.

Owns every change of a build that no caller asks for. Level-triggered: a step looks at the row and at the devbox, not
at what an earlier step did, so that it can be cut off and repeated anywhere.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from corral.core import errors, events, log
from corral.core.clock import Clock
from corral.core.reconcile import Reconciler, rounds
from corral.core.store.store import Store
from corral.devboxes.model import ENDED as DEVBOX_ENDED
from corral.devboxes.model import Devbox, Execution, Reason
from corral.images.builds import log as logs
from corral.images.builds import rows, verdict
from corral.images.builds.disks import Disks
from corral.images.builds.furnish import Furnisher
from corral.images.builds.harvest import Harvester, image_name
from corral.images.builds.model import ENDED, BuildFailure, BuildStatus, ImageConfig
from corral.images.builds.tables import Job
from corral.images.builds.workshop import BUILD, CLEAN, Workshop, running

#: Seconds between two looks at all builds that are not done with.
_RESYNC_S: Final = 30.0
#: Seconds between two looks at a copy that is being made of a disk.
_COPY_S: Final = 0.05
#: Seconds that the program may take to tidy its disk; one that it cannot tidy is not kept.
_CLEAN_S: Final = 120.0
#: Devboxes that one build may lose for no fault of its own.
_ATTEMPTS: Final = 3
#: Images that are lent to a devbox.
_MOST_LENT: Final = 16

#: Ends of a devbox that say nothing of what was built in it.
_INNOCENT: Final = frozenset({Reason.HOST_RESTARTED, Reason.LOST, Reason.KILLED, Reason.API_SHUTDOWN})


class BuildController:
    """`run` until cancelled. It hears of new wishes through the feed, so make it before the first request."""

    def __init__(
        self,
        store: Store,
        feed: events.Feed,
        workshop: Workshop,
        furnisher: Furnisher,
        harvester: Harvester,
        disks: Disks,
        look_again: Callable[[Job], Awaitable[bool]],
        *,
        clock: Clock,
        at_once: int,
        scratch: Path,
    ) -> None:
        """`look_again` says whether a build is upon other images from now on. `scratch` is a folder of the host for
        what goes into devboxes and comes out; it is this controller's.
        """
        self._store = store
        self._workshop = workshop
        self._furnisher = furnisher
        self._harvester = harvester
        self._disks = disks
        self._look_again = look_again
        self._clock = clock
        self._at_once = at_once
        self._scratch = scratch
        self._keys = Reconciler(self._step, clock=clock, part="images.builds")
        self._log = log.get("images.builds")
        self._of_devbox: dict[str, str] = {}
        feed.listen(self._heard)

    async def run(self) -> None:
        """Work until cancelled."""
        await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)  # what a killed server left
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keys.run(), name="reconcile builds")
            looks = rounds(self.resync, every_s=_RESYNC_S, clock=self._clock, part="images.builds")
            group.create_task(looks, name="look at builds")

    async def resync(self) -> None:
        """Look at every build that is not done with, the oldest first."""
        for build_id in await self._store.read(rows.to_do):
            self._keys.poke(build_id)

    def _heard(self, event: events.Event) -> None:
        if event.kind == "build.released":
            self._keys.interrupt(event.subject)
        elif event.kind in {"build.queued", "build.build_complete", "build.failed"}:
            self._keys.poke(event.subject)
        elif (build_id := self._of_devbox.get(event.subject)) is not None:
            self._keys.poke(build_id)

    async def _step(self, build_id: str) -> float | None:
        def look(connection: sa.Connection) -> tuple[Job | None, bool]:
            return rows.find(connection, build_id), rows.is_wanted(connection, build_id)

        job, wanted = await self._store.read(look)
        if job is None or job.cleared:
            return None
        if job.build.status in ENDED:
            return await self._clear(job, wanted=wanted)
        if not wanted:
            return await self._fail(job, verdict.unwanted())
        if job.build.status is BuildStatus.QUEUED:
            return await self._begin(job)
        return await self._go_on(job)

    # -- towards the end of its devbox

    async def _clear(self, job: Job, *, wanted: bool) -> float | None:
        """It has ended: nothing of it stays on the host but a complete and wanted image."""
        await self._workshop.close(job)
        if not (wanted and job.build.status is BuildStatus.COMPLETE):
            self._harvester.drop(job.build.id)
        if not await self._store.write(lambda connection: rows.cleared(connection, job.build.id, wanted=wanted)):
            return 0
        self._of_devbox.pop(job.devbox_id or "", None)
        waiting = await self._store.read(rows.queued)
        if waiting is not None:
            self._keys.poke(waiting)
        return None

    # -- towards its end

    async def _begin(self, job: Job) -> float | None:
        """Ask for its devbox, which begins as the disk of an earlier build if one is kept."""
        if await self._store.read(rows.under_way) >= self._at_once:
            return None  # the end of another one will tell
        if await self._look_again(job):
            return 0
        latest = await self._disks.latest(job.build.account_id) if job.attempt == 1 else None
        begun = False

        def record(connection: sa.Connection, devbox: Devbox) -> None:
            nonlocal begun
            if rows.under_way(connection) >= self._at_once:
                raise errors.Conflict(f"cannot begin build {job.build.id}: others are under way")
            begun = rows.begin(connection, job.build.id, devbox.id, latest, self._clock.now_ms())
            if not begun:
                raise errors.Conflict(f"cannot begin build {job.build.id}: it was begun already")

        try:
            devbox = await self._workshop.open(job, latest, await self._lent(job, latest), record)
        except errors.Conflict:
            return None
        except (errors.NotFound, errors.WrongState):
            return _COPY_S  # the disk was replaced by a later one in between
        self._of_devbox[devbox.id] = job.build.id
        return _COPY_S

    async def _lent(self, job: Job, latest: str | None) -> list[str]:
        """Images that its devbox can read: its bases, and those that the disk which it begins as has layers on."""
        own = [image for image, _ in job.bases.values()]
        others = await self._disks.bases(job.build.account_id) if latest is not None else []
        return list(dict.fromkeys((*own, *others)))[:_MOST_LENT]

    async def _go_on(self, job: Job) -> float | None:
        devbox = await self._workshop.look(job)
        if devbox is None:
            return await self._fail(job, verdict.lost("it has no devbox"))
        self._of_devbox[devbox.id] = job.build.id
        if devbox.observed in DEVBOX_ENDED:
            return await self._bereft(job, devbox)
        if job.outcome is not None:
            return await self._finish(job, job.outcome)
        if not running(devbox):
            return None
        execution = await self._workshop.find(job, BUILD)
        if execution is None:
            return await self._start(job)
        if execution.ended_at_ms is None:
            left = self._workshop.overdue_s(job, execution)
            if left > 0:
                return left
            await self._workshop.kill(job, execution)
            return 1.0
        return await self._conclude(job, execution)

    async def _start(self, job: Job) -> float | None:
        """Put everything into the devbox and have the program begin."""
        origin = job.begins_as
        before = None
        if origin is not None:
            before = await self._store.read(lambda connection: rows.image_of_disk(connection, origin))
        try:
            known = await self._furnisher.furnish(job, before)
            at_ms = self._clock.now_ms()
            await self._store.write(lambda connection: rows.building(connection, job.build.id, known, at_ms))
            await self._workshop.start(job, BUILD)
        except (errors.NotFound, errors.Invalid, errors.NotOffered, errors.TooLarge) as problem:
            return await self._settle(job, verdict.not_furnished(problem))
        return self._workshop.seconds(job)

    async def _bereft(self, job: Job, devbox: Devbox) -> float | None:
        """Its devbox has ended before it."""
        spoiled = job.begins_as is not None and devbox.reason is Reason.START_FAILED
        if (devbox.reason in _INNOCENT or spoiled) and job.attempt < _ATTEMPTS:
            self._log.warning("build begun anew", build=job.build.id, reason=devbox.reason.value)
            at_ms = self._clock.now_ms()
            await self._store.write(lambda connection: rows.again(connection, job, at_ms))
            return 0
        return await self._fail(job, verdict.bereft(devbox, logs.reached(await self._workshop.spool(job))))

    async def _conclude(self, job: Job, execution: Execution) -> float | None:
        """The program has ended: take out what it made."""
        result = await self._harvester.result(job)
        if result is not None and result.stage == "base" and job.begins_as is not None and job.attempt < _ATTEMPTS:
            # The disk says that it has what it has not.
            await self._workshop.close(job)
            await self._store.write(lambda connection: rows.again(connection, job, self._clock.now_ms()))
            return 0
        if result is None or not result.ok:
            usage = await self._workshop.usage(job)
            reached = logs.reached(await self._workshop.spool(job))
            seconds = self._workshop.seconds(job)
            return await self._settle(job, verdict.failed(result, execution, reached, usage, seconds))
        try:
            limits = job.plan.limits or self._workshop.terms.limits
            config = await self._harvester.take(job, job.known, limits.disk)
        except (errors.Invalid, errors.TooLarge, errors.NotFound) as problem:
            return await self._settle(job, verdict.bad_image(problem))
        return await self._settle(job, config)

    async def _settle(self, job: Job, outcome: ImageConfig | BuildFailure) -> float | None:
        await self._store.write(lambda connection: rows.settle(connection, job.build.id, outcome))
        return 0

    async def _finish(self, job: Job, outcome: ImageConfig | BuildFailure) -> float | None:
        """Keep the disk for the next build, then record how this one ended."""
        if not await self._disk_is_kept(job):
            return _COPY_S
        if isinstance(outcome, BuildFailure):
            return await self._fail(job, outcome)
        packed = await asyncio.to_thread(logs.pack, await self._workshop.lines(job))
        build_id, image, at_ms = job.build.id, image_name(job.build.id), self._clock.now_ms()
        await self._store.write(lambda connection: rows.complete(connection, build_id, image, packed, at_ms))
        return None

    async def _disk_is_kept(self, job: Job) -> bool:
        """Whether it is, or will not be."""
        if job.kept_as is not None:
            return await self._disks.kept(job)
        try:
            cleaned = await self._clean(job)
            return not (cleaned is None or (cleaned and await self._disks.keep(job)))
        except (errors.WrongState, errors.Exhausted, errors.Unavailable) as problem:
            # Its devbox has ended, or cannot run a command more: there is no disk to keep.
            self._log.warning("disk of build not kept", build=job.build.id, error=problem.message)
            return True

    async def _clean(self, job: Job) -> bool | None:
        """Whether the disk is tidy now; None while that is being done."""
        execution = await self._workshop.find(job, CLEAN)
        if execution is None:
            execution = await self._workshop.start(job, CLEAN)
        if execution.ended_at_ms is not None:
            return execution.exit_code == 0
        if self._clock.now_ms() - execution.created_at_ms > _CLEAN_S * 1000:
            return False
        return None

    async def _fail(self, job: Job, failure: BuildFailure) -> float | None:
        """Record why there is no image."""
        packed = await asyncio.to_thread(logs.pack, await self._workshop.lines(job))
        at_ms = self._clock.now_ms()
        await self._store.write(lambda connection: rows.fail(connection, job.build.id, failure, packed, at_ms))
        return None
