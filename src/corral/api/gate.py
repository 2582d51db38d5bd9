"""The door: every request passes here, before and after its handler.

Owns the order: route, key, right, parameters, body, replay, handler, and that every failure ends as JSON. Pure ASGI.
Must not know what a route is for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, Final, cast
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corral.api import bodies, problems, replay
from corral.api.routing import Intake, Later, Route, Row, Table
from corral.core import errors, log
from corral.devboxes.service import PtyTunnels
from corral.http import hold, params
from corral.identity.service import Identity

_MAX_REQUEST_ID: Final = 256

#: Query and path together; longer ones are mistakes or attacks.
_MAX_QUERY: Final = 16 * 1024


class BrokenOff(Exception):
    """An answer could not be finished. The server closes the connection, or resets the stream."""


class Gate:
    """The ASGI application. `inner` handles what is let through, with the route's name in its scope."""

    def __init__(
        self,
        inner: ASGIApp,
        table: Table,
        identity: Identity,
        tunnels: PtyTunnels,
        replays: replay.Replays,
        drain: hold.Drain,
    ) -> None:
        self._inner = inner
        self.table = table
        self._identity = identity
        self._tunnels = tunnels
        self._replays = replays
        self.drain = drain
        self._intaker = bodies.Intaker()
        self._log = log.get("api")
        self.tasks: set[asyncio.Task[Any]] = set()  #: requests that are at work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError("serve this application without lifespan: the daemon starts and stops its parts")
        async with self._owned():
            if scope["type"] == "websocket":
                await self._socket(scope, receive, send)
            else:
                await self._http(scope, receive, send)

    async def close(self, grace_s: float) -> None:
        """End what is held, wait `grace_s` seconds for the rest, then cancel it. Safe to call twice."""
        self.drain.begin()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=grace_s)
        tasks = set(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _owned(self) -> AsyncIterator[None]:
        """The server's task of this request, known until it has ended."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self.tasks.add(task)
        try:
            yield
        finally:
            self.tasks.discard(task)

    # -- HTTP

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answering(send)
        incoming = bodies.Incoming(receive)
        does = "answer request"
        try:
            row = self.table.find(scope["method"], scope["path"])
            does = row.does
            route, account_id = await self._admit(scope, row)
            await self._handle(route, account_id, scope, incoming, answer)
        except ClientDisconnect:
            return  # nobody is there to be answered
        except asyncio.CancelledError:
            if answer.started or not self.drain.begun:
                raise
            # By `close`. Unanswered it would be a 500 without words, which clients take for a fault.
            stopping = errors.Unavailable(f"cannot {does}: the server is stopping", remedy="ask again")
            await self._fail(answer, does, scope["path"], stopping)
        except Exception as error:  # noqa: BLE001 - what is no known problem is answered as 500 and logged
            await incoming.discard(scope)
            await self._fail(answer, does, scope["path"], error)

    async def _fail(self, answer: _Answering, does: str, path: str, error: Exception) -> None:
        problem = problems.of(error, does)
        if problem is None:
            self._log.error("request failed", does=does, path=path, exc_info=error)
            problem = problems.internal(does)
        if answer.started:
            # The status has been sent: break the answer off, so that nobody takes it for a whole one.
            self._log.warning("answer broken off", does=does, path=path, cause=problem.message)
            raise BrokenOff(problem.message) from None
        await answer.problem(problem)

    async def _admit(self, scope: Scope, row: Row) -> tuple[Route, str]:
        """Check key, right and parameters; return the route and the account's id, "" on a public route."""
        key = self._tunnels.key_in(bodies.header(scope, b"host"))
        if key is not None or (isinstance(row, Route) and row.tunnel):
            return self._admit_tunnelled(scope, row, key)
        account_id = ""
        if row.need.resource is not None:
            caller = await self._identity.authenticate(bodies.header(scope, b"authorization"))
            if not caller.may(row.need):
                right = f"{row.need.scope.name.lower()} {row.need.resource.value}"
                raise errors.Forbidden(f"cannot {row.does}: this key has no right to {right}")
            account_id, scope[params.CALLER] = caller.account_id, caller
        if isinstance(row, Later):
            raise errors.NotOffered(f"cannot {row.does}: this server does not offer {row.method} {row.path}")
        _check_query(scope, row)
        scope[params.ACCOUNT] = account_id
        scope[hold.DRAIN] = self.drain
        return row, account_id

    def _admit_tunnelled(self, scope: Scope, row: Row, key: str | None) -> tuple[Route, str]:
        """As `_admit`, for what is addressed by a tunnel's host: its token opens its own routes and nothing else."""
        if key is None or isinstance(row, Later) or not row.tunnel:
            where = "not through a tunnel" if key is not None else "only through a tunnel: see create_pty_tunnel"
            raise errors.NotFound(f"cannot {row.does}: this route is there {where}")
        grant = self._tunnels.admit(key, _tunnel_token(scope))
        _check_query(scope, row)
        scope[params.ACCOUNT], scope[params.TUNNELLED] = grant.account_id, grant.devbox_id
        scope[hold.DRAIN] = self.drain
        return row, grant.account_id

    async def _handle(
        self, route: Route, account_id: str, scope: Scope, receive: bodies.Incoming, answer: _Answering
    ) -> None:
        if route.intake is Intake.STREAM:
            await self._inner(scope, receive, answer.send)
            return
        async with self._intaker.reading(route, scope, receive) as body:
            again = bodies.Reread(body, receive)
            request_id = bodies.header(scope, b"x-request-id") if route.replay else None
            if request_id is None:
                await self._inner(scope, again, answer.send)
            else:
                await self._once(route, scope, again, answer, account_id, request_id)

    async def _once(
        self,
        route: Route,
        scope: Scope,
        receive: bodies.Reread,
        answer: _Answering,
        account_id: str,
        request_id: str,
    ) -> None:
        if len(request_id) > _MAX_REQUEST_ID:
            raise errors.Invalid(f"cannot {route.does}: x-request-id: must be at most {_MAX_REQUEST_ID} characters")

        # Of the same key only: another one of the account may have other rights.
        caller = scope.get(params.CALLER)
        key_id = caller.key_id if caller is not None else ""
        parts = (account_id, key_id, scope["method"], scope["path"], request_id)
        key = replay.digest(*(part.encode() for part in parts), scope["query_string"], receive.body)
        scope[params.KEEP] = partial(self._replays.keep, key)

        async def act() -> replay.Answer:
            caught = _Caught()
            try:
                await self._inner(scope, receive, caught.send)
            except Exception as error:
                if (problem := problems.of(error, route.does)) is None:
                    raise
                return replay.Answer(problem.status, problem.body())
            return replay.Answer(caught.status, bytes(caught.body))

        kept, repeated = await self._replays.once(key, act)
        headers = problems.headers(kept.status, len(kept.body))
        if repeated:
            headers.append((b"x-corral-replayed", b"true"))
        await answer.json(kept.status, kept.body, headers)

    # -- WebSocket

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = False

        async def watched(message: Message) -> None:
            nonlocal accepted
            accepted = accepted or message["type"] == "websocket.accept"
            await send(message)

        does = "open WebSocket"
        try:
            row = self.table.find("WEBSOCKET", scope["path"])
            does = row.does
            await self._admit(scope, row)
            await self._inner(scope, receive, watched)
        except Exception as error:  # noqa: BLE001 - what is no known problem is answered as 500 and logged
            problem = problems.of(error, does)
            if problem is None:
                self._log.error("request failed", does=does, path=scope["path"], exc_info=error)
                problem = problems.internal(does)
            if accepted:
                await send({"type": "websocket.close", "code": 1011, "reason": problem.message[:100]})
            else:
                await _deny(send, problem)


async def _deny(send: Send, problem: problems.Problem) -> None:
    body = problem.body()
    start = {"status": problem.status, "headers": problem.headers(len(body))}
    await send({"type": "websocket.http.response.start", **start})
    await send({"type": "websocket.http.response.body", "body": body})


def _tunnel_token(scope: Scope) -> str | None:
    """The token of a tunnel: in its header, as the only protocol that a WebSocket offers, or as a bearer."""
    told = bodies.header(scope, b"x-runloop-tunnel-authorization")
    if told is None and scope.get("subprotocols"):
        return str(scope["subprotocols"][0])
    if told is None:
        told = bodies.header(scope, b"authorization") or ""
    scheme, _, token = told.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _check_query(scope: Scope, route: Route) -> None:
    """Refuse a parameter that the route does not have: a mistyped filter would select everything."""
    query: bytes = scope["query_string"]
    if not query:
        return
    if len(query) > _MAX_QUERY:
        raise errors.TooLarge(f"cannot {route.does}: the query is over {_MAX_QUERY} bytes")
    for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name in route.query or any(known.endswith("[") and name.startswith(known) for known in route.query):
            continue
        known = ", ".join(f"{one}key]" if one.endswith("[") else one for one in route.query) or "none"
        raise errors.Invalid(
            f"cannot {route.does}: {name[:100]}: is not a query parameter of this route; it takes {known}"
        )


class _Caught:
    """An answer that is caught instead of being sent."""

    def __init__(self) -> None:
        self.status = 500
        self.body = bytearray()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")


class _Answering:
    """The way back to the client, which knows whether the answer has begun."""

    def __init__(self, send: Callable[[Message], Awaitable[None]]) -> None:
        self._send = send
        self.started = False

    async def send(self, message: Message) -> None:
        self.started = True
        await self._send(message)

    async def json(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def problem(self, problem: problems.Problem) -> None:
        body = problem.body()
        await self.json(problem.status, body, problem.headers(len(body)))
