"""Logs over HTTP: the whole of one, and one that is followed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from corral.runtime.fake import FakeHost
from tests.integration.api.stand import Stand, standing


class Follow:
    """One stream of a log: `lines` are its events, `problem` the error that it ended with."""

    def __init__(self, stand: Stand, devbox_id: str, **query: str) -> None:
        self._stand, self._path, self._query = stand, f"/v1/devboxes/{devbox_id}/logs/tail", query
        self.lines: list[dict[str, Any]] = []
        self.problem: dict[str, Any] | None = None

    async def run(self, until: str = "") -> Follow:
        """Read to the end of the stream, or to the first line whose message begins with `until`."""
        headers = {"authorization": f"Bearer {self._stand.key}"}
        async with (
            httpx.AsyncClient(base_url=self._stand.url, headers=headers, timeout=30) as client,
            client.stream("GET", self._path, params=self._query) as answer,
        ):
            assert answer.status_code == 200, await answer.aread()
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            failed = False
            async for line in answer.aiter_lines():
                if line == "event: error":
                    failed = True
                elif line and not line.startswith(":"):
                    assert line.startswith("data: "), line
                    event = json.loads(line.removeprefix("data: "))
                    if failed:
                        self.problem = event
                        continue
                    self.lines.append(event)
                    if until and event.get("message", "").startswith(until):
                        break
        return self

    @property
    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines if "message" in line]


@pytest.fixture
async def followed(stand: Stand) -> tuple[Stand, str]:
    return stand, await stand.devbox()


async def test_a_followed_log_ends_with_its_devbox_and_goes_on_at_a_cursor(followed: tuple[Stand, str]) -> None:
    stand, devbox_id = followed
    await stand.run(devbox_id, "echo one")
    first = await Follow(stand, devbox_id).run(until="exited")
    assert first.messages == ["one", "exited with code 0"]
    assert set(first.lines[1]) == {"level", "source", "timestamp_ms", "message", "cmd", "cmd_id", "cursor"}
    going_on = asyncio.create_task(Follow(stand, devbox_id, starting_after=first.lines[1]["cursor"]).run())
    body = {"file_path": "a.txt", "contents": "text"}
    assert (await stand.client.post(f"/v1/devboxes/{devbox_id}/write_file_contents", json=body)).status_code == 200
    await stand.run(devbox_id, "echo two\u2028three")
    await stand.client.post(f"/v1/devboxes/{devbox_id}/shutdown")
    second = await going_on
    assert second.messages == [
        "exited with code 0", "write a.txt as user: 4 bytes", "two\u2028three", "exited with code 0",
    ]  # fmt: skip
    assert second.problem is None
    listed = (await stand.client.get(f"/v1/devboxes/{devbox_id}/logs")).json()["logs"]
    told = [line["message"] for line in listed if "message" in line]
    assert sorted(told) == sorted(["one", *second.messages])


async def test_a_server_that_stops_tells_followers_to_come_back_and_the_next_one_goes_on(tmp_path: Path) -> None:
    with FakeHost(tmp_path / "host") as host:
        await go_on_after_a_restart(tmp_path, host)


async def go_on_after_a_restart(tmp_path: Path, host: FakeHost) -> None:
    command = "for n in $(seq 1 300); do echo line $n; sleep 0.005; done"
    async with standing(tmp_path, host) as stand:
        devbox_id = await stand.devbox()
        body = {"command": command}
        await stand.client.post(f"/v1/devboxes/{devbox_id}/execute_async", json=body)
        following = asyncio.create_task(Follow(stand, devbox_id).run())
        await asyncio.sleep(0.4)
    first = await following
    assert first.problem is not None
    assert first.problem["code"] == 408
    assert first.lines
    async with standing(tmp_path, host) as stand:
        second = await Follow(stand, devbox_id, starting_after=first.lines[-1]["cursor"]).run(until="exited")
    assert [*first.messages, *second.messages] == [*(f"line {n}" for n in range(1, 301)), "exited with code 0"]


async def test_a_log_that_cannot_be_followed_is_refused_before_it_begins(followed: tuple[Stand, str]) -> None:
    stand, devbox_id = followed
    key = await stand.second_account()
    for path, query, status in (
        (f"/v1/devboxes/{devbox_id}/logs/tail", {"starting_after": "nonsense"}, 400),
        (f"/v1/devboxes/{devbox_id}/logs/tail", {"offset": "1"}, 400),
        (f"/v1/devboxes/{devbox_id}/logs/tail", {"execution_id": "exe_" + "a" * 21}, 404),
        ("/v1/devboxes/dbx_" + "a" * 21 + "/logs/tail", {}, 404),
    ):
        answer = await stand.client.get(path, params=query)
        assert (answer.status_code, answer.json()["code"]) == (status, status), answer.text
    other = {"authorization": f"Bearer {key}"}
    assert (await stand.client.get(f"/v1/devboxes/{devbox_id}/logs/tail", headers=other)).status_code == 404


async def test_a_server_stops_although_a_follower_has_much_to_read(tmp_path: Path) -> None:
    with FakeHost(tmp_path / "host") as host:
        async with standing(tmp_path, host) as stand:
            devbox_id = await stand.devbox()
            await stand.run(devbox_id, "true")
            following = asyncio.create_task(Follow(stand, devbox_id).run())
            await asyncio.sleep(0.2)
            await stand.run(devbox_id, "seq 1 2000000")
        follow = await following
    assert follow.problem is not None
    assert follow.problem["code"] == 408
