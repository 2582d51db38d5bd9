"""A client of the dialect's terminals: a tunnel by host name, and a WebSocket of raw bytes."""

from __future__ import annotations

import socket
import time
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync import client
from websockets.typing import Subprotocol

from tests.harness.server import Server

#: Seconds that a screen may take to show what is expected.
LIMIT_S = 30.0


class Dialect:
    """One tunnel to the terminals of one devbox."""

    def __init__(self, server: Server, devbox_id: str) -> None:
        path = f"{server.url}/v1/devboxes/{devbox_id}/create_pty_tunnel"
        view = httpx.post(path, json={}, headers=server.headers, timeout=LIMIT_S).raise_for_status().json()
        self._server = server
        self._host = f"13-{view['tunnel_key']}.tunnel.localhost:{server.port}"
        self._token = view["auth_token"]

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Call a route through the tunnel."""
        headers = {"host": self._host, "x-runloop-tunnel-authorization": f"Bearer {self._token}"}
        return httpx.request(method, self._server.url + path, headers=headers, timeout=LIMIT_S, **more)

    def session(self, name: str, **query: int) -> dict[str, Any]:
        """Make the session or find it; its view."""
        view: dict[str, Any] = self.call("GET", f"/pty/{name}", params=query).raise_for_status().json()
        return view

    def attach(self, name: str) -> client.ClientConnection:
        """Connect to the session's terminal, as its only client."""
        return client.connect(
            f"ws://{self._host}{self.session(name)['connect_url']}",
            sock=socket.create_connection(("127.0.0.1", self._server.port), LIMIT_S),
            proxy=None,
            subprotocols=[Subprotocol(self._token)],
            compression=None,
            max_size=None,
        )

    @staticmethod
    def until(terminal: client.ClientConnection, wanted: bytes) -> bytes:
        """Read until `wanted` has been shown; all that was."""
        shown = b""
        deadline = time.monotonic() + LIMIT_S
        while wanted not in shown:
            try:
                shown += terminal.recv(timeout=max(0.0, deadline - time.monotonic()), decode=False)
            except TimeoutError:
                raise AssertionError(f"{wanted!r} is not in {shown[-2000:]!r}") from None
        return shown

    @staticmethod
    def close_code(terminal: client.ClientConnection) -> int | None:
        """Read to the end; the code with which the server closed."""
        deadline = time.monotonic() + LIMIT_S
        try:
            while True:
                terminal.recv(timeout=max(0.0, deadline - time.monotonic()), decode=False)
        except ConnectionClosed as end:
            return end.rcvd.code if end.rcvd is not None else None
