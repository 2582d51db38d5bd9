"""The log of a devbox as it is written."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from corral_sdk import _sse, errors
from corral_sdk._async import stream
from corral_sdk._async.transport import AsyncTransport, Call
from corral_sdk.models import LogEntry


class AsyncLogFollower:
    """Reads a log from its begin, or after a cursor, to the end of its devbox; opens it again after its last line."""

    def __init__(
        self, transport: AsyncTransport, devbox_id: str, *, execution_id: str | None, cursor: str | None
    ) -> None:
        self._transport = transport
        self._path = f"/v1/devboxes/{devbox_id}/logs/tail"
        self._execution_id = execution_id
        self._cursor = cursor

    async def read(self) -> AsyncIterator[LogEntry]:
        """Yield entries as they come. Raises NotFound, Invalid, Unreachable when the server does not come back."""
        async for entry in stream.resumed(self._once):
            yield entry

    async def _once(self) -> AsyncIterator[LogEntry | None]:
        params = {} if self._execution_id is None else {"execution_id": self._execution_id}
        if self._cursor is not None:
            params["starting_after"] = self._cursor
        decoder = _sse.Decoder()
        call = Call("GET", self._path, params=params, timeout_s=stream.SILENCE_S)
        async with self._transport.stream(call) as response:
            yield None
            async for data in response.aiter_raw():
                for event in decoder.feed(data):
                    entry = _entry(event)
                    self._cursor = entry.cursor
                    yield entry


def _entry(event: _sse.Event) -> LogEntry:
    try:
        body = json.loads(event.data)
        if event.name == "error":
            raise errors.from_wire(int(body.get("code", 0)), body)
    except (ValueError, TypeError, AttributeError) as error:
        raise errors.BadAnswer(f"cannot understand a line of a log: {error!r}") from error
    return LogEntry.from_wire(body)
