"""What can be done with blueprints, and what devboxes and Dockerfiles ask about them.

Owns the wishes: a call writes a row, its event and the request of its build in one transaction and answers; the
controller follows the build.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import sqlalchemy as sa

from corral.core import errors, events
from corral.core.clock import Clock
from corral.core.ids import Ids
from corral.core.store.store import Store
from corral.devboxes.model import Origin
from corral.images import snapshot_rows
from corral.images.blueprints import recipes, render, rows, wire
from corral.images.blueprints.model import (
    ENDED,
    Blueprint,
    BlueprintPage,
    BlueprintState,
    BlueprintStatus,
    BlueprintWish,
)
from corral.images.builds.model import (
    Build,
    BuildContext,
    BuildFailure,
    BuildLine,
    BuildLogLevel,
    BuildPlan,
    BuildStatus,
    FailureReason,
)

Lines = list[BuildLine]
Texts = list[str]

#: Snapshots that a refusal names.
_NAMED: Final = 100

#: How often a waiter looks again even if nothing wakes it.
_LOOK_AGAIN_S: Final = 30.0


class Builds(Protocol):
    """See `corral.images.builds.service.Builds`."""

    def request(self, connection: sa.Connection, plan: BuildPlan) -> Build:
        """In the caller's transaction: the build of this plan, a new one or one that was requested before."""

    def release(self, connection: sa.Connection, account_id: str, build_id: str, wanted_by: str) -> None:
        """In the caller's transaction: `wanted_by` does not need the image any more. Idempotent."""

    def get(self, connection: sa.Connection, account_id: str, build_id: str) -> Build:
        """In the caller's transaction: the build as it is now."""

    async def logs(self, account_id: str, build_id: str, *, after: int = 0) -> Lines:
        """The lines that follow the one of this number, oldest first."""


class Contexts(Protocol):
    """Objects that Dockerfiles copy from. The calls raise errors.CorralError for what is, and will be, no object."""

    async def is_whole(self, account_id: str, object_id: str) -> bool:
        """Whether it can be read; false while it is being uploaded."""

    async def read(self, account_id: str, object_id: str) -> BuildContext:
        """The object, with the digest of its content: reads all of it."""


class BlueprintRules:
    """What devboxes and builds ask in their own transactions."""

    def by_id(self, connection: sa.Connection, account_id: str, blueprint_id: str) -> Origin:
        """The account's blueprint. Raises errors.Invalid unless devboxes can begin as it."""
        return _origin(_usable(connection, account_id, blueprint_id, "create devbox: blueprint_id"))

    def by_name(self, connection: sa.Connection, account_id: str, name: str) -> Origin:
        """Of the account's blueprints of this name the latest one that was built. Raises errors.Invalid."""
        blueprint = rows.latest_built(connection, account_id, name)
        if blueprint is None:
            raise _none_built(name, "create devbox: blueprint_name")
        return _origin(blueprint)

    def base(self, connection: sa.Connection, account_id: str, name: str) -> str | None:
        """The image that the account's Dockerfiles mean by this name, if it is of one of its blueprints.

        Either as `render.base_name` has it, or the name of a blueprint: the latest one that was built.
        """
        blueprint_id = render.blueprint_in(name)
        if blueprint_id is None:
            found = rows.latest_built(connection, account_id, name.removesuffix(":latest"))
            return found.image if found is not None else None
        found = rows.find(connection, blueprint_id)
        # A deleted one is found as well: another that is being built on it has begun before.
        return found.image if found is not None and found.account_id == account_id else None


