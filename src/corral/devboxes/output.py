"""Reading the spool: the last lines for a view, and chunks for a stream that never cut a character.

Owns bounds: a tail reads at most 1 MiB however long the lines are. Pure but for the reader that it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: Returns bytes of one stream from an offset, at most as many as asked for.
Reader = Callable[[int, int], bytes]

CHUNK: Final = 64 * 1024
TAIL_LIMIT: Final = 1024 * 1024

_MAX_UTF8: Final = 4


def tail(read: Reader, size: int, lines: int) -> tuple[str, bool]:
    """Return the last `lines` lines of `size` bytes, and whether something comes before them.

    Bytes that are not UTF-8 become U+FFFD. A line end at the very end belongs to the last line.
    """
    data, start = last_lines(read, size, lines)
    return data.decode(errors="replace"), start > 0


def last_lines(read: Reader, size: int, lines: int) -> tuple[bytes, int]:
    """Return the last `lines` lines of `size` bytes, and the offset at which they begin."""
    if lines <= 0:
        return b"", size
    data, start = b"", size
    while start > 0 and data.count(b"\n", 0, -1) < lines and len(data) < TAIL_LIMIT:
        step = min(CHUNK, start, TAIL_LIMIT - len(data))
        piece = read(start - step, step)
        if len(piece) < step:  # the spool was removed meanwhile
            break
        data, start = piece + data, start - step
    cut = _start_of_last_lines(data, lines)
    if cut == 0 and start > 0:
        cut = _first_character(data)
    return data[cut:], start + cut


def lines_of(chunk: bytes, *, whole: bool) -> list[bytes]:
    """Split what was read, at most CHUNK bytes, after each line feed and carriage return, which stay.

    The last line is left out while it has no line feed, unless the output is `whole`: more of it may come. One that
    fills a chunk is passed on in pieces that cut no character.
    """
    lines = chunk.splitlines(keepends=True)
    if not lines or whole or lines[-1].endswith(b"\n"):
        return lines
    last = lines.pop()
    return lines or ([last[: whole_characters(last)]] if len(last) == CHUNK else [])


def shown(line: bytes) -> str:
    """A line of `lines_of` as text, without its end."""
    return line.removesuffix(b"\n").removesuffix(b"\r").decode(errors="replace")


def whole_characters(data: bytes) -> int:
    """How many bytes of `data` to pass on so that a character which has begun at its end is not cut.

    At most three bytes are held back, and only if they can still become a character.
    """
    for back in range(1, min(_MAX_UTF8, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0x80:  # a continuation: its first byte is further left
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return len(data) - back if needed > back else len(data)
    return len(data)


def _start_of_last_lines(data: bytes, lines: int) -> int:
    at = len(data) - 1 if data.endswith(b"\n") else len(data)
    for _ in range(lines):
        at = data.rfind(b"\n", 0, at)
        if at < 0:
            return 0
    return at + 1


def _first_character(data: bytes) -> int:
    """Offset of the first byte that is not the rest of a character cut at the front."""
    return next((at for at, byte in enumerate(data[:_MAX_UTF8]) if byte & 0xC0 != 0x80), 0)
