"""The log of a build, read from what the program in its devbox writes, which is hostile.

Owns the bounds of lines and logs, and what a log tells of the step that failed. Pure.
"""

from __future__ import annotations

import json
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from corral.core import errors
from corral.images.builds.model import BuildLine, BuildLogLevel

#: Characters of a line; what goes on is cut, and says so.
LINE_LENGTH: Final = 4000
#: Lines of output that a failure shows.
SHOWN: Final = 40
#: Bytes of the spool that are in no count: the program's own lines, and the end of a log that was cut.
_OWN: Final = 2 * 1024 * 1024
_MOST_PACKED: Final = 64 * 1024 * 1024

_LEVELS: Final = {level.value: level for level in BuildLogLevel}


@dataclass(frozen=True, slots=True)
class Reached:
    """The last step that began, with the end of what it wrote; 0 before the first."""

    step: int = 0
    steps: int = 0
    stage: int = 0
    stages: int = 0
    command: str = ""
    output: str = ""

    def __str__(self) -> str:
        where = f"step {self.step} of {self.steps}"
        return f"{where}, stage {self.stage} of {self.stages}" if self.stages > 1 else where


def spool_limit(log_bytes: int) -> int:
    """Bytes of the spool that hold a log of so many bytes of output, and as many of steps, whatever is in it."""
    return 2 * log_bytes + _OWN


def lines(spool: bytes, since_ms: int, until_ms: int) -> list[BuildLine]:
    """The log. Times go forward, and lie between the start of the build and now, whatever the devbox says."""
    found: list[BuildLine] = []
    at_ms = since_ms
    for entry in _entries(spool):
        told = entry.get("t")
        if isinstance(told, int):
            at_ms = max(at_ms, min(told, until_ms))
        level = _LEVELS.get(str(entry.get("l")), BuildLogLevel.INFO)
        found.append(BuildLine(len(found) + 1, level, at_ms, _text(entry.get("m"))))
    return found


def reached(spool: bytes) -> Reached:
    """Where the build was when the log ended."""
    where: tuple[int, ...] = (0, 0, 0, 0)
    command = ""
    output: deque[str] = deque(maxlen=SHOWN)
    for entry in _entries(spool):
        numbers = entry.get("s")
        if isinstance(numbers, list) and len(numbers) == len(where) and all(type(one) is int for one in numbers):
            where, command = tuple(numbers), _text(entry.get("c"))
            output.clear()
        elif entry.get("l") != BuildLogLevel.ERROR:
            output.append(_text(entry.get("m")))
    stage, stages, step, steps = where
    return Reached(step, steps, stage, stages, command, "\n".join(output))


def pack(found: list[BuildLine]) -> bytes:
    """As the table keeps it."""
    return zlib.compress(json.dumps([[line.level.value, line.timestamp_ms, line.message] for line in found]).encode())


def unpack(packed: bytes) -> list[BuildLine]:
    """What `pack` made this from."""
    unzip = zlib.decompressobj()
    text = unzip.decompress(packed, _MOST_PACKED)
    if unzip.unconsumed_tail:
        raise errors.Internal("cannot read the log of a build: it is longer than a log can be")
    return [
        BuildLine(number, BuildLogLevel(level), at_ms, message)
        for number, (level, at_ms, message) in enumerate(json.loads(text), 1)
    ]


def _entries(spool: bytes) -> Iterator[dict[str, Any]]:
    """Objects, one a line; what is none is a line of its own, for whoever wrote it wanted it to be seen."""
    whole = spool[: spool.rfind(b"\n") + 1]
    for raw in whole.splitlines():
        try:
            entry = json.loads(raw)
        except (ValueError, RecursionError):
            entry = None
        yield entry if isinstance(entry, dict) else {"m": raw.decode(errors="replace")}


def _text(told: object) -> str:
    text = told if isinstance(told, str) else json.dumps(told)[: LINE_LENGTH + 1]
    # A lone surrogate, which JSON can spell, is not text that an answer could carry.
    text = text[: LINE_LENGTH + 100].encode("utf-8", "replace").decode()
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
