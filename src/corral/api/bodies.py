"""Bodies of requests on their way in: read whole within a limit, read again, or thrown away.

Owns what is said about a body before anybody looks into it: its size and its content type.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from corral.api.routing import MIB, Intake, Route
from corral.core import errors

#: What is read of a body that nobody wants, and for how many seconds, before its request is refused. A client that is
#: cut off while it sends mostly sees a reset connection and not the reason.
DISCARDED: Final = 64 * MIB
DISCARD_S: Final = 10.0

#: Bytes of all bodies that are read whole, over all requests at work; with their copies about three times as much.
HELD: Final = 512 * MIB

#: Seconds for a whole body: the longest that clients wait for an answer.
READ_S: Final = 600.0


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of this name; None when there is none."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None


class Incoming:
    """A request's messages, and whether its body has been read to the end."""

    __slots__ = ("_receive", "begun", "ended")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.begun = False
        self.ended = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.begun = True
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.ended = True
        return message

    async def discard(self, scope: Scope) -> None:
        """Read what is left of the body, within bounds, so that the client can read why it is refused."""
        if self.ended or scope["method"] in {"GET", "HEAD", "DELETE", "OPTIONS"}:
            return
        if not self.begun and (header(scope, b"expect") or "").lower() == "100-continue":
            return  # it waits for the answer before it sends anything
        size = 0
        try:
            async with asyncio.timeout(DISCARD_S):
                while not self.ended and size < DISCARDED:
                    size += len((await self()).get("body", b""))
        except TimeoutError:
            return  # it is too slow: the reason is sent while it is still sending


class Intaker:
    """Reads bodies whole: each within its route's limit, and all that are at work within HELD."""

    def __init__(self) -> None:
        self.held = 0

    @contextlib.asynccontextmanager
    async def reading(self, route: Route, scope: Scope, receive: Receive) -> AsyncIterator[bytes]:
        """The body, counted for as long as the context lasts.

        Raises errors.TooLarge, errors.Invalid, errors.Exhausted, errors.TimedOut, ClientDisconnect.
        """
        declared = header(scope, b"content-length")
        if declared is not None and declared.isdecimal() and int(declared) > route.body_limit:
            raise _too_large(route)
        parts: list[bytes] = []
        try:
            try:
                async with asyncio.timeout(READ_S):
                    await self._read(route, receive, parts)
            except TimeoutError:
                raise errors.TimedOut(f"cannot {route.does}: the body took over {READ_S:g} s") from None
            yield _checked(route, scope, b"".join(parts))
        finally:
            self.held -= sum(map(len, parts))

    async def _read(self, route: Route, receive: Receive, parts: list[bytes]) -> None:
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > route.body_limit:
                raise _too_large(route)
            if self.held + len(part) > HELD:
                raise errors.Exhausted(f"cannot {route.does}: over {HELD // MIB} MiB of bodies are at work; try again")
            self.held += len(part)
            parts.append(part)
            if not message.get("more_body", False):
                return


def _checked(route: Route, scope: Scope, body: bytes) -> bytes:
    """The body as its handler takes it. Raises errors.Invalid for another content type than JSON."""
    if not body:
        _declare_json(scope)
        return b"{}" if route.intake is Intake.JSON else b""
    if route.intake is Intake.JSON:
        kind = (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            told = kind[:100] or "absent"
            raise errors.Invalid(f"cannot {route.does}: content-type must be application/json, not {told}")
    return body


def _too_large(route: Route) -> errors.TooLarge:
    return errors.TooLarge(f"cannot {route.does}: the body is over {route.body_limit} bytes")


def _declare_json(scope: Scope) -> None:
    """Let an absent body pass as `{}`, which routes with optional fields take."""
    kept = [pair for pair in scope["headers"] if pair[0] not in {b"content-type", b"content-length"}]
    scope["headers"] = [*kept, (b"content-type", b"application/json")]


class Reread:
    """A body that has been read, as `receive` gives it; after that, the client's own messages."""

    __slots__ = ("_given", "_receive", "body")

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.body = body
        self._receive = receive
        self._given = False

    async def __call__(self) -> Message:
        if self._given:
            return await self._receive()
        self._given = True
        return {"type": "http.request", "body": self.body, "more_body": False}