class Blueprints:
    """See the methods. All raise errors.NotFound for what is not the account's."""

    def __init__(
        self,
        store: Store,
        feed: events.Feed,
        builds: Builds,
        contexts: Contexts,
        *,
        clock: Clock,
        ids: Ids,
        architecture: str,
    ) -> None:
        self._store = store
        self._feed = feed
        self._builds = builds
        self._contexts = contexts
        self._clock = clock
        self._ids = ids
        self._architecture = architecture

    async def create(
        self,
        account_id: str,
        body: wire.BlueprintBody,
        *,
        also: Callable[[sa.Connection, Blueprint], None] | None = None,
    ) -> Blueprint:
        """Record the wish for a blueprint and its build, and return it. `also` is called in the same transaction.

        Raises errors.Invalid with the field and the rule, errors.NotOffered with the field.
        """
        blueprint_id = self._ids.new("bpt")
        waits = await self._waits(account_id, body)

        def insert(connection: sa.Connection) -> Blueprint:
            wish = self._wish(connection, account_id, body)
            at_ms = self._clock.now_ms()
            standing = waits or begin(connection, self._builds, account_id, blueprint_id, wish, None, at_ms)
            blueprint = rows.insert(connection, blueprint_id, account_id, wish, standing, at_ms)
            if also is not None:
                also(connection, blueprint)
            return blueprint

        return await self._store.write(insert)

    async def preview(self, account_id: str, body: wire.BlueprintBody) -> str:
        """The Dockerfile that `create` would build. Raises what it would raise."""
        return await self._store.read(lambda connection: self._wish(connection, account_id, body).dockerfile)

    async def get(self, account_id: str, blueprint_id: str) -> Blueprint:
        """The blueprint as it is now, a deleted one as well."""
        return await self._store.read(lambda connection: rows.get(connection, account_id, blueprint_id))

    async def list(
        self,
        account_id: str,
        *,
        name: str | None = None,
        status: BlueprintStatus | None = None,
        limit: int = 20,
        starting_after: str | None = None,
        count: bool = True,
    ) -> BlueprintPage:
        """The account's blueprints that are not deleted, newest first; see `Devboxes.list`."""
        return await self._store.read(
            lambda connection: rows.page(
                connection,
                account_id,
                name=name,
                status=status,
                limit=limit,
                starting_after=starting_after,
                count=count,
            )
        )

    async def wait(self, account_id: str, blueprint_id: str, timeout_s: float) -> Blueprint:
        """Return the blueprint once its build has ended. Raises errors.TimedOut after `timeout_s` seconds."""
        deadline = self._clock.monotonic() + timeout_s
        with self._feed.watch(blueprint_id) as wake:
            while True:
                seen = wake.fires
                blueprint = await self.get(account_id, blueprint_id)
                if blueprint.status in ENDED:
                    return blueprint
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    raise errors.TimedOut(
                        f"cannot wait longer for blueprint {blueprint_id}: it is {blueprint.status.value}"
                    )
                await wake.wait(min(left, _LOOK_AGAIN_S), since=seen)

    async def delete(self, account_id: str, blueprint_id: str) -> None:
        """Nobody begins as it any more; its image goes once no devbox needs it. Idempotent.

        Raises errors.WrongState while there are snapshots of devboxes that began as it.
        """

        def change(connection: sa.Connection) -> None:
            blueprint = rows.get(connection, account_id, blueprint_id)
            above = snapshot_rows.of_blueprint(connection, blueprint_id, passing=False)
            if blueprint.state is BlueprintState.CREATED and above:
                more = f" and {len(above) - _NAMED} more" if len(above) > _NAMED else ""
                raise errors.WrongState(
                    f"cannot delete blueprint {blueprint_id}: it has dependent snapshots that must be deleted first: "
                    f"{', '.join(above[:_NAMED])}{more}"
                )
            rows.delete(connection, blueprint, self._clock.now_ms())

        await self._store.write(change)

    async def logs(self, account_id: str, blueprint_id: str, *, after: int = 0) -> Lines:
        """The lines of its build's log that follow the one of this number, oldest first."""
        blueprint = await self.get(account_id, blueprint_id)
        lines: Lines = []
        if blueprint.build_id is not None:
            lines = await self._builds.logs(account_id, blueprint.build_id, after=after)
        if blueprint.failure is not None and not lines and after == 0:  # it failed before anything was built
            at_ms = blueprint.finished_at_ms or blueprint.created_at_ms
            lines = [BuildLine(1, BuildLogLevel.ERROR, at_ms, blueprint.failure.message)]
        return lines

    async def metadata_keys(self, account_id: str) -> Texts:
        """Metadata keys of the account's blueprints, deleted ones too, in order."""
        return await self._store.read(lambda connection: rows.metadata_keys(connection, account_id))

    async def metadata_values(self, account_id: str, key: str) -> Texts:
        """Values of a metadata key of the account's blueprints, in order."""
        return await self._store.read(lambda connection: rows.metadata_values(connection, account_id, key))

    async def _waits(self, account_id: str, body: wire.BlueprintBody) -> rows.Standing | None:
        """What comes before its build is requested: the upload, then the reading, of its context."""
        if body.build_context is None:
            return None
        try:
            whole = await self._contexts.is_whole(account_id, body.build_context.object_id)
        except errors.CorralError as problem:
            raise recipes.invalid("build_context.object_id", problem.message) from None
        return rows.Standing(BlueprintStatus.QUEUED if whole else BlueprintStatus.AWAITING_UPLOAD)

    def _wish(self, connection: sa.Connection, account_id: str, body: wire.BlueprintBody) -> BlueprintWish:
        base_id = _base(connection, account_id, body)
        base = render.base_name(base_id) if base_id is not None else None
        recipe = recipes.recipe(body, base, architecture=self._architecture)
        return BlueprintWish(
            name=body.name,
            parameters=_as_sent(body),
            dockerfile=render.dockerfile(recipe),
            metadata=body.metadata or {},
            base_id=base_id,
            build_args=body.build_args or {},
            context_id=body.build_context.object_id if body.build_context is not None else None,
        )


