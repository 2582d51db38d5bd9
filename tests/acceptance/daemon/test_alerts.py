"""Alerts of real boxes: near a limit, over memory, told once, and still known after a restart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness.server import Server

SIZE = {
    "resource_size_request": "CUSTOM_SIZE",
    "custom_cpu_cores": 0.5,
    "custom_gb_memory": 1,
    "custom_disk_size": 2,
}

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.slow, pytest.mark.timeout(120)]


class Client:
    """One devbox of a small size, and what its log says."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        body = {"launch_parameters": SIZE}
        self.devbox = self._post("/v1/devboxes/create_and_await_running", body)["id"]

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        view: dict[str, Any] = answer.json()
        return view

    def run(self, command: str) -> dict[str, Any]:
        return self._post(f"/v1/devboxes/{self.devbox}/execute_sync", {"command": command})

    def start(self, command: str) -> None:
        self._post(f"/v1/devboxes/{self.devbox}/execute_async", {"command": command})

    def alerts(self) -> list[str]:
        """Source and message of what no command wrote."""
        logs = self._http.get(f"/v1/devboxes/{self.devbox}/logs").json()["logs"]
        return [f"{entry['source']}: {entry['message']}" for entry in logs if entry["source"] in {"stats", "kmsg"}]

    def until(self, found: Callable[[list[str]], bool]) -> list[str]:
        deadline = time.monotonic() + 30
        while not found(alerts := self.alerts()):
            assert time.monotonic() < deadline, alerts
            time.sleep(0.2)
        return alerts


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "data", runtime="oci", env={"CORRAL_ALERTS_S": "0.3"}) as made:
        yield made


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as http:
        yield Client(http)


def of(alerts: list[str], measure: str, level: int) -> list[str]:
    return [one for one in alerts if one.startswith(f"stats: {measure} at ") and one.endswith(f"over {level} %")]


def test_memory_disk_and_cpu_near_their_limits_are_told_once(server: Server, client: Client) -> None:
    client.start("python3 -c 'import time; kept = bytearray(900 << 20); time.sleep(100)'")
    client.until(lambda alerts: bool(of(alerts, "memory", 80)))
    client.run("fallocate -l 1700M full")
    client.until(lambda alerts: bool(of(alerts, "disk", 80)))
    client.start("timeout 60 sh -c 'while :; do :; done'")
    client.until(lambda alerts: bool(of(alerts, "cpu", 80) and of(alerts, "cpu", 90)))
    server.restart()
    client.run("fallocate -l 1890M full")
    alerts = client.until(lambda alerts: bool(of(alerts, "disk", 90)))
    for measure in ("memory", "disk"):
        assert len(of(alerts, measure, 80)) == 1, alerts


def test_a_process_that_the_kernel_killed_for_memory_is_told(client: Client) -> None:
    assert client.run("python3 -c 'bytearray(3 << 30)'")["exit_status"] == 137
    alerts = client.until(lambda alerts: any(one.startswith("kmsg: ") for one in alerts))
    assert "kmsg: out of memory: the kernel killed 1 of its processes, 1 in all" in alerts


def test_files_in_the_page_cache_are_no_alert(client: Client) -> None:
    client.run("head -c 1500M /dev/zero > big; cat big > /dev/null; sleep 2")
    assert of(client.alerts(), "memory", 90) == []
