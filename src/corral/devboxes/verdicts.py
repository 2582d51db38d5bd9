"""Why a command failed, where its devbox's limits explain it: the look at them, right after its end.

Owns what is looked at. What it means is decided by `runtime.failure`. Must not record anything.
"""

from __future__ import annotations

from typing import Final

from corral.runtime import failure
from corral.runtime.contract import BoxGone, ExecResult, NoSuchExecution, Runtime, Stream
from corral.runtime.failure import Blame, Cause

#: Bytes of the end of a stream that are looked at, and quoted.
LAST_WORDS: Final = 400


def last_words(runtime: Runtime, devbox_id: str, execution_id: str, *streams: Stream) -> bytes:
    """The end of the first of these outputs of an execution that has any."""
    try:
        for stream in streams:
            if size := runtime.output_size(devbox_id, execution_id, stream):
                start = max(0, size - LAST_WORDS)
                return runtime.read_output(devbox_id, execution_id, stream, start, LAST_WORDS)
    except NoSuchExecution:
        pass  # it was not started, or its output is forgotten
    return b""


async def out_of_disk(runtime: Runtime, devbox_id: str, execution_id: str, result: ExecResult) -> Blame | None:
    """The verdict on a command that failed while the devbox's disk was full; None on all others."""
    if result.exit_code == 0 or result.lost:
        return None
    try:
        usage = await runtime.usage(devbox_id)
    except BoxGone:
        return None
    # On a terminal all goes to the standard output.
    said = last_words(runtime, devbox_id, execution_id, Stream.STDERR, Stream.STDOUT)
    full = failure.is_full(usage, said)
    blame = failure.classify(failure.RawOutcome(result=result, disk_full=full))
    return blame if blame.cause is Cause.OUT_OF_DISK else None
