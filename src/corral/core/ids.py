"""Names for things: `dbx_` and 21 characters of base62, version 7 UUIDs, and secrets such as API keys.

Owns the only source of randomness. Must not check whether an id is taken: 125 bits are not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Final

from corral.core.clock import Clock

ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE: Final = len(ALPHABET)

#: Bytes above this would favour the first letters: 248 is the largest multiple of 62 that a byte holds.
_FAIR: Final = 256 - 256 % _BASE

#: 21 characters hold 125 bits.
ID_LENGTH: Final = 21

#: 43 characters hold 256 bits.
SECRET_LENGTH: Final = 43


def derived(prefix: str, *parts: str) -> str:
    """The id of what is the same for the same `parts`, none of which holds a NUL: for what may be made twice."""
    number = int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest())
    letters = [ALPHABET[number // _BASE**place % _BASE] for place in range(ID_LENGTH)]
    return f"{prefix}_{''.join(letters)}"


class Ids:
    """Makes ids. `random_bytes` is os.urandom unless a test gives its own."""

    def __init__(self, clock: Clock, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._clock = clock
        self._random_bytes = random_bytes

    def base62(self, length: int) -> str:
        """Return `length` characters, each of the 62 equally likely."""
        letters: list[str] = []
        while len(letters) < length:
            letters += [ALPHABET[byte % _BASE] for byte in self._random_bytes(length + 8) if byte < _FAIR]
        return "".join(letters[:length])

    def new(self, prefix: str) -> str:
        """Return `<prefix>_` and 21 characters of base62, for example `dbx_…` for a devbox."""
        return f"{prefix}_{self.base62(ID_LENGTH)}"

    def secret(self, prefix: str) -> str:
        """Return `<prefix>_` and 43 characters of base62: a bearer secret of 256 bits."""
        return f"{prefix}_{self.base62(SECRET_LENGTH)}"

    def label(self) -> str:
        """Return 32 hexadecimal digits: 128 bits for a part of a host name, where case does not count."""
        return self._random_bytes(16).hex()

    def uuid7(self) -> str:
        """Return a UUID of version 7 (RFC 9562): 48 bits of Unix milliseconds, then random bits."""
        tail = bytearray(self._random_bytes(10))
        tail[0] = 0x70 | (tail[0] & 0x0F)
        tail[2] = 0x80 | (tail[2] & 0x3F)
        text = ((self._clock.now_ms() & (1 << 48) - 1).to_bytes(6, "big") + bytes(tail)).hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
