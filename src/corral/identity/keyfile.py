"""The file that holds the first key: mode 0600, written whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from corral.core import errors, wholefile

#: What may be sent in a header as a bearer token, long enough not to be guessed.
_USABLE: Final = re.compile(r"[0-9A-Za-z._~+/=-]{16,512}")


def check(key: str) -> None:
    """Raise errors.Invalid when `key` cannot serve as a key."""
    if not _USABLE.fullmatch(key):
        raise errors.Invalid("cannot use CORRAL_API_KEY: it must be 16 to 512 letters, digits or any of . _ ~ + / = -")


def read_or_write(path: Path, make: Callable[[], str]) -> tuple[str, bool]:
    """Return the key in the file, and whether it was made now. Raises errors.Unavailable with the remedy."""
    try:
        if path.exists():
            key = path.read_text().strip()
            check_file(path, key)
            return key, False
        key = make()
        wholefile.write(path, key.encode() + b"\n")
    except OSError as error:
        raise errors.Unavailable(
            f"cannot write the first API key to {path}: {error.strerror}",
            remedy="let it write its data folder",
        ) from error
    return key, True


def check_file(path: Path, key: str) -> None:
    """Raise errors.Unavailable when the file holds something that is not a key."""
    if not _USABLE.fullmatch(key):
        raise errors.Unavailable(f"cannot use {path}: it does not hold an API key", remedy="remove that file")
