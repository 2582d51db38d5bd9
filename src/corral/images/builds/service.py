"""What can be done with builds. Blueprints use this, and `model`, and nothing else of this folder.

Owns the wishes: a call writes a row and its event in the transaction of its caller; the controller acts on the event.
The events of a build, `build.<status>`, have its id as their subject: `Feed.watch(build_id)` wakes who waits for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import sqlalchemy as sa

from corral.core import errors, events, log
from corral.core.clock import Clock
from corral.core.ids import Ids
from corral.core.store.store import Store
from corral.images import stock
from corral.images.builds import dockerfile, harvest, rows
from corral.images.builds import log as logs
from corral.images.builds.library import Library
from corral.images.builds.model import ENDED, Build, BuildLine, BuildPlan
from corral.images.builds.tables import Job
from corral.images.builds.workshop import PARTS, Workshop

Lines = list[BuildLine]

#: Waiters look again this often even if nothing wakes them.
_LOOK_AGAIN_S: Final = 30.0

#: The program that builds decides what comes out, as the image that it runs in does.
_PROGRAM: Final = hashlib.sha256(b"".join(path.read_bytes() for path in PARTS)).hexdigest()


@dataclass(frozen=True, slots=True)
class Base:
    """An image that a Dockerfile names: `name` as `Images.export_layout` knows it, `digest` what it is at present."""

    name: str
    digest: str


class Bases(Protocol):
    """Where images that a Dockerfile names come from: FROM, COPY --from and RUN --mount from=."""

    def find(self, connection: sa.Connection, account_id: str, name: str) -> Base | None:
        """What the account's Dockerfiles mean by this name; None when there is no such image."""


