"""What can be done with devboxes. The only module of this folder that other capabilities and the API import.

Owns the wishes: a call writes a row and its event in one transaction and answers; the controller acts on the event.
Must not ask the runtime to change a box's life.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from corral.core import errors, events
from corral.core.clock import Clock
from corral.core.ids import Ids
from corral.core.store.store import Store
from corral.devboxes import alerts, docker, execution_rows, faults, file_calls, listing, logs, rows, usage
from corral.devboxes.executions import Executions
from corral.devboxes.file_calls import FileCall, FileCalls
from corral.devboxes.files import Files
from corral.devboxes.log_tail import LogTails, Which
from corral.devboxes.model import (
    ENDED,
    Desired,
    Devbox,
    DevboxRequest,
    Execution,
    KeepMemory,
    LogEntry,
    Observed,
    Origin,
    Page,
    Reason,
    Relative,
    Usage,
)
from corral.devboxes.origins import Blueprints, Snapshots
from corral.devboxes.parameters import check_files, check_launch, check_variables
from corral.devboxes.ports import Ports
from corral.devboxes.questions import Questions
from corral.devboxes.sessions import Sessions
from corral.devboxes.ssh.keys import SshKeys
from corral.devboxes.tables import request_of_kept
from corral.devboxes.tunnels import PtyTunnels
from corral.devboxes.vitals import Vitals
from corral.devboxes.wire import CodeMountParameters, Command, FilePath, Filled, LaunchParameters
from corral.runtime import contract
from corral.storage.service import Objects

# Inside the class `list` is the method.
LogEntries = list[LogEntry]

#: The image of devboxes in which Docker runs.
DOCKER_IMAGE: Final = docker.IMAGE

#: With what others say of devboxes to come: the fields of it, and the rules.
__all__ = [
    "DOCKER_IMAGE",
    "CodeMountParameters",
    "Command",
    "Devboxes",
    "Executions",
    "FileCalls",
    "FilePath",
    "Files",
    "Filled",
    "LaunchParameters",
    "LogTails",
    "Ports",
    "PtyTunnels",
    "Sessions",
    "SshKeys",
    "Which",
    "check_files",
    "check_launch",
    "check_variables",
]

#: Waiters look again this often even if nothing wakes them: the bound on a wake-up lost to a defect.
_LOOK_AGAIN_S: Final = 30.0

_SUSPEND: Final = rows.Step((Observed.SUSPENDING,), Reason.API_SUSPEND, desired=Desired.SUSPENDED)
_RESUME: Final = rows.Step((Observed.PROVISIONING,), Reason.STARTING, desired=Desired.RUNNING)
_ASLEEP: Final = frozenset({Observed.SUSPENDING, Observed.SUSPENDED})

_BY_API: Final = rows.Step((Observed.SHUTDOWN,), Reason.API_SHUTDOWN, desired=Desired.SHUTDOWN)


class Devboxes(Questions):
    """See the methods. All raise errors.NotFound for what is not the account's."""

    def __init__(
        self,
        store: Store,
        feed: events.Feed,
        runtime: contract.Runtime,
        executions: Executions,
        vitals: Vitals,
        snapshots: Snapshots,
        blueprints: Blueprints,
        objects: Objects,
        *,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._store = store
        self._feed = feed
        self._runtime = runtime
        self._executions = executions
        self._vitals = vitals
        self._snapshots = snapshots
        self._objects = objects
        self._blueprints = blueprints
        self._clock = clock
        self._ids = ids

    async def origin(self, account_id: str, *, blueprint_id: str | None, blueprint_name: str | None) -> Origin | None:
        """The blueprint that a devbox names by either; None for one that names none. Raises errors.CorralError."""

        def find(connection: sa.Connection) -> Origin | None:
            if blueprint_id is not None:
                return self._blueprints.by_id(connection, account_id, blueprint_id)
            if blueprint_name is not None:
                return self._blueprints.by_name(connection, account_id, blueprint_name)
            return None

        return await self._store.read(find)

    async def create(
        self,
        account_id: str,
        request: DevboxRequest,
        *,
        also: Callable[[sa.Connection, Devbox], None] | None = None,
    ) -> Devbox:
        """Record the wish for a devbox and return it, provisioning. Once this returns, the devbox is not forgotten.

        `also` is called in the same transaction: what it writes is there if, and only if, the devbox is.
        Raises errors.CorralError when it cannot begin as the snapshot or blueprint, or mount the objects, that it
        names.
        """
        if request.snapshot_every is not None:
            self._snapshots.require_remote()
        devbox_id = self._ids.new("dbx")

        def insert(connection: sa.Connection) -> Devbox:
            wish, parent_id = request, None
            if request.snapshot_id is not None:
                parent = self._snapshots.require(connection, account_id, request.snapshot_id)
                wish, parent_id = replace(request, blueprint_id=parent.blueprint_id), parent.devbox_id
            elif request.blueprint_id is not None:
                self._blueprints.by_id(connection, account_id, request.blueprint_id)
            for mount in request.object_mounts:
                self._objects.require(connection, account_id, mount.object_id)
            now_ms = self._clock.now_ms()
            devbox = rows.insert(connection, devbox_id, account_id, wish, now_ms, parent_id=parent_id)
            if also is not None:
                also(connection, devbox)
            return devbox

        return await self._store.write(insert)

    async def fork(
        self,
        account_id: str,
        devbox_id: str,
        count: int,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        keep_memory: KeepMemory = KeepMemory.NEVER,
        also: Callable[[sa.Connection, tuple[Devbox, ...]], None] | None = None,
    ) -> tuple[Devbox, ...]:
        """Record the wish for `count` devboxes that begin as this one's disk is at a moment soon after this call.

        They have its size, environment and user, and identities of their own. What it did at its launch is on the
        disk and not done again, but its entrypoint runs. With `keep_memory` they go on with its processes of the same
        moment, if they can (AUTO) or else fail (ALWAYS), and with all that these know, secrets too; then nothing of
        the launch runs again. `name` and `metadata` None are its own; `also` is as of `create`.
        Raises errors.WrongState when it neither runs nor is suspended, or must give a memory that was not kept.
        """
        new = [self._ids.new("dbx") for _ in range(count)]

        def insert(connection: sa.Connection) -> tuple[Devbox, ...]:
            self.require_disk(connection, account_id, devbox_id, "fork")
            parent = rows.get(connection, account_id, devbox_id)
            asleep = parent.observed is Observed.SUSPENDED and not (parent.memory and parent.memory.kept)
            if asleep and keep_memory is KeepMemory.ALWAYS:
                raise errors.WrongState(f"cannot fork devbox {devbox_id} with its memory: it is suspended without it")
            request = replace(
                parent.request,
                name=parent.request.name if name is None else name,
                metadata=parent.request.metadata if metadata is None else metadata,
                snapshot_id=self._snapshots.begin(connection, parent, keep_memory),
                launch_commands=(),
                files={},
                object_mounts=(),
                snapshot_every=None,
            )
            at_ms = self._clock.now_ms()
            made = tuple(
                rows.insert(connection, each, account_id, request, at_ms, parent_id=devbox_id) for each in new
            )
            if also is not None:
                also(connection, made)
            return made

        return await self._store.write(insert)

    async def lineage(self, account_id: str, devbox_id: str) -> tuple[Relative, ...]:
        """The tree of devboxes that it is in, by whose disk each began as, parents before children; at most 1,000."""

        def find(connection: sa.Connection) -> tuple[Relative, ...]:
            return tuple(listing.relatives(connection, rows.get(connection, account_id, devbox_id)))

        return await self._store.read(find)

    async def suspend(self, account_id: str, devbox_id: str) -> Devbox:
        """Begin to keep the devbox's disk and to give back everything else; it is suspending when this returns.

        Idempotent. Raises errors.WrongState when it neither runs nor is suspended.
        """

        def change(connection: sa.Connection) -> Devbox:
            devbox = rows.get(connection, account_id, devbox_id)
            if devbox.observed in _ASLEEP:
                return devbox
            rows.require_running(connection, account_id, devbox_id, "suspend")
            moved = rows.transition(
                connection, devbox_id, frozenset({Observed.RUNNING}), _SUSPEND, self._clock.now_ms()
            )
            return moved or devbox

        return await self._store.write(change)

    async def resume(self, account_id: str, devbox_id: str) -> Devbox:
        """Begin to make a box for a suspended devbox, with the disk that was kept. Its launch commands run again.

        Idempotent while it starts. Raises errors.WrongState when it is not suspended.
        """

        def change(connection: sa.Connection) -> Devbox:
            devbox = rows.get(connection, account_id, devbox_id)
            asleep = frozenset({Observed.SUSPENDED})
            moved = rows.transition(connection, devbox_id, asleep, _RESUME, self._clock.now_ms())
            if (moved is None and devbox.start == 0) or (moved is None and devbox.observed in _ASLEEP | ENDED):
                raise errors.WrongState(
                    f"cannot resume devbox {devbox_id}: it is {devbox.observed.value}, not suspended"
                )
            return moved or devbox

        return await self._store.write(change)

    async def create_again(self, account_id: str, kept: Mapping[str, object], snapshot_id: str) -> Devbox:
        """As `create`, of a request that `request_of` gave, on this node or another one, but beginning as a snapshot.

        What it did at its launch is on that disk, and not done again; its entrypoint runs.
        """
        try:
            request = request_of_kept(kept)
        except (KeyError, TypeError, ValueError) as error:
            raise errors.WrongState(
                f"cannot create devbox from snapshot {snapshot_id}: what its devbox was asked for with is not known"
            ) from error
        again = replace(request, snapshot_id=snapshot_id, launch_commands=(), files={}, object_mounts=())
        return await self.create(account_id, again)

    async def get(self, account_id: str, devbox_id: str) -> Devbox:
        """The devbox as it is now."""
        return await self._store.read(lambda connection: rows.get(connection, account_id, devbox_id))

    async def list(
        self,
        account_id: str,
        *,
        status: Observed | None = None,
        metadata: Mapping[str, str | Sequence[str]] | None = None,
        name: str | None = None,
        limit: int = 20,
        starting_after: str | None = None,
        count: bool = True,
    ) -> Page[Devbox]:
        """The account's devboxes, newest first, 1 to 5,000 at a time; `total` (without the cursor) if `count`.

        Of `metadata` every key must match; a key with several values matches one of them.
        Raises errors.Invalid for a limit out of range or an unknown cursor.
        """
        which = listing.Filter(status=status, name=name, metadata=metadata or {})
        return await self._store.read(
            lambda connection: listing.page(
                connection, account_id, which, limit=limit, starting_after=starting_after, count=count
            )
        )

    async def metadata_keys(
        self, account_id: str, *, limit: int = listing.METADATA_PAGE, starting_after: str | None = None
    ) -> Page[str]:
        """Metadata keys of the account's devboxes, ended ones too, in order, from the one after `starting_after`."""
        return await self._store.read(
            lambda connection: listing.metadata_keys(
                connection, account_id, limit=limit, starting_after=starting_after
            )
        )

    async def metadata_values(
        self, account_id: str, key: str, *, limit: int = listing.METADATA_PAGE, starting_after: str | None = None
    ) -> Page[str]:
        """As `metadata_keys`, the values of one key; none for a key that no devbox has."""
        return await self._store.read(
            lambda connection: listing.metadata_values(
                connection, account_id, key, limit=limit, starting_after=starting_after
            )
        )

    async def update(
        self, account_id: str, devbox_id: str, *, name: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Devbox:
        """Replace name or metadata, in any state; None leaves one as it is."""

        def change(connection: sa.Connection) -> Devbox:
            devbox = rows.get(connection, account_id, devbox_id)
            return rows.update(connection, devbox, name=name, metadata=metadata, at_ms=self._clock.now_ms())

        return await self._store.write(change)

    async def wait(self, account_id: str, devbox_id: str, statuses: frozenset[Observed], timeout_s: float) -> Devbox:
        """Return the devbox once it has one of `statuses`. Raises errors.TimedOut after `timeout_s` seconds."""
        deadline = self._clock.monotonic() + timeout_s
        with self._feed.watch(devbox_id) as wake:
            while True:
                seen = wake.fires  # before the look: an event may come while the row is on its way here
                devbox = await self.get(account_id, devbox_id)
                if devbox.observed in statuses:
                    return devbox
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    raise errors.TimedOut(
                        f"cannot wait longer for devbox {devbox_id}: it is {devbox.observed.value} after "
                        f"{timeout_s:g} s"
                    )
                await wake.wait(min(left, _LOOK_AGAIN_S), since=seen)

    async def shutdown(self, account_id: str, devbox_id: str, *, force: bool = False) -> Devbox:
        """End the devbox: it is shutdown when this returns, in whatever state it was; its box is removed soon after.

        Idempotent; one that has ended already is returned as it is.
        Raises errors.Conflict while it is being copied, for less than a second, unless `force`.
        """

        def end(connection: sa.Connection) -> Devbox:
            devbox = rows.get(connection, account_id, devbox_id)
            if not force and self._snapshots.in_progress(connection, devbox_id):
                raise errors.Conflict(
                    f"cannot shut down devbox {devbox_id}: a snapshot of it is being made; "
                    "try again, or use force=true"
                )
            return rows.transition(connection, devbox_id, rows.LIVE, _BY_API, self._clock.now_ms()) or devbox

        return await self._store.write(end)

    async def keep_alive(self, account_id: str, devbox_id: str) -> None:
        """Count as activity for the idle timer. Raises errors.WrongState when the devbox is not running."""
        await self._store.read(
            lambda connection: rows.require_running(connection, account_id, devbox_id, "keep alive")
        )
        self._vitals.touch(devbox_id)

    async def usage(self, account_id: str, devbox_id: str) -> Usage:
        """What the devbox has had until now, or until its end."""
        return usage.usage(await self.get(account_id, devbox_id), self._clock.now_ms())

    async def consumption(self, account_id: str, devbox_id: str) -> contract.Usage | None:
        """What its box uses of the host at this moment; None unless the devbox is running."""
        devbox = await self.get(account_id, devbox_id)
        if devbox.observed is not Observed.RUNNING:
            return None
        with faults.translated():
            return await self._runtime.usage(devbox_id)

    async def logs(self, account_id: str, devbox_id: str, *, execution_id: str | None = None) -> LogEntries:
        """The devbox's log, or one execution's, oldest first; at most 1,000 lines a stream and 10,000 in all."""
        if execution_id is not None:
            execution = await self._executions.get(account_id, devbox_id, execution_id)
            return logs.merged([logs.of_execution(execution, self._executions.tail)], [])

        def find(
            connection: sa.Connection,
        ) -> tuple[Devbox, Sequence[Execution], Sequence[events.Event], Sequence[FileCall]]:
            devbox = rows.get(connection, account_id, devbox_id)
            executions = execution_rows.newest(connection, devbox_id, logs.EXECUTIONS)
            told, calls = alerts.of_devbox(connection, devbox_id), file_calls.after(connection, devbox_id, 0)
            return devbox, executions, told, calls

        devbox, executions, told, calls = await self._store.read(find)
        found = await logs.newest(executions, self._executions.tail, self._clock)
        of_calls = [file_calls.entry(call, devbox.request.user.name) for call in calls]
        return logs.merged(found, [*map(alerts.entry, told), *of_calls, *logs.of_devbox(devbox)])
