"""Server-sent events, out of the bytes of an answer.

Lines are split at LF and CR LF only: text in JSON may hold other characters that `str.splitlines` takes for line ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from corral_sdk import errors

#: An event is one chunk of output (at most some 100 KiB); more without an end is not an event stream.
LONGEST_EVENT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `name` is "message" unless the server named it."""

    name: str
    data: str


class Decoder:
    """Collects bytes and gives the events that are complete. Comments keep the connection alive and are dropped."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that `data` completes. Raises BadAnswer on text that is not UTF-8 or has no end."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LONGEST_EVENT:
            raise errors.BadAnswer(f"cannot read event stream: a line is longer than {LONGEST_EVENT} bytes")
        for line in lines:
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                yield event

    def _line(self, line: bytes) -> Event | None:
        if not line:
            event = Event(self._name or "message", "\n".join(self._data)) if self._data else None
            self._name, self._data = "", []
            return event
        field, _, raw = line.partition(b":")
        if field not in {b"event", b"data"}:  # comments, ids and retry times carry nothing that is used here
            return None
        try:
            value = raw.removeprefix(b" ").decode()
        except UnicodeDecodeError as error:
            raise errors.BadAnswer("cannot read event stream: it is not UTF-8") from error
        if field == b"event":
            self._name = value
        else:
            self._data.append(value)
        return None
