"""Frames between the server and its launcher: a four-byte length, then JSON.

Standard library only: the launcher loads this. Both ends are ours: a frame that is too long is a bug, not an attack.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any, Final

Message = dict[str, Any]

LONGEST: Final = 1 << 20


def encode(message: Message) -> bytes:
    """The frame of one message."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return struct.pack("!I", len(body)) + body


@dataclass(slots=True)
class Decoder:
    """Turns a stream of bytes into messages."""

    held: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes. Raises ValueError on a frame that is too long."""
        self.held += data
        found: list[Message] = []
        while len(self.held) >= 4:
            (length,) = struct.unpack_from("!I", self.held)
            if length > LONGEST:
                message = f"cannot read launcher frame: {length} bytes are over {LONGEST}"
                raise ValueError(message)
            if len(self.held) < 4 + length:
                break
            found.append(json.loads(self.held[4 : 4 + length]))
            del self.held[: 4 + length]
        return found
