"""Ids that the client makes, so that a request sent twice has one effect."""

from __future__ import annotations

import os
import time
import uuid


def request_id() -> str:
    """Return the id of one call; it stays the same when the call is sent again."""
    return f"corral-{uuid.UUID(bytes=os.urandom(16), version=4)}"


def command_id() -> str:
    """Return a UUID of version 7 (RFC 9562): 48 bits of Unix milliseconds, then random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))
