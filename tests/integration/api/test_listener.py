"""The listener: two versions of HTTP and WebSockets on one port, and a stop that loses nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path

import httpx
import pytest
import websockets

from corral.api import serve
from corral.core import errors
from corral.runtime.fake import FakeHost
from tests.integration.api.stand import Stand, standing


async def test_both_versions_of_http_are_spoken_on_one_port(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    headers = stand.client.headers
    async with httpx.AsyncClient(http1=False, http2=True, base_url=stand.url, headers=headers) as second:
        answer = await second.post(f"/v1/devboxes/{devbox_id}/execute", json={"command": "seq 1 50000"})
        assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)
        path = f"/v1/devboxes/{devbox_id}/executions/{answer.json()['execution_id']}/stream_stdout_updates"
        streams = await asyncio.gather(*(second.get(path) for _ in range(20)))
        for stream in streams:
            frames = [line[6:] for line in stream.text.splitlines() if line.startswith("data: ")]
            assert "".join(json.loads(frame)["output"] for frame in frames) == "".join(
                f"{n}\n" for n in range(1, 50001)
            )
    first = await stand.client.get(f"/v1/devboxes/{devbox_id}")
    assert first.http_version == "HTTP/1.1"


async def test_many_waits_are_held_on_one_connection(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    body = {"statuses": ["shutdown"], "timeout_seconds": 20}
    async with httpx.AsyncClient(
        http1=False, http2=True, base_url=stand.url, headers=stand.client.headers, timeout=30
    ) as client:
        path = f"/v1/devboxes/{devbox_id}/wait_for_status"
        waits = [asyncio.create_task(client.post(path, json=body)) for _ in range(90)]
        while stand.waits() < 90:
            await asyncio.sleep(0.02)
        await stand.client.post(f"/v1/devboxes/{devbox_id}/shutdown")
        answers = await asyncio.gather(*waits)
    assert {answer.json()["status"] for answer in answers} == {"shutdown"}


async def test_a_stop_tells_held_requests_to_come_back_and_ends_soon(tmp_path: Path) -> None:
    with FakeHost(tmp_path / "host") as host:
        async with standing(tmp_path, host) as stand:
            devbox_id = await stand.devbox()
            body = {"command": "echo before; sleep 30", "optimistic_timeout": 0}
            view = (await stand.client.post(f"/v1/devboxes/{devbox_id}/execute", json=body)).json()
            base = f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}"
            held = [
                asyncio.create_task(stand.client.post(f"{base}/wait_for_status", json={"statuses": ["completed"]})),
                asyncio.create_task(stand.client.get(f"{base}/stream_stdout_updates")),
            ]
            while stand.waits() < 2:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)
            begun = time.monotonic()
            await stand.listener.stop(grace_s=5)
            assert time.monotonic() - begun < 3
            wait, stream = await asyncio.gather(*held)
            assert (wait.status_code, wait.json()["kind"]) == (408, "timed-out")
            assert stream.text.index('"output":"before\\n"') < stream.text.index("event: error\ndata: ")
            assert json.loads(stream.text.rsplit("data: ", 1)[1])["code"] == 408
            with pytest.raises(httpx.ConnectError):
                await stand.client.get("/healthz")
        async with standing(tmp_path, host) as again:
            resumed = again.client.stream("GET", f"{base}/stream_stdout_updates", params={"offset": 3})
            async with resumed as answer:
                lines = (line async for line in answer.aiter_lines() if line.startswith("data: "))
                assert json.loads((await anext(lines))[6:])["output"] == "ore\n"


async def test_a_port_that_is_taken_is_told_with_the_remedy(stand: Stand) -> None:
    port = int(stand.url.rsplit(":", 1)[1])
    with pytest.raises(errors.Unavailable, match=r"Address already in use; choose another with --listen"):
        await serve.Listener(stand.gate, "127.0.0.1", port).start()


async def attach(stand: Stand, path: str, key: str | None = None) -> websockets.ClientConnection:
    url = stand.url.replace("http", "ws") + path
    return await websockets.connect(url, additional_headers={"Authorization": f"Bearer {key or stand.key}"})


async def rest(terminal: websockets.ClientConnection) -> bytes:
    """What a terminal shows until it is closed."""
    shown = b""
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            shown += await asyncio.wait_for(terminal.recv(decode=False), 10)
    return shown


async def test_a_terminal_is_shown_written_to_resized_and_ended(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    body = {"cols": 100, "rows": 30, "command": "stty size; read line; stty size; echo got $line"}
    view = (await stand.client.post(f"/v1/devboxes/{devbox_id}/terminal", json=body)).json()
    assert view["status"] == "running"
    terminal = await attach(stand, f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}/attach")
    shown = b""
    while b"30 100" not in shown:
        shown += await asyncio.wait_for(terminal.recv(decode=False), 10)
    await terminal.send(json.dumps({"cols": 120, "rows": 40}))
    await asyncio.sleep(0.2)
    await terminal.send(b"hello\n")
    shown += await rest(terminal)
    assert terminal.close_code == 4000
    assert b"40 120" in shown
    assert b"got hello" in shown


async def test_two_viewers_see_one_terminal_and_leaving_does_not_end_it(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    view = (await stand.client.post(f"/v1/devboxes/{devbox_id}/terminal", json={"command": "cat"})).json()
    path = f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}/attach"
    one, other = await attach(stand, path), await attach(stand, path)
    await one.send(b"seen by both\n")
    for viewer in (one, other):
        shown = b""
        while b"seen by both" not in shown:
            shown += await asyncio.wait_for(viewer.recv(decode=False), 10)
    await one.close()
    await other.close()
    while stand.waits():
        await asyncio.sleep(0.02)
    execution = await stand.client.get(f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}")
    assert execution.json()["status"] == "running"


async def test_a_bad_frame_closes_the_terminal_and_says_why(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    view = (await stand.client.post(f"/v1/devboxes/{devbox_id}/terminal", json={"command": "cat"})).json()
    terminal = await attach(stand, f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}/attach")
    await terminal.send('{"cols": 0, "rows": 9999}')
    with pytest.raises(websockets.ConnectionClosed) as closed:
        await asyncio.wait_for(terminal.recv(), 10)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (
        1008,
        "cannot resize terminal: cols and rows must be 1 to 1000",
    )


async def test_a_terminal_is_refused_with_the_same_errors_as_other_routes(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    done = await stand.run(devbox_id, "true")
    base = f"/v1/devboxes/{devbox_id}/executions"
    for path, key, status in (
        (f"{base}/{done['execution_id']}/attach", None, 400),
        (f"{base}/none/attach", None, 404),
        (f"{base}/a%20b/attach", None, 400),
        (f"{base}/none/attach", "ak_wrong", 401),
        (f"/v1/devboxes/{devbox_id}", None, 405),
        ("/nothing", None, 404),
    ):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await attach(stand, path, key)
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body)["code"] == status


async def test_a_request_that_outlasts_the_grace_of_a_stop_is_told_to_ask_again(tmp_path: Path) -> None:
    with FakeHost(tmp_path / "host") as host:
        async with standing(tmp_path, host) as stand:
            devbox_id = await stand.devbox()
            with host.held("execute"):
                path = f"/v1/devboxes/{devbox_id}/execute"
                asked = asyncio.create_task(stand.client.post(path, json={"command": "true"}))
                while not stand.gate.tasks:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                await stand.listener.stop(grace_s=0.2)
                answer = await asyncio.wait_for(asked, 5)
    assert (answer.status_code, answer.json()["kind"]) == (503, "unavailable")
    assert answer.json()["message"] == "cannot execute command: the server is stopping; ask again"
