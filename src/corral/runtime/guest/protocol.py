"""Numbers and names of protocol version 1, as guest/PROTOCOL.md has them. Tests compare the two."""

from __future__ import annotations

import struct
from typing import Final

VERSION: Final = 1

REQUEST: Final = 1
REPLY: Final = 2
ERROR: Final = 3
EVENT: Final = 4
DATA: Final = 5
END: Final = 6

#: kind, length of the payload
HEADER: Final = struct.Struct("<BI")

#: Bounds on a frame's payload, in bytes. Requests are that large because they carry environments.
MAX_REQUEST: Final = 4 * 1024 * 1024
MAX_ANSWER: Final = 256 * 1024
MAX_DATA: Final = 256 * 1024

MAX_ID: Final = 128
MAX_PATH: Final = 4096
MAX_ENTRIES: Final = 10_000
MAX_EXECUTIONS: Final = 4096

#: The guest repeats an event after this long without one, so that a follower can tell quiet from hung.
HEARTBEAT_S: Final = 20.0
