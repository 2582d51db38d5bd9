"""SIGKILL before or after each commit of a scene: what was acknowledged holds, nothing is stuck, nothing leaks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crash import scene

#: On the fake the scene makes about 24 commits; points that it does not reach let it die at its end.
POINTS = range(1, 25)


def live_through(server: scene.DoomedServer, at: int, moment: str, *, boxes_survive: bool) -> scene.Client:
    """Die at the commit, start again, and check every promise."""
    server.start_victim(at, moment)
    client = scene.Client(server)
    scene.act(client)
    server.kill9()
    server.start()
    client.devboxes = scene.settle(client, boxes_survive=boxes_survive)
    return client


@pytest.mark.slow
@pytest.mark.parametrize("at", POINTS)
def test_nothing_acknowledged_is_lost_at_any_commit(tmp_path: Path, at: int) -> None:
    server = scene.DoomedServer(tmp_path / "data", runtime="fake")
    with scene.closing(server):
        client = live_through(server, at, "before" if at % 2 else "after", boxes_survive=False)
        assert at > 16 or not client.survived  # the scene must reach its point, or this tests nothing


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.image
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("at", "moment"), [(2, "after"), (4, "before"), (6, "after"), (9, "before"), (14, "after")])
def test_boxes_outlive_the_server_at_any_commit(tmp_path: Path, at: int, moment: str) -> None:
    server = scene.DoomedServer(tmp_path / "data", runtime="oci")
    with scene.closing(server):
        client = live_through(server, at, moment, boxes_survive=True)
        live = {box["id"] for box in client.devboxes if box["status"] == "running"}
        wait_for_boxes(server.data, live)
        _repeat(client, live)


def wait_for_boxes(data: Path, expected: set[str]) -> None:
    """Return once the host has exactly these boxes."""
    scene.eventually(lambda: set(os.listdir(data / "boxes")) == expected)


def _repeat(client: scene.Client, live: set[str]) -> None:
    """The same command id after the crash is the same command: its effect is there once."""
    for execution_id, (devbox_id, command_id, stdout, code) in client.got.executions.items():
        if devbox_id in live and stdout == "one\n":
            command = "echo one >> mark; cat mark; exit 3"
            body = {"command": command, "command_id": command_id}
            view = client.call("POST", f"/v1/devboxes/{devbox_id}/execute", **body)
            assert view is not None
            assert (view["execution_id"], view["stdout"], view["exit_status"]) == (execution_id, stdout, code)
            body = {"command": "cat mark", "command_id": "0190a000-0000-7000-8000-999999999999"}
            view = client.call("POST", f"/v1/devboxes/{devbox_id}/execute", **body)
            assert view is not None
            assert view["stdout"] == "one\n"