def _as_sent(body: wire.BlueprintBody) -> dict[str, Any]:
    sent = body.model_dump(exclude_none=True)
    launch = sent.get("launch_parameters", {})
    if (cores := launch.get("custom_cpu_cores")) is not None and cores.is_integer():
        launch["custom_cpu_cores"] = int(cores)  # clients before 3.0 have whole numbers only
    return sent


def begin(
    connection: sa.Connection,
    builds: Builds,
    account_id: str,
    blueprint_id: str,
    wish: BlueprintWish,
    context: BuildContext | None,
    at_ms: int,
) -> rows.Standing:
    """Request the build of a blueprint. Raises errors.CorralError for what cannot be built."""
    carried = tuple(dict.fromkeys(service["image"] for service in wish.parameters.get("services") or ()))
    plan = BuildPlan(account_id, blueprint_id, wish.dockerfile, context, wish.build_args, carried=carried)
    return standing(builds.request(connection, plan), at_ms)


def standing(build: Build, at_ms: int) -> rows.Standing:
    """Where a blueprint is whose build is this one."""
    ended = build.status in {BuildStatus.COMPLETE, BuildStatus.FAILED}
    failure = build.failure
    if build.status is BuildStatus.FAILED and failure is None:
        failure = BuildFailure(FailureReason.BUILD_FAILED, "the build failed")
    return rows.Standing(
        BlueprintStatus(build.status.value),
        build_id=build.id,
        image=build.image if build.status is BuildStatus.COMPLETE else None,
        failure=failure,
        finished_at_ms=(build.ended_at_ms or at_ms) if ended else None,
    )


def _base(connection: sa.Connection, account_id: str, body: wire.BlueprintBody) -> str | None:
    """The blueprint that the body names as its base."""
    wanted, name = body.base_blueprint_id, body.base_blueprint_name
    if wanted is not None and name is not None:
        raise recipes.invalid("base_blueprint_name", "must not be given beside base_blueprint_id")
    if wanted is not None:
        return _usable(connection, account_id, wanted, "create blueprint: base_blueprint_id").id
    if name is None:
        return None
    found = rows.latest_built(connection, account_id, name)
    if found is None:
        raise _none_built(name, "create blueprint: base_blueprint_name")
    return found.id


def _usable(connection: sa.Connection, account_id: str, blueprint_id: str, cannot: str) -> Blueprint:
    """The account's blueprint, built and not deleted. A bad reference inside of a body: errors.Invalid."""
    blueprint = rows.find(connection, blueprint_id)
    if blueprint is None or blueprint.account_id != account_id:
        raise errors.Invalid(f"cannot {cannot}: there is no blueprint {blueprint_id[:100]!r}")
    if blueprint.state is BlueprintState.DELETED:
        raise errors.Invalid(f"cannot {cannot}: blueprint {blueprint_id} is deleted")
    if blueprint.status is not BlueprintStatus.BUILD_COMPLETE:
        why = f": {blueprint.failure.message}" if blueprint.failure is not None else ""
        raise errors.Invalid(f"cannot {cannot}: blueprint {blueprint_id} is {blueprint.status.value}{why}")
    return blueprint


def _none_built(name: str, cannot: str) -> errors.Invalid:
    return errors.Invalid(f"cannot {cannot}: there is no blueprint {name[:100]!r} that is built")


def _origin(blueprint: Blueprint) -> Origin:
    sent = blueprint.wish.parameters
    services = [recipes.as_service(one) for one in sent.get("services") or ()]
    return Origin(
        id=blueprint.id,
        image=blueprint.image or "",
        launch_parameters=sent.get("launch_parameters") or {},
        services={service.name: render.service_command(service) for service in services},
    )
