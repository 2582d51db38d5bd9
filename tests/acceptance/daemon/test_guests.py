"""A guest that hangs is found out although nobody asks it anything; one that is only starved is left alone."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.image, pytest.mark.timeout(120)]
PING_S, LIMIT_S = 1, 4
#: Process 1 gets hardly a turn on the processor, as in a fork bomb of thousands.
STARVE = """sudo python3 -c '
import os
os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))
for _ in range(20):
    if not os.fork():
        while True: pass
'"""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    env = {"CORRAL_PING_S": str(PING_S), "CORRAL_GUEST_LIMIT_S": str(LIMIT_S)}
    with (
        Server(tmp_path / "data", runtime="oci", env=env) as server,
        httpx.Client(base_url=f"{server.url}/v1/devboxes", headers=server.headers, timeout=60) as http,
    ):
        yield http


def create(client: httpx.Client) -> str:
    answer = client.post("/create_and_await_running", json={"launch_parameters": {"resource_size_request": "X_SMALL"}})
    assert answer.json()["status"] == "running", answer.text
    return str(answer.json()["id"])


def view(client: httpx.Client, devbox_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/{devbox_id}").json()
    return found


def test_a_guest_that_hangs_unasked_is_told_and_a_busy_one_is_not(client: httpx.Client, tmp_path: Path) -> None:
    idle, busy, hung = (create(client) for _ in range(3))
    assert client.post(f"/{busy}/execute_async", json={"command": STARVE}).status_code == 200
    record = json.loads((tmp_path / "data" / "boxes" / hung / "box.json").read_text())
    os.kill(record["pid"], signal.SIGSTOP)
    began = time.monotonic()
    while view(client, hung)["status"] == "running":
        assert time.monotonic() - began < 30
        time.sleep(0.2)
    took = time.monotonic() - began
    found = view(client, hung)
    assert (found["status"], found["state_transitions"][-1]["reason"]) == ("failure", "guest_unresponsive")
    # The rest is the half second in which a dying box may still be told to be dead, for each of the four questions.
    assert LIMIT_S < took < PING_S + LIMIT_S + 2 + 3
    time.sleep(2 * (PING_S + LIMIT_S))
    assert [view(client, one)["status"] for one in (idle, busy)] == ["running", "running"]
    assert not (tmp_path / "data" / "boxes" / hung).exists()
