"""Holding a request open: for as long as its client is there and the server is not stopping.

Owns the watch on both. A wait that is given up is cancelled and awaited here, so that none outlives its request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, Final, TypeVar, cast

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.types import Receive, Send

from corral.core import errors

T = TypeVar("T")

#: Seconds for which a client may leave what is sent to it unread.
SEND_S: Final = 300.0

#: Where the gate leaves the server's Drain in a request's scope.
DRAIN: Final = "corral.drain"


class Drain:
    """The server's wish to stop. Held requests see it and end in a way that clients take up again elsewhere."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None
        self._begun = False

    @property
    def begun(self) -> bool:
        """Whether the server is stopping."""
        return self._begun

    def begin(self) -> None:
        """Tell everything that is held. Safe to call twice."""
        self._begun = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def future(self) -> asyncio.Future[None]:
        """Done once the server is stopping. Shared: do not cancel it."""
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
            if self._begun:
                self._future.set_result(None)
        return self._future


def drain_of(connection: HTTPConnection) -> Drain:
    """The Drain of the server that took this request."""
    return cast("Drain", connection.scope[DRAIN])


async def gone(receive: Receive) -> None:
    """Return when the client has left. To be called once the request's body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def deliver(send: Send, body: bytes) -> None:
    """Send a piece of an answer. Raises ClientDisconnect when the client has not taken it for SEND_S seconds."""
    try:
        async with asyncio.timeout(SEND_S):
            await send({"type": "http.response.body", "body": body, "more_body": True})
    except TimeoutError:
        raise ClientDisconnect from None


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended. What they raise is not wanted any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def hold(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work` and return its value; give it up when the client leaves or the server stops.

    Raises ClientDisconnect, or errors.TimedOut, on which clients ask again. The work is cancelled then: it must be a
    wait, not an act.
    """
    stopping = drain_of(request).future()
    worker = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(gone(request.receive))
    try:
        await asyncio.wait((worker, leaving, stopping), return_when=asyncio.FIRST_COMPLETED)
        if worker.done():
            return worker.result()
        if leaving.done():
            raise ClientDisconnect
        raise errors.TimedOut("cannot wait any longer: the server is stopping; ask again")
    finally:
        await end(worker, leaving)


class Tick:
    """What `held` yields when nothing else came for a while."""


TICK: Final = Tick()


async def held(
    source: AsyncIterator[T], receive: Receive, stopping: asyncio.Future[None] | None, tick_s: float | None
) -> AsyncGenerator[T | Tick, None]:
    """Yield what `source` yields, and TICK after each `tick_s` seconds without anything.

    Raises ClientDisconnect when the client has left, errors.TimedOut when `stopping` is done. Closes `source`.
    """
    leaving = asyncio.ensure_future(gone(receive))
    watched = (leaving,) if stopping is None else (leaving, stopping)
    following: asyncio.Future[T] = asyncio.ensure_future(_next(source))
    try:
        while True:
            await asyncio.wait((following, *watched), timeout=tick_s, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                raise ClientDisconnect
            if stopping is not None and stopping.done():  # also when there is always more to send
                raise errors.TimedOut("cannot stream any longer: the server is stopping; resume at the last offset")
            if following.done():
                try:
                    value = following.result()
                except StopAsyncIteration:
                    return
                yield value
                following = asyncio.ensure_future(_next(source))
            else:
                yield TICK
    finally:
        await end(following, leaving)
        if close := getattr(source, "aclose", None):
            await close()


async def _next(source: AsyncIterator[T]) -> T:
    return await anext(source)
