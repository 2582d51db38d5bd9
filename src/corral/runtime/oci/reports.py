"""What programs that the launcher started have said: the child's report, in a pipe, and the program's log.

Standard library only: the launcher runs this.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

LOG_LIMIT: Final = 4096


def read(fd: int) -> Mapping[str, Any]:
    """What the child told before it became the runtime; {} when it was killed first."""
    try:
        text = os.read(fd, 2 * LOG_LIMIT)
    except BlockingIOError:
        text = b""
    finally:
        os.close(fd)
    # The child writes once: its time, or its error; an exec that failed comes after the time.
    lines = text.replace(b"}{", b"}\n{").splitlines()
    return {key: value for line in lines for key, value in json.loads(line).items()}


def tail(path: Path) -> str:
    """The end of the runtime's log, which is then removed."""
    try:
        text = path.read_bytes()[-LOG_LIMIT:].decode(errors="replace").strip()
        path.unlink()
    except FileNotFoundError:
        return ""
    return text
