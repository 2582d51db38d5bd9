"""What makes blueprints follow their builds, and gives up the images of deleted ones.

Owns the loop. Level-triggered: a step looks at the row and at the build, whatever has happened before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import sqlalchemy as sa

from corral.core import errors, events, log
from corral.core.clock import Clock
from corral.core.reconcile import Reconciler, rounds
from corral.core.store.store import Store
from corral.devboxes.service import Devboxes
from corral.images import snapshot_rows
from corral.images.blueprints import rows, service
from corral.images.blueprints.model import ENDED, Blueprint, BlueprintState, BlueprintStatus
from corral.images.blueprints.service import Builds, Contexts
from corral.images.builds.model import BuildFailure, FailureReason

#: In a transaction: where a blueprint is at this time in Unix milliseconds.
Look = Callable[[sa.Connection, Blueprint, int], rows.Standing]

#: Events after which a blueprint is looked at, by the beginnings of their kinds.
_HEARD: Final = ("build.", "object.", "blueprint.deleted", "blueprint.queued")


class BlueprintController:
    """`run` until cancelled. It hears of builds through the feed, so make it before the first request."""

    def __init__(
        self,
        store: Store,
        feed: events.Feed,
        builds: Builds,
        contexts: Contexts,
        devboxes: Devboxes,
        *,
        clock: Clock,
        resync_s: float,
    ) -> None:
        """`resync_s` is between two looks at everything that is not done."""
        self._store = store
        self._builds = builds
        self._contexts = contexts
        self._devboxes = devboxes
        self._clock = clock
        self._resync_s = resync_s
        self._log = log.get("images.blueprints")
        self._keys = Reconciler(self._step, clock=clock, part="images.blueprints")
        feed.listen(self._heard)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keys.run(), name="reconcile blueprints")
            looks = rounds(self.resync, every_s=self._resync_s, clock=self._clock, part="images.blueprints")
            group.create_task(looks, name="look at blueprints")

    async def resync(self) -> None:
        """Look at every blueprint that is not done with."""
        for blueprint_id in await self._store.read(rows.to_do):
            self._keys.poke(blueprint_id)

    def _heard(self, event: events.Event) -> None:
        if event.kind.startswith(_HEARD):
            self._keys.poke(event.subject)

    async def _step(self, subject: str) -> float | None:
        """Look at a blueprint, or at all blueprints of a build or object."""

        def find(connection: sa.Connection) -> list[Blueprint]:
            found = (rows.find(connection, each) for each in [subject, *rows.concerned(connection, subject)])
            return [blueprint for blueprint in found if blueprint is not None]

        for blueprint in await self._store.read(find):
            if blueprint.status not in ENDED:
                await self._follow(blueprint)
            elif blueprint.state is BlueprintState.DELETED:
                await self._store.write(partial(self._give_up, blueprint=blueprint))
        return None

    async def _follow(self, blueprint: Blueprint) -> None:
        """Move it to where its build is; request that once the context is there."""
        look: Look = self._end if blueprint.state is BlueprintState.DELETED else self._now
        if blueprint.state is BlueprintState.CREATED and blueprint.build_id is None:
            look = await self._prepare(blueprint)

        def change(connection: sa.Connection) -> rows.Standing | None:
            at_ms = self._clock.now_ms()
            now = look(connection, blueprint, at_ms)
            same = now.status is blueprint.status and now.build_id == blueprint.build_id
            return now if not same and rows.move(connection, blueprint, now, at_ms) else None

        if (moved := await self._store.write(change)) is not None:
            self._log.info("blueprint", blueprint=blueprint.id, status=moved.status.value)

    async def _prepare(self, blueprint: Blueprint) -> Look:
        """What to do about one that has no build yet: wait for its context, or request the build, or give up."""
        account_id, wish, context = blueprint.account_id, blueprint.wish, None
        try:
            if wish.context_id is not None:
                if not await self._contexts.is_whole(account_id, wish.context_id):
                    return lambda _connection, _blueprint, _at_ms: rows.Standing(BlueprintStatus.AWAITING_UPLOAD)
                context = await self._contexts.read(account_id, wish.context_id)
        except errors.CorralError as problem:
            message = problem.message
            return lambda _connection, _blueprint, at_ms: _failed(message, at_ms, None)

        def request(connection: sa.Connection, _blueprint: Blueprint, at_ms: int) -> rows.Standing:
            try:
                return service.begin(connection, self._builds, account_id, blueprint.id, wish, context, at_ms)
            except errors.CorralError as problem:
                return _failed(problem.message, at_ms, None)

        return request

    def _now(self, connection: sa.Connection, blueprint: Blueprint, at_ms: int) -> rows.Standing:
        build = self._builds.get(connection, blueprint.account_id, blueprint.build_id or "")
        return service.standing(build, at_ms)

    def _end(self, connection: sa.Connection, blueprint: Blueprint, at_ms: int) -> rows.Standing:
        """It was deleted: nobody can use what its build would make."""
        if blueprint.build_id is not None:
            self._builds.release(connection, blueprint.account_id, blueprint.build_id, blueprint.id)
        return _failed("it was deleted before it was built", at_ms, blueprint.build_id)

    def _give_up(self, connection: sa.Connection, *, blueprint: Blueprint) -> None:
        """Once nothing stands on its image: no devbox, no snapshot, no build."""
        if (
            self._devboxes.of_blueprint(connection, blueprint.id)
            or snapshot_rows.of_blueprint(connection, blueprint.id, passing=True)
            or rows.is_base(connection, blueprint.id)
        ):
            return
        if blueprint.build_id is not None:
            self._builds.release(connection, blueprint.account_id, blueprint.build_id, blueprint.id)
        rows.given_up(connection, blueprint.id)


def _failed(message: str, at_ms: int, build_id: str | None) -> rows.Standing:
    failure = BuildFailure(FailureReason.BUILD_FAILED, message)
    return rows.Standing(BlueprintStatus.FAILED, build_id=build_id, failure=failure, finished_at_ms=at_ms)
