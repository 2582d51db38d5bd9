"""Reading an event stream of the server to its end, however often the connection is lost."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from corral_sdk import _retry, errors
from corral_sdk._async import concurrency

T = TypeVar("T")

#: Seconds without a byte on a stream before it is opened again; the server sends comments meanwhile.
SILENCE_S = 60.0
#: Seconds before a stream that the server gave up is opened again.
REOPEN_S = 0.2
#: Seconds after which a stream that was opened counts as one that works.
STEADY_S = 5.0


def never() -> bool:
    """For a stream that is read to its end."""
    return False


async def resumed(
    once: Callable[[], AsyncIterator[T | None]], *, stopped: Callable[[], bool] = never
) -> AsyncIterator[T]:
    """Yield what `once` yields, which opens the stream where it broke off, until the server ends it.

    `once` yields None when the stream is open. A server that is stopped sends an error before it ends the stream, and
    one that dies breaks the connection. Raises Unreachable when it does not come back.
    """
    attempts = _retry.Attempts(reached=True)
    while not stopped():
        opened = None
        try:
            async for item in once():
                if item is not None:
                    attempts = _retry.Attempts(reached=True)
                    yield item
                elif opened is None:
                    opened = time.monotonic()
        except errors.TimedOut:
            await concurrency.sleep(REOPEN_S)
        except errors.Unreachable as failure:
            # Before it is open, the transport tries for as long as it has patience. After it was open for a while, in
            # which there may have been nothing to send, patience begins anew.
            if opened is not None and time.monotonic() - opened > STEADY_S:
                attempts = _retry.Attempts(reached=True)
            pause = attempts.pause(failure) if opened is not None else None
            if pause is None or stopped():
                raise
            await concurrency.sleep(pause)
        else:
            return
