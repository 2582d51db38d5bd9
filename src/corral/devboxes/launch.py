"""What happens in a new box before its devbox is running: files, launch commands, then the entrypoint.

Owns one step of it at a time, decided from what is recorded, so that a restart of the server goes on where it was.
Must not move the devbox to another state: it says what is so, the controller acts.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from corral.core.store.store import Store
from corral.devboxes import docker, execution_rows, faults, files, verdicts
from corral.devboxes.execution_rows import Wish
from corral.devboxes.faults import Refusal
from corral.devboxes.followers import Followers
from corral.devboxes.model import Devbox, DevboxRequest, Execution, ExecutionSource, Observed, Reason
from corral.devboxes.object_mounts import ObjectMounts
from corral.runtime.contract import ExecResult, FileProblem, Runtime, Stream

#: Command ids of launch commands, by the start that they belong to. A caller who uses one gets a conflict: the source
#: is a part of what is compared.
_COMMAND_ID: Final = "launch:{start}:{place}"
_MOUNT_ID: Final = "mount:{place}"
_SERVICE_ID: Final = "service:{start}:{place}"
_SUSPEND_ID: Final = "suspend:{start}:{place}"


class Outcome(enum.StrEnum):
    """Where the launch of a devbox is."""

    READY = "ready"  #: all done; the entrypoint runs if there is one
    WAITING = "waiting"  #: a launch command runs
    FAILED = "failed"  #: see `refusal`


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step found."""

    outcome: Outcome
    refusal: Refusal | None = None  #: why it failed


def is_empty(request: DevboxRequest) -> bool:
    """Whether there is nothing to do before the devbox is running."""
    setup = request.files or request.object_mounts or request.docker_in_docker or request.launch_commands
    return not (setup or request.entrypoint)


