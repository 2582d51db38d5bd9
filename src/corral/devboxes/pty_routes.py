"""HTTP of the dialect's PTY sessions: the tunnel to a devbox, and what is addressed through it.

Owns the views and the single attach of the dialect. Must not hold a rule about a session: `sessions` does.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Path, Query
from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket

from corral.core import errors
from corral.devboxes import execution_views, execution_wire, model, service, terminals
from corral.devboxes.routes import DevboxId
from corral.http import params
from corral.http.model import Nothing
from corral.runtime.contract import TerminalSize

#: Of the exchange over the WebSocket.
PROTOCOL_VERSION: Final = "1"

SessionName = Annotated[str, Path(pattern=execution_wire.SESSION_NAME)]
Cells = Annotated[int | None, Query(description="1 to 1000; takes effect together with the other.")]


class PtyRoutes:
    """Open a tunnel to a devbox's terminals, connect to a session, control it."""

    def __init__(
        self,
        devboxes: service.Devboxes,
        executions: service.Executions,
        sessions: service.Sessions,
        tunnels: service.PtyTunnels,
    ) -> None:
        self._devboxes = devboxes
        self._executions = executions
        self._sessions = sessions
        self._tunnels = tunnels

    async def create_tunnel(
        self, request: Request, devbox_id: DevboxId, body: Nothing
    ) -> execution_views.PtyTunnelView:
        """A new tunnel to the devbox's terminals, with a token that lasts an hour."""
        account_id = params.account_id(request)
        devbox = await self._devboxes.get(account_id, devbox_id)
        if devbox.observed is not model.Observed.RUNNING:
            raise errors.WrongState(f"cannot create PTY tunnel: devbox {devbox_id} is {devbox.observed.value}")
        created = self._tunnels.create(account_id, devbox_id)
        return execution_views.PtyTunnelView(tunnel_key=created.key, auth_token=created.token)

    async def connect(
        self, request: Request, session_name: SessionName, cols: Cells = None, rows: Cells = None
    ) -> execution_views.PtyConnectView:
        """The session of this name, made if there is none; then open the WebSocket at `connect_url`."""
        session = await self._sessions.connect(*_place(request), session_name, _both(cols, rows))
        return execution_views.PtyConnectView(
            session_name=session_name,
            connect_url=f"/pty/{session_name}/attach",
            created=session.created,
            attached=session.attached,
            cols=session.size.cols,
            rows=session.size.rows,
            idle_ttl_seconds=int(self._sessions.idle_s),
            protocol_version=PROTOCOL_VERSION,
            status="running",
        )

    async def control(
        self, request: Request, session_name: SessionName, body: execution_wire.PtyControlBody
    ) -> execution_views.PtyControlResultView:
        """Resize the terminal, signal its job, or close the session."""
        where = (*_place(request), session_name)
        if body.action == "resize":
            size = _both(body.cols, body.rows)
            if size is None:
                raise errors.Invalid("cannot resize session: cols and rows must both be there, 1 to 1000")
            await self._sessions.resize(*where, size)
        elif body.action == "signal":
            await self._sessions.signal(*where, body.signal or "")
        else:
            await self._sessions.close(*where)
        return execution_views.PtyControlResultView(session_name=session_name, status="ok")

    async def attach(self, websocket: WebSocket, session_name: SessionName) -> None:
        """The session's terminal: raw bytes both ways, for one client at a time. Closes with 4000 at its end."""
        account_id, devbox_id = _place(websocket)
        execution = await self._sessions.find(account_id, devbox_id, session_name)

        async def ended() -> bool:
            return await self._executions.has_ended(account_id, devbox_id, execution.id, terminals.RECORD_S)

        with self._sessions.viewing(execution, alone=True):
            stream = await self._executions.attach(account_id, devbox_id, execution.id)
            try:
                # A client that offers protocols expects one of them; here the only one is its token.
                await websocket.accept(subprotocol=next(iter(websocket.scope.get("subprotocols") or ()), None))
                await terminals.Link(websocket, ended).couple(stream)
            finally:
                await stream.close()


def _place(connection: HTTPConnection) -> tuple[str, str]:
    return params.account_id(connection), params.tunnelled(connection)


def _both(cols: int | None, rows: int | None) -> TerminalSize | None:
    """A size, if both are there and in range: the dialect ignores them otherwise."""
    if cols is None or rows is None or not all(1 <= cells <= execution_wire.MOST_CELLS for cells in (cols, rows)):
        return None
    return TerminalSize(rows=rows, cols=cols)
