"""The guests of the boxes that live, and how they are called.

Owns what a call means that gets no answer: a box that has ended, one whose commands leave its guest no turn, or a
guest that hangs. Must not make or remove boxes.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from corral.core.clock import Clock
from corral.runtime.contract import BoxExhausted, BoxGone, BoxSpec, BoxUnresponsive
from corral.runtime.guest import GuestClient
from corral.runtime.linux import processes
from corral.runtime.oci import hostfiles
from corral.runtime.oci.dormancy import Dormancy
from corral.runtime.oci.host import Host
from corral.runtime.oci.record import Living

#: A connection to a guest can break a moment before the kernel tells of its end.
DEATH_LIMIT_S: Final = 2.0
#: The same for a call that has an error to tell anyhow.
DYING_LIMIT_S: Final = 0.5
#: A guest that wants the processor for this long, and gets less than this part of it, is not the one that hangs.
STARVING_S: Final = 0.5
STARVING_PART: Final = 0.1


class Guests:
    """Those of one host's boxes."""

    def __init__(self, host: Host, dormancy: Dormancy, clock: Clock) -> None:
        self._host = host
        self._dormancy = dormancy
        self._clock = clock

    def living(self, box_id: str) -> Living:
        """The box as the host knows it. Raises BoxGone when it does not live."""
        living = self._host.living.get(box_id)
        if living is None:
            message = f"cannot reach box {box_id}: it does not live"
            raise BoxGone(message)
        return living

    def guest(self, box_id: str) -> GuestClient:
        """That of a box, parked or not. Raises BoxGone."""
        return self.of(self.living(box_id))

    def of(self, living: Living) -> GuestClient:
        """That of a box which need not be known by its id yet."""
        return GuestClient(self._host.places.socket(living.record.handle), clock=self._clock)

    @contextlib.asynccontextmanager
    async def calling(self, box_id: str) -> AsyncIterator[GuestClient]:
        """The box's guest. One that stops answering because its box ends is BoxGone, not BoxUnresponsive.

        A dying process 1 closes its connections one after another, and is known to be dead a moment later.
        While the guest is parked, calls wait.
        """
        try:
            async with self._dormancy.call(box_id):
                yield self.guest(box_id)
        except BoxUnresponsive as error:
            await self.wait_for_death(box_id, DYING_LIMIT_S)
            if box_id in self._host.living:
                raise
            raise BoxGone(error.message) from error

    async def claim(self, living: Living, spec: BoxSpec, *, named: bool) -> None:
        """Tell the guest whose box it is in; `named` when the files that name the box are of another one's.

        Raises BoxUnresponsive, BadCommand.
        """
        files = {"hostname": spec.hostname, "hosts": hostfiles.hosts(spec.hostname)} if named else {}
        limit = self._host.settings.hello_limit_s
        env = {**self._host.env, **spec.env}
        try:
            used = spec.origin is not None
            await self.of(living).claim(env=env, user=spec.user, used=used, timeout_s=limit, **files)
        except BoxGone as error:
            message = f"cannot create box {spec.id}: its guest ended at once"
            raise BoxUnresponsive(message) from error

    async def greet(self, living: Living) -> None:
        """Wait until it answers. Raises BoxGone, BoxUnresponsive."""
        await self.of(living).hello(timeout_s=self._host.settings.hello_limit_s)

    async def ping(self, box_id: str, limit_s: float = 5.0) -> None:
        """See `Runtime.ping`."""
        pid = self.living(box_id).record.pid
        if self._dormancy.parked(box_id):
            return  # it answers nobody now, which has an end of its own
        async with self.calling(box_id) as guest:
            try:
                await guest.hello(timeout_s=limit_s)
            except BoxUnresponsive as error:
                if not await self._starves(pid):
                    raise
                message = (
                    f"cannot greet the guest of box {box_id}: the box's commands leave it no turn on the processor"
                )
                raise BoxExhausted(message) from error

    async def _starves(self, pid: int) -> bool:
        """Whether process 1, which owes an answer, waits for turns that it hardly gets.

        54 s were seen, in a fork bomb on a quarter of a CPU. One that is stopped, or sleeps over the question, does
        not want the processor; one that spins gets it.
        """
        try:
            before = processes.turns(pid)
            if not before.wants:
                return False
            await self._clock.sleep(STARVING_S)
            after = processes.turns(pid)
        except ProcessLookupError:
            return False  # it ended meanwhile, which is told elsewhere
        return after.had_s - before.had_s < STARVING_PART * STARVING_S

    async def wait_for_death(self, box_id: str, limit_s: float = DEATH_LIMIT_S) -> None:
        """Return when it has ended or is held, at the latest after `limit_s` seconds."""
        deadline = self._clock.monotonic() + limit_s
        held = self._dormancy.holds
        while box_id in self._host.living and not held(box_id) and self._clock.monotonic() < deadline:
            await self._clock.sleep(0.01)