class Launch:
    """One for each store."""

    def __init__(self, store: Store, runtime: Runtime, followers: Followers, mounts: ObjectMounts) -> None:
        self._store = store
        self._runtime = runtime
        self._followers = followers
        self._mounts = mounts

    async def step(self, devbox: Devbox) -> Progress:
        """Do the next thing that is not done. Raises RuntimeFailure when the box could not be reached: try again."""
        sources = (ExecutionSource.SETUP, ExecutionSource.ENTRYPOINT)
        known = await self._store.read(lambda connection: execution_rows.of_source(connection, devbox.id, sources))
        begun = {execution.command_id: execution for execution in known}
        start = devbox.launch
        if not begun and (problem := await self._write_files(devbox) or await self._mounts.write(devbox)):
            return Progress(Outcome.FAILED, problem)
        if start == 0 and (waiting := await self._unpack(devbox, begun)) is not None:
            return waiting
        if devbox.request.docker_in_docker and (progress := await self._start_docker(devbox, begun)) is not None:
            return progress
        for wish, called in setup(devbox):
            execution = begun.get(wish.command_id or "")
            if execution is None:
                execution = await self._followers.launch(devbox.account_id, devbox.id, wish)
            if execution.ended_at_ms is None:
                return Progress(Outcome.WAITING)
            if execution.exit_code != 0:
                return Progress(Outcome.FAILED, await self._explain(called, execution))
        entrypoint = devbox.request.entrypoint
        entrypoint_id = _COMMAND_ID.format(start=start, place="entrypoint")
        if entrypoint is not None and entrypoint_id not in begun:
            wish = Wish(entrypoint, source=ExecutionSource.ENTRYPOINT, command_id=entrypoint_id)
            await self._followers.launch(devbox.account_id, devbox.id, wish)
        return Progress(Outcome.READY)

    async def _unpack(self, devbox: Devbox, begun: Mapping[str | None, Execution]) -> Progress | None:
        """Do the next mount of an archive that is not done; None when all are."""
        for place, mount in enumerate(devbox.request.object_mounts):
            execution = begun.get(command_id := _MOUNT_ID.format(place=place))
            if execution is None:
                command = await self._mounts.stage(devbox, mount)
                if isinstance(command, Refusal):
                    return Progress(Outcome.FAILED, command)
                if not command:
                    continue
                wish = Wish(command, source=ExecutionSource.SETUP, command_id=command_id)
                execution = await self._followers.launch(devbox.account_id, devbox.id, wish)
            if execution.ended_at_ms is None:
                return Progress(Outcome.WAITING)
            if execution.exit_code != 0:
                what = f"unpacking of object {mount.object_id} into {mount.path}"
                return Progress(Outcome.FAILED, await self._explain(what, execution))
        return None

    async def _start_docker(self, devbox: Devbox, begun: Mapping[str | None, Execution]) -> Progress | None:
        """Start Docker; None when it runs."""
        wish = docker.start(devbox)
        execution = begun.get(wish.command_id)
        if execution is None:
            await self._runtime.write_file(devbox.id, docker.SCRIPT, files.pieces(docker.script()), user="root")
            execution = await self._followers.launch(devbox.account_id, devbox.id, wish)
        if execution.ended_at_ms is None:
            return Progress(Outcome.WAITING)
        if execution.exit_code != 0:
            return Progress(Outcome.FAILED, await self._explain("start of Docker", execution))
        return None

    async def ended_entrypoint(self, devbox: Devbox) -> Execution | None:
        """The devbox's entrypoint if it has ended."""
        if devbox.request.entrypoint is None:
            return None
        sources = (ExecutionSource.ENTRYPOINT,)
        known = await self._store.read(lambda connection: execution_rows.of_source(connection, devbox.id, sources))
        command_id = _COMMAND_ID.format(start=devbox.launch, place="entrypoint")
        ended = (one for one in known if one.command_id == command_id and one.ended_at_ms is not None)
        return next(ended, None)

    async def before_suspend(self, devbox: Devbox) -> bool:
        """Run the next command that the devbox wants to run before it is suspended; whether all have ended.

        One that fails is in the log, and holds nothing up.
        """
        sources = (ExecutionSource.SETUP,)
        known = await self._store.read(lambda connection: execution_rows.of_source(connection, devbox.id, sources))
        begun = {execution.command_id: execution for execution in known}
        times = sum(one.status is Observed.SUSPENDING for one in devbox.transitions)
        for place, command in enumerate(devbox.request.suspend_commands):
            command_id = _SUSPEND_ID.format(start=times, place=place)
            execution = begun.get(command_id)
            if execution is None:
                wish = Wish(command, source=ExecutionSource.SETUP, command_id=command_id)
                execution = await self._followers.launch(devbox.account_id, devbox.id, wish)
            if execution.ended_at_ms is None:
                return False
        return True

    async def _write_files(self, devbox: Devbox) -> Refusal | None:
        """Write the files of the request; return why one cannot be written. Writing again does no harm."""
        for path, text in devbox.request.files.items():
            try:
                await self._runtime.write_file(devbox.id, path, files.pieces(text.encode()))
            except FileProblem as problem:
                return faults.refusal(problem)
        return None

    async def _explain(self, what: str, execution: Execution) -> Refusal:
        box, name = execution.devbox_id, execution.id
        result = ExecResult(execution.exit_code or 0, lost=execution.lost)
        full = await verdicts.out_of_disk(self._runtime, box, name, result)
        if full is None and execution.message:
            return Refusal(f"cannot run {what}: {execution.message}")
        # Its standard output is not quoted: it need not be about the failure.
        quote = verdicts.last_words(self._runtime, box, name, Stream.STDERR).decode(errors="replace").strip()
        said = f": {quote}" if quote else ""
        why = "" if full is None else f" while the disk was full; {full.remedy}"
        message = f"{what} exited with code {execution.exit_code}{why}{said}"
        return Refusal(message, Reason.LAUNCH_FAILED if full is None else Reason.OUT_OF_DISK)


def setup(devbox: Devbox) -> Iterator[tuple[Wish, str]]:
    """What runs before the entrypoint, one after another, each with what people call it."""
    request, start, source = devbox.request, devbox.start, ExecutionSource.SETUP
    for place, command in enumerate(request.services):
        command_id = _SERVICE_ID.format(start=start, place=place)
        yield Wish(command, source=source, command_id=command_id, user="root"), f"start of service {place + 1}"
    for place, command in enumerate(request.launch_commands):
        command_id = _COMMAND_ID.format(start=start, place=place)
        yield Wish(command, source=source, command_id=command_id), f"launch command {place + 1}"
