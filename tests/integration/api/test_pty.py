"""The dialect's terminals: a tunnel by host name, sessions that last, one client at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import websockets

from corral.devboxes import terminals
from tests.integration.api.stand import Stand


@dataclass
class Tunnel:
    """A tunnel as a client of the dialect sees it."""

    stand: Stand
    key: str
    token: str

    @property
    def host(self) -> str:
        return f"13-{self.key}.tunnel.localhost:{self.stand.url.rsplit(':', 1)[1]}"

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"host": self.host, "x-runloop-tunnel-authorization": f"Bearer {self.token}"} | more.pop(
            "headers", {}
        )
        async with httpx.AsyncClient(base_url=self.stand.url, timeout=30) as client:
            return await client.request(method, path, headers=headers, **more)

    async def connect(self, session: str, **query: int) -> dict[str, Any]:
        answer = await self.call("GET", f"/pty/{session}", params=query)
        assert answer.status_code == 200, answer.text
        view: dict[str, Any] = answer.json()
        return view

    async def control(self, session: str, **body: Any) -> httpx.Response:
        return await self.call("POST", f"/pty/{session}/control", json=body)

    async def attach(self, path: str, token: str | None = None) -> websockets.ClientConnection:
        """With the token as protocol, which is all that a browser can send."""
        return await websockets.connect(
            f"ws://{self.host}{path}",
            host="127.0.0.1",
            port=int(self.stand.url.rsplit(":", 1)[1]),
            subprotocols=[websockets.Subprotocol(self.token if token is None else token)],
            compression=None,
            proxy=None,
        )


async def tunnel(stand: Stand, devbox_id: str) -> Tunnel:
    answer = await stand.client.post(f"/v1/devboxes/{devbox_id}/create_pty_tunnel", json={})
    assert answer.status_code == 200, answer.text
    view = answer.json()
    return Tunnel(stand, view["tunnel_key"], view["auth_token"])


async def until(terminal: websockets.ClientConnection, wanted: bytes) -> bytes:
    """Read until `wanted` is there; all that was shown."""
    shown = b""
    async with asyncio.timeout(15):
        while wanted not in shown:
            shown += await terminal.recv(decode=False)
    return shown


async def close_code(terminal: websockets.ClientConnection) -> int | None:
    """Read to the end; the code with which the server closed."""
    async with asyncio.timeout(15):
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await terminal.recv(decode=False)
    return terminal.close_code


async def test_a_session_is_made_once_and_shows_what_was_on_its_screen(stand: Stand) -> None:
    through = await tunnel(stand, await stand.devbox())
    view = await through.connect("main", cols=101, rows=33)
    assert view == {
        "session_name": "main",
        "connect_url": "/pty/main/attach",
        "created": True,
        "attached": False,
        "cols": 101,
        "rows": 33,
        "idle_ttl_seconds": 3600,
        "protocol_version": "1",
        "status": "running",
    }
    first = await through.attach(view["connect_url"])
    assert first.subprotocol == through.token
    await first.send(b"kept=here; stty size; echo mark-$((40 + 2))\n")
    assert b"33 101" in await until(first, b"mark-42")
    assert (await through.connect("main"))["attached"] is True
    await first.close()
    while stand.waits():
        await asyncio.sleep(0.02)
    again = await through.connect("main")
    assert (again["created"], again["attached"], again["cols"]) == (False, False, 101)
    second = await through.attach(again["connect_url"])
    await until(second, b"mark-42")  # of the recent screen
    await second.send(b"echo it-is-$kept\nexit 3\n")
    await until(second, b"it-is-here")
    assert await close_code(second) == 4000
    assert (await through.connect("main"))["created"] is True


async def test_one_client_is_attached_at_a_time_and_corrals_own_look_on(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    through = await tunnel(stand, devbox_id)
    view = await through.connect("main")
    holder = await through.attach(view["connect_url"])
    with pytest.raises(websockets.InvalidStatus) as refused:
        await through.attach(view["connect_url"])
    assert refused.value.response.status_code == 409
    body = {"session": "main"}
    shell = (await stand.client.post(f"/v1/devboxes/{devbox_id}/terminal", json=body)).json()
    path = f"/v1/devboxes/{devbox_id}/executions/{shell['execution_id']}/attach?read_only=true"
    viewers = [
        await websockets.connect(
            stand.url.replace("http", "ws") + path, additional_headers={"Authorization": f"Bearer {stand.key}"}
        )
        for _ in range(3)
    ]
    await holder.send(b"echo seen-by-$((2 + 2))\n")
    for viewer in viewers:
        await until(viewer, b"seen-by-4")
    await viewers[0].send(b"echo typed\n")
    assert await close_code(viewers[0]) == 1008
    await holder.close()
    while stand.waits() > 2:
        await asyncio.sleep(0.02)
    after = await through.attach(view["connect_url"])
    await after.send("exit\n")  # text counts as typed
    assert [await close_code(one) for one in (after, *viewers[1:])] == [4000] * 3


async def test_a_session_is_resized_signalled_and_closed(stand: Stand) -> None:
    through = await tunnel(stand, await stand.devbox())
    view = await through.connect("main")
    terminal = await through.attach(view["connect_url"])
    answer = await through.control("main", action="resize", cols=132, rows=50)
    assert answer.json() == {"session_name": "main", "status": "ok"}
    await terminal.send(
        b'stty size; bash -c \'trap "echo caught; exit" USR1; echo rea""dy; while :; do sleep 0.05; done\'\n'
    )
    assert b"50 132" in await until(terminal, b"ready\r\n")
    assert (await through.control("main", action="signal", signal="SIGUSR1")).status_code == 200
    await until(terminal, b"caught\r\n")
    await terminal.send(b"trap '' HUP; sleep 600\n")  # does not want to go
    assert (await through.control("main", action="close")).status_code == 200
    assert await close_code(terminal) == 4000
    for action in ("close", "signal", "resize"):
        gone = await through.control("main", action=action, cols=1, rows=1, signal="SIGINT")
        assert (gone.status_code, gone.json()["kind"]) == (404, "not-found")
    assert (await through.connect("main"))["created"] is True


async def test_a_session_that_nobody_uses_ends_and_one_that_is_used_does_not(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    through = await tunnel(stand, devbox_id)
    used = await through.attach((await through.connect("used"))["connect_url"])
    await through.connect("idle")
    stand.sessions.idle_s = 0.001
    await asyncio.sleep(0.01)
    await stand.sessions.end_idle()
    assert (await through.control("idle", action="close")).status_code == 404
    await used.send(b"echo alive-$((1 + 1))\n")
    await until(used, b"alive-2")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/pty/a.b", 400),
        ("/pty/" + "x" * 257, 400),
        ("/pty/main?cols=many&rows=2", 400),
        ("/pty/main?color=1", 400),
        ("/v1/devboxes", 404),
        ("/healthz", 404),
        ("/v1/objects", 404),
        ("/pty/main/control", 405),
    ],
)
async def test_a_tunnel_leads_to_its_sessions_only(stand: Stand, path: str, status: int) -> None:
    through = await tunnel(stand, await stand.devbox())
    answer = await through.call("GET", path, headers={"authorization": f"Bearer {stand.key}"})
    assert (answer.status_code, answer.json()["code"]) == (status, status)


async def test_an_unknown_or_impossible_control_is_refused(stand: Stand) -> None:
    through = await tunnel(stand, await stand.devbox())
    await through.connect("main")
    for body in (
        {},
        {"action": "reboot"},
        {"action": "resize"},
        {"action": "resize", "cols": 80},
        {"action": "resize", "cols": 0, "rows": 24},
        {"action": "resize", "cols": 1001, "rows": 24},
        {"action": "resize", "cols": "80", "rows": 24},
        {"action": "signal"},
        {"action": "signal", "signal": "SIGNOTHING"},
        {"action": "signal", "signal": "TERM"},
        {"action": "signal", "signal": "SIG_DFL"},
        {"action": "close", "now": True},
    ):
        answer = await through.control("main", **body)
        assert (answer.status_code, answer.json()["kind"]) == (400, "invalid"), body


async def test_a_tunnel_opens_to_its_own_token_alone(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    through, other = await tunnel(stand, devbox_id), await tunnel(stand, await stand.devbox())
    view = await through.connect("main")
    for token in ("x", other.token, stand.key, through.token[:-1], "\xe9" * 40):
        headers = {"x-runloop-tunnel-authorization": f"Bearer {token}".encode()}
        answer = await through.call("GET", "/pty/main", headers=headers)
        assert (answer.status_code, answer.json()["kind"]) == (401, "unauthenticated"), token
    for token in ("x", other.token, stand.key):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await through.attach(view["connect_url"], token=token)
        assert refused.value.response.status_code == 401
    for host, status in (
        (f"13-{'0' * 32}.tunnel.localhost", 401),
        (f"13-{other.key}.tunnel.localhost", 401),
        (f"8080-{through.key}.tunnel.localhost", 404),
        (f"{through.key}.tunnel.localhost", 404),
        (f"13-{through.key}.tunnel.localhost.evil.example", 404),
        (f"13-{through.key}.tunnel.localhost:99999999", 404),
        ("x" * 5000, 404),
        ("localhost", 404),
        (f"13-{through.key.upper()}.TUNNEL.localhost", 200),
    ):
        answer = await through.call("GET", "/pty/main", headers={"host": host})
        assert answer.status_code == status, (host, answer.text)
    both = {"x-runloop-tunnel-authorization": "", "authorization": f"Bearer {through.token}"}
    assert (await through.call("GET", "/pty/main", headers=both)).status_code == 401
    async with httpx.AsyncClient(base_url=stand.url, http1=False, http2=True) as second:
        by_bearer = {"host": through.host, "authorization": f"Bearer {through.token}"}
        assert (await second.get("/pty/main", headers=by_bearer)).status_code == 200


async def test_a_devbox_that_does_not_run_has_no_tunnel(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    through = await tunnel(stand, devbox_id)
    await stand.client.post(f"/v1/devboxes/{devbox_id}/shutdown")
    answer = await stand.client.post(f"/v1/devboxes/{devbox_id}/create_pty_tunnel", json={})
    assert (answer.status_code, answer.json()["kind"]) == (400, "wrong-state")
    assert (await through.call("GET", "/pty/main")).status_code == 400
    stranger = {"authorization": f"Bearer {await stand.second_account()}"}
    answer = await stand.client.post(f"/v1/devboxes/{devbox_id}/create_pty_tunnel", json={}, headers=stranger)
    assert answer.status_code == 404


async def test_a_frame_that_nobody_types_closes_the_terminal(stand: Stand) -> None:
    through = await tunnel(stand, await stand.devbox())
    view = await through.connect("main")
    terminal = await through.attach(view["connect_url"])
    await terminal.send(b"x" * (1024 * 1024 + 1))
    assert await close_code(terminal) == 1009
    with pytest.raises(websockets.InvalidStatus) as refused:
        await through.attach("/pty/none/attach")
    assert refused.value.response.status_code == 404
    assert json.loads(refused.value.response.body)["kind"] == "not-found"


async def test_a_viewer_that_does_not_read_is_dropped_and_the_session_goes_on(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminals, "SLOW_S", 0.5)
    through = await tunnel(stand, await stand.devbox())
    view = await through.connect("main")
    slow = await through.attach(view["connect_url"])
    await slow.send(b"head -c 30000000 /dev/zero | tr '\\0' x; echo; echo all-$((6 * 7))\n")
    async with asyncio.timeout(30):
        while stand.waits():
            await asyncio.sleep(0.05)
    monkeypatch.undo()  # one that reads may be slow on a busy machine
    again = await through.attach(view["connect_url"])
    await until(again, b"all-42")
    assert await close_code(slow) != 4000
