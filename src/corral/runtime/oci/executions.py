"""Commands of boxes: their start, their progress and their end, by the guest and the spool.

Owns which starts are under way, and the connection of a started command that nobody follows yet. What counts of output
and ends is the spool, not what a guest says.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Final

from corral.runtime import spool as spools
from corral.runtime.contract import (
    BadCommand,
    BoxExhausted,
    BoxGone,
    BoxUnresponsive,
    ByteStream,
    ExecSpec,
    HostExhausted,
    NoSuchExecution,
    Progress,
    Stream,
)
from corral.runtime.guest import Following, GuestClient
from corral.runtime.oci.dormancy import Dormancy
from corral.runtime.oci.guests import Guests
from corral.runtime.oci.host import Host

#: Connections of started commands that nobody follows yet, at most.
HANDED_ON: Final = 64


class Executions:
    """Those of one host's boxes."""

    def __init__(self, host: Host, guests: Guests, dormancy: Dormancy, spool: spools.Spool) -> None:
        self._host = host
        self._guests = guests
        self._dormancy = dormancy
        self._spool = spool
        self._starts: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._handed_on: dict[tuple[str, str], Following] = {}

    async def close(self) -> None:
        """Give up what is being started, and the connections that are kept."""
        tasks = list(self._starts.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._handed_on:
            await self._handed_on.popitem()[1].close()

    async def execute(self, box_id: str, spec: ExecSpec) -> None:
        """Start it as a task of the runtime's, so that a caller who goes away leaves no half-started command."""
        key = (box_id, spec.id)
        task = self._starts.get(key)
        if task is None:
            task = asyncio.create_task(self._start(box_id, spec), name=f"start {box_id} {spec.id}")
            self._starts[key] = task
            task.add_done_callback(lambda done: self._started(key, done))
        await asyncio.shield(task)

    def _started(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        del self._starts[key]
        if not task.cancelled():
            # Looked at, so that a failure which nobody waits for any more is not reported as forgotten.
            task.exception()

    async def _start(self, box_id: str, spec: ExecSpec) -> None:
        self._guests.living(box_id)
        for _ in range(2):
            try:
                fds = self._spool.open(box_id, spec.id)
            except FileExistsError:
                async with self._guests.calling(box_id) as guest:
                    known = await self._known(guest, box_id, spec.id)
                if known:
                    return
                # A server that ended between opening the spool and asking the guest left these files.
                self._spool.discard(box_id, spec.id)
                continue
            except OSError as error:
                message = f"cannot run {spec.argv[0]!r}: cannot open spool: {error.strerror}"
                raise HostExhausted(message) from error
            with fds:
                try:
                    async with self._guests.calling(box_id) as guest:
                        started = await guest.execute(spec, (fds.stdout, fds.stderr, fds.status))
                except (BadCommand, BoxExhausted, HostExhausted, BoxGone):
                    self._spool.discard(box_id, spec.id)
                    raise
                await self._hand_on((box_id, spec.id), started)
                return
        message = f"cannot run {spec.argv[0]!r}: execution {spec.id} is being started by another"
        raise BadCommand(message)

    async def _hand_on(self, key: tuple[str, str], started: Following) -> None:
        """Keep the connection for the `follow` that comes next: one connection for a command instead of two."""
        self._handed_on[key] = started
        if len(self._handed_on) > HANDED_ON:
            await self._handed_on.pop(next(iter(self._handed_on))).close()

    async def let_go(self, box_id: str) -> None:
        """Close what was kept for commands of a box that has ended."""
        for key in [key for key in self._handed_on if key[0] == box_id]:
            await self._handed_on.pop(key).close()

    async def _known(self, guest: GuestClient, box_id: str, exec_id: str) -> bool:
        """Whether an execution with a spool was started."""
        if self._spool.result(box_id, exec_id) is not None:
            return True
        try:
            following = await guest.wait(exec_id)
        except NoSuchExecution:
            return self._spool.result(box_id, exec_id) is not None
        await following.close()
        return True

    async def follow(self, box_id: str, exec_id: str) -> AsyncIterator[Progress]:
        """See `Runtime.follow`."""
        if not self._spool.known(box_id, exec_id):
            message = f"cannot follow execution {exec_id}: box {box_id} has none of this id"
            raise NoSuchExecution(message)
        while True:
            await self._dormancy.over(box_id)
            following = self._handed_on.pop((box_id, exec_id), None)
            async for progress in self._follow(box_id, exec_id, following):
                yield progress
            if self._spool.result(box_id, exec_id) is not None:
                break
            if not self._dormancy.holds(box_id):
                self._spool.mark_lost(box_id, exec_id)
        yield self._progress(box_id, exec_id, ended=True)

    async def _follow(self, box_id: str, exec_id: str, following: Following | None) -> AsyncIterator[Progress]:
        """`follow` until the execution or the box has ended, or the box is held."""
        if self._spool.result(box_id, exec_id) is not None:
            if following is not None:
                await following.close()
        else:
            try:
                async for progress in self._events(box_id, exec_id, following):
                    yield progress
            except (BoxGone, NoSuchExecution):
                await self._guests.wait_for_death(box_id)
            except BoxUnresponsive:
                # The connection of a dying guest ends in the middle of an answer; so does one of a parked guest.
                await self._guests.wait_for_death(box_id)
                if box_id in self._host.living and not self._dormancy.holds(box_id):
                    raise

    async def _events(self, box_id: str, exec_id: str, kept: Following | None) -> AsyncIterator[Progress]:
        """Growth until the guest says that it has ended. What counts is the spool, not the guest's numbers."""
        async with kept or await self._guests.guest(box_id).wait(exec_id) as following:
            async for event in following.events():
                if event.result is not None:
                    return
                yield self._progress(box_id, exec_id, ended=False)

    def _progress(self, box_id: str, exec_id: str, *, ended: bool) -> Progress:
        result = self._spool.result(box_id, exec_id) if ended else None
        size = self._spool.size
        return Progress(size(box_id, exec_id, Stream.STDOUT), size(box_id, exec_id, Stream.STDERR), result)

    async def attach(
        self, box_id: str, exec_id: str, *, stream: Stream | None = None, patient: bool = False
    ) -> ByteStream:
        """See `Runtime.attach`."""
        async with self._guests.calling(box_id) as guest:
            attached = await guest.attach(exec_id, stream=stream, patient=patient)
        if stream is None or not attached.passed:
            return attached
        read = functools.partial(self._spool.read, box_id, exec_id, stream)
        return spools.SpooledStream(attached, read, attached.passed)

    def lose_all(self, box_id: str) -> None:
        """Executions whose end nobody saw are lost, unless the box's memory is kept: they go on with it."""
        if self._host.memories.of(box_id) is not None:
            return
        for exec_id in self._spool.executions(box_id):
            self._spool.mark_lost(box_id, exec_id)
