"""Files that are there whole or not at all, also after a loss of power.

Owns the order of steps: content, name, folder. Must not decide what a file is or when it is made.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write(path: Path, data: bytes, mode: int = 0o600, publish: Callable[[Path, Path], object] = Path.replace) -> None:
    """Write `data` to a new file in the place of what is there; it is on the disk at the return. Raises OSError.

    Without the second half a name may stand for an empty file after a loss of power. Two writers of one path at once
    are no trouble: the last one's is there. `publish` has what was written in its first path be the second one.
    """
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        publish(Path(part), path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Have the content of a file, or the names in a folder, on the disk at the return. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
