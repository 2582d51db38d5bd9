# Made from _async/logs.py by sdk/tools/generate_sync.py: change that and run it again.
"""The log of a devbox as it is written."""

from __future__ import annotations

import json
from collections.abc import Iterator

from corral_sdk import _sse, errors
from corral_sdk._sync import stream
from corral_sdk._sync.transport import Call, Transport
from corral_sdk.models import LogEntry


class LogFollower:
    """Reads a log from its begin, or after a cursor, to the end of its devbox; opens it again after its last line."""

    def __init__(self, transport: Transport, devbox_id: str, *, execution_id: str | None, cursor: str | None) -> None:
        self._transport = transport
        self._path = f"/v1/devboxes/{devbox_id}/logs/tail"
        self._execution_id = execution_id
        self._cursor = cursor

    def read(self) -> Iterator[LogEntry]:
        """Yield entries as they come. Raises NotFound, Invalid, Unreachable when the server does not come back."""
        for entry in stream.resumed(self._once):
            yield entry

    def _once(self) -> Iterator[LogEntry | None]:
        params = {} if self._execution_id is None else {"execution_id": self._execution_id}
        if self._cursor is not None:
            params["starting_after"] = self._cursor
        decoder = _sse.Decoder()
        call = Call("GET", self._path, params=params, timeout_s=stream.SILENCE_S)
        with self._transport.stream(call) as response:
            yield None
            for data in response.iter_raw():
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