class HostBases:
    """Every image of this host but those of builds, which are their accounts'."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def find(self, _connection: sa.Connection, _account_id: str, name: str) -> Base | None:
        """The image of this name."""
        if name.startswith(harvest.PREFIX):
            return None
        self._library.renew(name)
        try:
            found = self._library.resolve(name)
        except errors.NotFound:
            return None
        return Base(found.name, found.digest)


class Builds:
    """See the methods. All raise errors.NotFound for what is not the account's."""

    def __init__(
        self,
        store: Store,
        feed: events.Feed,
        library: Library,
        bases: Bases,
        workshop: Workshop,
        *,
        clock: Clock,
        ids: Ids,
        most_context: int,
    ) -> None:
        """`most_context` is the bytes that a context may have."""
        self._store = store
        self._feed = feed
        self._library = library
        self._bases = bases
        self._workshop = workshop
        self._clock = clock
        self._ids = ids

        self._most_context = most_context
        self._log = log.get("images.builds")

    def request(self, connection: sa.Connection, plan: BuildPlan) -> Build:
        """In the caller's transaction: the build of this plan, a new one or one that was requested before.

        One that is complete and whose image is there is returned as it is, and has no work to do; one that failed is
        built anew. Raises errors.Invalid for a Dockerfile without a step, errors.TooLarge for one that is too long or
        a context over the limit, and errors.NotFound when this host has no image to build in.
        """
        self._check(plan)
        named = self._named(connection, plan)
        builder = self._library.resolve(self._workshop.terms.builder)
        key = _key(plan, named, builder.digest)
        found = rows.find_open(connection, plan.account_id, key)
        if found is not None and found.image is not None and not self._is_here(found.image):
            rows.close(connection, found.id)
            found = None
        if found is None:
            found = rows.insert(connection, self._ids.new("bld"), plan, key, named, self._clock.now_ms())
        rows.use(connection, found.id, plan.wanted_by)
        return found

    async def look_again(self, job: Job) -> bool:
        """Ask registries for what stock images stand for in its Dockerfile, and for what went since it was requested.

        Returns whether it is upon others from now on.
        """
        before = [rows.Named(name, image, digest) for name, (image, digest) in job.bases.items()]
        named = [await self._stood_for(job, base) for base in before]
        if named == before:
            return False
        key = _key(job.plan, named, self._library.resolve(self._workshop.terms.builder).digest)
        return await self._store.write(lambda connection: rows.rebase(connection, job.build.id, named, key))

    def release(self, connection: sa.Connection, account_id: str, build_id: str, wanted_by: str) -> None:
        """In the caller's transaction: `wanted_by` does not need the image any more.

        A build that nothing wants is ended, and its image is removed. Idempotent.
        """
        job = rows.get(connection, account_id, build_id)
        rows.release(connection, job.build.id, wanted_by, self._clock.now_ms())

    def get(self, connection: sa.Connection, account_id: str, build_id: str) -> Build:
        """In the caller's transaction: the build as it is now."""
        return rows.get(connection, account_id, build_id).build

    async def wait(self, account_id: str, build_id: str, timeout_s: float) -> Build:
        """Return the build once it has ended. Raises errors.TimedOut after `timeout_s` seconds."""
        deadline = self._clock.monotonic() + timeout_s
        with self._feed.watch(build_id) as wake:
            while True:
                seen = wake.fires
                build = await self._store.read(lambda connection: self.get(connection, account_id, build_id))
                if build.status in ENDED:
                    return build
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    raise errors.TimedOut(f"cannot wait longer for build {build_id}: it is {build.status.value}")
                await wake.wait(min(left, _LOOK_AGAIN_S), since=seen)

    async def logs(self, account_id: str, build_id: str, *, after: int = 0) -> Lines:
        """The lines that follow the one of this number, oldest first; there are more while the build goes on.

        Bounded: a build's log has an end, which says so, and lines over a limit are cut.
        """
        job = await self._store.read(lambda connection: rows.get(connection, account_id, build_id))
        if job.build.status in ENDED:
            packed = await self._store.read(lambda connection: rows.packed_log(connection, build_id))
            found = await asyncio.to_thread(logs.unpack, packed) if packed is not None else []
        else:
            found = await self._workshop.lines(job)
        return found[after:]

    def _check(self, plan: BuildPlan) -> None:
        size = len(plan.dockerfile.encode("utf-8", "surrogatepass"))
        if size > dockerfile.MOST:
            raise errors.TooLarge(f"cannot build an image: its Dockerfile is over {dockerfile.MOST >> 20} MiB")
        if not plan.dockerfile.strip() or "\0" in plan.dockerfile:
            raise errors.Invalid("cannot build an image: its Dockerfile has no step, or has a zero byte")
        if plan.context is not None and plan.context.size > self._most_context:
            raise errors.TooLarge(
                f"cannot build an image: its context has {plan.context.size >> 20} MiB, over the limit of "
                f"{self._most_context >> 20} MiB; leave out of it what the Dockerfile does not copy"
            )
        if bad := [name for name in plan.files if not name.isascii() or not name.replace("-", "").isalnum()]:
            raise errors.Invalid(f"cannot build an image: {bad[0]!r} is no name of letters, digits and hyphens")

    async def _stood_for(self, job: Job, base: rows.Named) -> rows.Named:
        """What its registry has, where a stock image stands for that or it is gone; else or unanswered, the same."""
        if base.image.startswith(harvest.PREFIX):
            return base
        try:
            found = await self._library.obtain(base.written)
        except errors.CorralError as problem:
            self._log.warning("base not pulled", build=job.build.id, error=problem.message)
            return base
        return rows.Named(base.written, found.name, found.digest)

    def _is_here(self, image: str) -> bool:
        try:
            self._library.resolve(image)
        except errors.NotFound:
            return False
        return True

    def _named(self, connection: sa.Connection, plan: BuildPlan) -> Sequence[rows.Named]:
        found = []
        for name in dockerfile.images(plan.dockerfile, plan.build_args):
            base = self._bases.find(connection, plan.account_id, name)
            if base is not None:
                found.append(rows.Named(name, base.name, base.digest))
        for name in plan.carried:
            base = self._bases.find(connection, plan.account_id, name)
            # A stock image that stands for an official one is what to build upon, and no service.
            if base is not None and (base.name == name or base.name != stock.flavour_of(name)):
                found.append(rows.Named(name, base.name, base.digest))
        return list(dict.fromkeys(found))


def _key(plan: BuildPlan, named: Sequence[rows.Named], builder: str) -> str:
    """Of all that decides what comes out, and of nothing else."""
    decides = {
        "program": _PROGRAM,
        "builder": builder,
        "dockerfile": plan.dockerfile,
        "build_args": dict(plan.build_args),
        "files": dict(plan.files),
        "carried": list(plan.carried),
        "target": plan.target,
        "context": plan.context.digest if plan.context is not None else None,
        "bases": [[base.written, base.digest] for base in named],
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
