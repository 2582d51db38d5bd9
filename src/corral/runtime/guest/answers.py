"""What the guest's answers mean: their fields and rows as values of the contract and of `model`.

Owns the bounds of every value. Must not wait, and must not see a connection.
"""

from __future__ import annotations

from typing import Final

from corral.runtime.contract import ExecutionEnded, FileInfo, FileKind, Stream
from corral.runtime.guest import protocol
from corral.runtime.guest.fields import Fields, Row
from corral.runtime.guest.model import ExecutionState, Hello

_ID_MAX: Final = 1 << 32
_NAME_MAX: Final = 255
_SIZE_MAX: Final = 1 << 62


def hello(fields: Fields) -> Hello:
    """Return who the guest is. Raises BoxUnresponsive when it speaks another protocol."""
    found = Hello(
        protocol=fields.integer("protocol", 0, 1 << 16),
        version=fields.text("version", 64),
        claimed=fields.flag("claimed"),
        uptime_ms=fields.integer("uptime_ms", 0, _SIZE_MAX),
    )
    if found.protocol != protocol.VERSION:
        raise fields.nonsense(f"of protocol {found.protocol}, not {protocol.VERSION}")
    return found


def passed(fields: Fields, stream: Stream | None, doing: str) -> int:
    """Return how many bytes of the stream went to its file. Raises ExecutionEnded when some were dropped instead."""
    # A guest of before this field has no other streams than terminals.
    if stream is not None and fields.flag("cut"):
        raise ExecutionEnded(f"cannot {doing}: a part of its {stream.value} was dropped already")
    return fields.integer("passed", 0, _SIZE_MAX) if fields.has("passed") else 0


def info(fields: Fields) -> FileInfo:
    """Return what a path is, as `stat` and `read` answer it."""
    kind = fields.text("kind", 16)
    return FileInfo(
        path=fields.text("path", 2 * protocol.MAX_PATH),
        kind=FileKind(kind) if kind in set(FileKind) else FileKind.OTHER,
        size=fields.integer("size", 0, _SIZE_MAX),
        mode=fields.integer("mode", 0, 0o7777),
        mtime=fields.number("mtime"),
        uid=fields.integer("uid", 0, _ID_MAX),
        gid=fields.integer("gid", 0, _ID_MAX),
    )


def execution(row: Row) -> ExecutionState:
    """Return a row of the executions that the guest remembers."""
    return ExecutionState(
        id=row.text(0, protocol.MAX_ID),
        pid=row.integer(1, 0, _ID_MAX),
        running=row.flag(2),
        exit_code=None if row.missing(3) else row.integer(3, 0, 255),
    )


def entry(folder: str, row: Row) -> FileInfo:
    """Return a row of the directory `folder`."""
    kind = row.text(1, 16)
    return FileInfo(
        path=f"{folder.rstrip('/')}/{row.text(0, _NAME_MAX)}",
        kind=FileKind(kind) if kind in set(FileKind) else FileKind.OTHER,
        size=row.integer(2, 0, _SIZE_MAX),
        mode=row.integer(3, 0, 0o7777),
        mtime=row.number(4),
        uid=row.integer(5, 0, _ID_MAX),
        gid=row.integer(6, 0, _ID_MAX),
    )


def written(fields: Fields) -> int:
    """Return how many bytes of a file were written."""
    return fields.integer("bytes", 0, _SIZE_MAX)
