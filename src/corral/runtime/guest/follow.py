"""An execution's events as Progress.

Owns the belief in them: sizes only grow, results are in range, and no guest makes the server busy with events.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Final

from corral.core.clock import Clock
from corral.runtime.contract import ExecResult, Progress
from corral.runtime.guest import protocol
from corral.runtime.guest.channel import Channel, limited
from corral.runtime.guest.fields import Fields

#: Three heartbeats missed: the guest hangs.
_PATIENCE_S: Final = 3 * protocol.HEARTBEAT_S

#: Our guest sends an event every 20 ms at most. Beyond that pace, after a few at once, the reader pauses, and
#: with it, by back-pressure, the guest.
_PACE_S: Final = 0.018
_BURST: Final = 8

_MOST: Final = 1 << 62


class Following:
    """What `execute` and `wait` return: the program runs (or has ended); `events` tells how it goes on.

    `pid` is its process in the box, only for people to read. `known` says that the id had been started before.
    An async context manager that closes the connection; the command goes on without it.
    """

    def __init__(self, channel: Channel, reply: bytes, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock
        fields = Fields(reply, channel.doing)
        self.pid = fields.integer("pid", 0, _MOST)
        self.known = fields.flag("known")

    async def events(self) -> AsyncIterator[Progress]:
        """Yield growth, then one Progress with the result. Raises BoxGone, BoxUnresponsive."""
        stdout = stderr = 0
        slack, last = float(_BURST), self._clock.monotonic()
        try:
            while True:
                async with limited(_PATIENCE_S, self._channel.doing):
                    _, payload = await self._channel.expect(protocol.EVENT)
                fields = Fields(payload, self._channel.doing)
                stdout = max(stdout, fields.integer("stdout", 0, _MOST))
                stderr = max(stderr, fields.integer("stderr", 0, _MOST))
                if fields.has("exit_code"):
                    yield Progress(stdout, stderr, _result(fields))
                    return
                yield Progress(stdout, stderr)
                now = self._clock.monotonic()
                slack, last = min(_BURST, slack + (now - last) / _PACE_S) - 1, now
                if slack < 0:
                    await self._clock.sleep(_PACE_S)
        finally:
            await self._channel.close()

    async def close(self) -> None:
        """Close the connection. Safe to call twice."""
        await self._channel.close()

    async def __aenter__(self) -> Following:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _result(fields: Fields) -> ExecResult:
    signal = fields.integer("signal", 1, 64) if fields.has("signal") else None
    return ExecResult(
        exit_code=fields.integer("exit_code", 0, 255) if signal is None else 128 + signal,
        signal=signal,
        stdout_cut=fields.flag("stdout_cut"),
        stderr_cut=fields.flag("stderr_cut"),
    )
