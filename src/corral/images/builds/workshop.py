"""The devboxes that builds run in: whose they are, how one is asked for, and what is known of it.

Owns the account that they belong to. No key opens that account, so that no call of anybody reaches its devboxes and
snapshots: they are in no list and no count, and have no commands, files or terminals for a caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from corral.core import errors
from corral.core.clock import Clock
from corral.devboxes.model import Devbox, DevboxRequest, Execution, Observed
from corral.devboxes.service import Devboxes, Executions
from corral.images.builds import log
from corral.images.builds.model import BuildLine
from corral.images.builds.tables import Job
from corral.runtime.contract import Limits, NoSuchExecution, Runtime, Stream, Usage, User

#: Where everything of a build is in its devbox: on the disk itself, as buildah's layers are.
FOLDER: Final = "/var/lib/containers/corral"
PROGRAM: Final = f"{FOLDER}/inside"
#: Files of the program.
PARTS: Final = tuple(sorted(Path(__file__).with_name("inside").glob("*.py")))

#: Command ids, which make a start safe to repeat.
BUILD: Final = "build"
CLEAN: Final = "clean"

#: Seconds beyond the limit of a build before its devbox is taken away from it.
_MARGIN_S: Final = 600
_PIECE: Final = 256 * 1024


def account_of(account_id: str) -> str:
    """The account of the devboxes that build for this one. Its own id has no slash."""
    return f"{account_id}/builds"


@dataclass(frozen=True, slots=True)
class Terms:
    """What builds get. `log_bytes` of output are kept; see the settings of the same names."""

    limits: Limits
    limit_s: float
    log_bytes: int
    builder: str


class Workshop:
    """One for each store."""

    def __init__(
        self, runtime: Runtime, devboxes: Devboxes, executions: Executions, *, clock: Clock, terms: Terms
    ) -> None:
        self._runtime = runtime
        self._devboxes = devboxes
        self._executions = executions
        self._clock = clock
        self.terms = terms

    def seconds(self, job: Job) -> float:
        """For how long the program may build."""
        return job.plan.timeout_s or self.terms.limit_s

    async def open(
        self,
        job: Job,
        begins_as: str | None,
        lent: Sequence[str],
        also: Callable[[sa.Connection, Devbox], None],
    ) -> Devbox:
        """Ask for the devbox of a build, which can read the layers of the images `lent`.

        `also` is called in the same transaction.
        """
        request = DevboxRequest(
            name=job.build.id,
            limits=job.plan.limits or self.terms.limits,
            user=User("root", 0, 0, "/root"),
            image=None if begins_as is not None else self.terms.builder,
            snapshot_id=begins_as,
            keep_alive_s=round(self.seconds(job)) + 2 * _MARGIN_S,
            nested=True,
            lent=tuple(lent),
        )
        return await self._devboxes.create(account_of(job.build.account_id), request, also=also)

    async def look(self, job: Job) -> Devbox | None:
        """The devbox of a build that has one."""
        if job.devbox_id is None:
            return None
        return await self._devboxes.get(account_of(job.build.account_id), job.devbox_id)

    async def close(self, job: Job) -> None:
        """End the devbox, whatever goes on in it. Idempotent."""
        if job.devbox_id is not None:
            await self._devboxes.shutdown(account_of(job.build.account_id), job.devbox_id, force=True)

    async def usage(self, job: Job) -> Usage | None:
        """What its box uses; None unless it runs."""
        if job.devbox_id is None:
            return None
        return await self._devboxes.consumption(account_of(job.build.account_id), job.devbox_id)

    # -- commands

    async def find(self, job: Job, verb: str) -> Execution | None:
        """The command of a build that does this, if it was started."""
        if job.devbox_id is None:
            return None
        page = await self._executions.list(account_of(job.build.account_id), job.devbox_id, limit=100, count=False)
        return next((one for one in page.items if one.command_id == verb), None)

    async def start(self, job: Job, verb: str) -> Execution:
        """Start it, unless it was."""
        account_id, devbox_id = account_of(job.build.account_id), job.devbox_id or ""
        command = f"cd {FOLDER} && exec python3 -m inside {verb} {FOLDER}"
        return await self._executions.start(account_id, devbox_id, command, command_id=verb)

    async def kill(self, job: Job, execution: Execution) -> None:
        """End a command that goes on for too long."""
        await self._executions.kill(account_of(job.build.account_id), execution.devbox_id, execution.id, group=True)

    # -- output

    async def spool(self, job: Job) -> bytes:
        """What the program has written so far; nothing before it began."""
        execution = await self.find(job, BUILD)
        return b"" if execution is None else await asyncio.to_thread(self._read, execution)

    async def lines(self, job: Job) -> list[BuildLine]:
        """The log so far."""
        spool = await self.spool(job)
        since_ms = job.build.started_at_ms or job.build.created_at_ms
        return await asyncio.to_thread(log.lines, spool, since_ms, self._clock.now_ms())

    def overdue_s(self, job: Job, execution: Execution) -> float:
        """Seconds until the program has had more time than it gives itself; it does not live up to its word then."""
        passed = (self._clock.now_ms() - execution.created_at_ms) / 1000
        return self.seconds(job) + _MARGIN_S - passed

    def _read(self, execution: Execution) -> bytes:
        most = log.spool_limit(self.terms.log_bytes)
        found = bytearray()
        try:
            while len(found) < most:
                piece = self._runtime.read_output(
                    execution.devbox_id, execution.id, Stream.STDOUT, len(found), min(_PIECE, most - len(found))
                )
                if not piece:
                    break
                found += piece
        except NoSuchExecution:  # it is about to start, or never did
            return b""
        return bytes(found)


def running(devbox: Devbox | None) -> bool:
    """Whether commands can be started in it."""
    return devbox is not None and devbox.observed is Observed.RUNNING


def require(devbox: Devbox | None) -> Devbox:
    """The devbox of a build that must have one."""
    if devbox is None:
        raise errors.Internal("cannot go on with a build: it has no devbox")
    return devbox
