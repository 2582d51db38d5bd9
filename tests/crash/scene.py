"""What a client does while the server dies under it, and what must hold of it afterwards.

Owns the list of what was acknowledged: an answer that arrived is a promise; a request that got none promises nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.harness.server import Server

ENDED = frozenset({"shutdown", "failure"})


class DoomedServer(Server):
    """A Server whose first process dies at one of its commits; the next ones are `corral serve`."""

    def start_victim(self, at: int, moment: str) -> None:
        """Start the process that will die. Returns when it listens, or is dead already."""
        self.data.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "tests.crash.victim",
            str(at),
            moment,
            f"127.0.0.1:{self.port}",
            str(self.data),
        ]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                cwd=Path(__file__).parents[2],
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                httpx.get(f"{self.url}/healthz", timeout=5)
            except httpx.TransportError:
                time.sleep(0.02)
            else:
                return


@dataclass
class Acknowledged:
    """Ids that answers gave, with what they promised."""

    devboxes: list[str] = field(default_factory=list)
    shut_down: list[str] = field(default_factory=list)
    executions: dict[str, tuple[str, str, str, int]] = field(
        default_factory=dict
    )  #: id -> box, command id, stdout, code


class Client:
    """Calls the server and keeps the promises that it made. `lives` is false once a call got no answer."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.got = Acknowledged()
        self.lives = True
        self.survived = True  #: the scene to its end
        self.devboxes: list[dict[str, Any]] = []  #: as they were when all had settled
        self._number = 0

    def call(self, method: str, path: str, **body: Any) -> dict[str, Any] | None:
        """The answer; None when the server has died."""
        if not self.lives:
            return None
        try:
            answer = httpx.request(
                method,
                self.server.url + path,
                headers=self.server.headers,
                json=body if method == "POST" else None,
                timeout=30,
            )
        except (httpx.TransportError, OSError):  # OSError: it died before it had written its key
            self.lives = self.survived = False
            return None
        assert answer.status_code == 200, answer.text
        view: dict[str, Any] = answer.json()
        return view

    def create(self, **body: Any) -> str | None:
        """A devbox that was promised."""
        view = self.call("POST", "/v1/devboxes", **(body or {"name": "x"}))
        if view is None:
            return None
        self.got.devboxes.append(view["id"])
        return str(view["id"])

    def running(self, devbox_id: str | None) -> str | None:
        """The devbox once it runs."""
        if devbox_id is None:
            return None
        body = {"statuses": ["running", *ENDED], "timeout_seconds": 20}
        view = self.call("POST", f"/v1/devboxes/{devbox_id}/wait_for_status", **body)
        return None if view is None else devbox_id

    def execute(self, devbox_id: str | None, command: str, stdout: str, code: int) -> str | None:
        """A command that was promised; its output and exit code are what they must be in the end."""
        if devbox_id is None:
            return None
        self._number += 1
        command_id = f"0190a000-0000-7000-8000-{self._number:012d}"
        body = {"command": command, "command_id": command_id, "optimistic_timeout": 0}
        view = self.call("POST", f"/v1/devboxes/{devbox_id}/execute", **body)
        if view is None:
            return None
        self.got.executions[view["execution_id"]] = (devbox_id, command_id, stdout, code)
        return str(view["execution_id"])

    def shutdown(self, devbox_id: str | None) -> None:
        """A shutdown that was promised."""
        if devbox_id is not None and self.call("POST", f"/v1/devboxes/{devbox_id}/shutdown") is not None:
            self.got.shut_down.append(devbox_id)


def act(client: Client) -> None:
    """Every kind of commit that a request or the controller makes."""
    first = client.running(client.create(name="first"))
    client.execute(first, "echo one >> mark; cat mark; exit 3", "one\n", 3)
    second = client.create(launch_parameters={"launch_commands": ["echo set up > made"]})
    client.execute(first, "sleep 0.3; echo two; exit 4", "two\n", 4)
    client.execute(client.running(second), "cat made", "set up\n", 0)
    client.shutdown(first)
    third = client.create(name="third")
    client.shutdown(third)


def settle(client: Client, *, boxes_survive: bool, within_s: float = 30) -> list[dict[str, Any]]:
    """Wait until every devbox and execution has come to rest; check every promise; return all devboxes."""
    client.lives = True
    deadline = time.monotonic() + within_s
    while True:
        page = client.call("GET", "/v1/devboxes?limit=1000")
        assert page is not None
        moving = [box for box in page["devboxes"] if box["status"] not in {"running", *ENDED}]
        if not moving:
            break
        assert time.monotonic() < deadline, moving
        time.sleep(0.05)
    status = {box["id"]: box["status"] for box in page["devboxes"]}
    assert set(client.got.devboxes) <= set(status)
    for devbox_id in client.got.shut_down:
        assert status[devbox_id] == "shutdown"
    for execution_id, promise in client.got.executions.items():
        _check_execution(client, execution_id, promise, boxes_survive=boxes_survive)
    if boxes_survive:
        assert "failure" not in status.values(), page["devboxes"]
    return list(page["devboxes"])


def _check_execution(
    client: Client, execution_id: str, promise: tuple[str, str, str, int], *, boxes_survive: bool
) -> None:
    devbox_id, _, stdout, code = promise
    body = {"statuses": ["completed"], "timeout_seconds": 20}
    view = client.call("POST", f"/v1/devboxes/{devbox_id}/executions/{execution_id}/wait_for_status", **body)
    assert view is not None
    if view["lost"]:
        # Only the end of its box may cost a command its exit code: the box was shut down, or ended with its host.
        assert not boxes_survive or devbox_id in client.got.shut_down, view
        assert view["exit_status"] == 137
        return
    assert (view["stdout"], view["exit_status"]) == (stdout, code)


def eventually(holds: Callable[[], bool], within_s: float = 15) -> None:
    """Return once `holds()` is true."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.05)


@contextmanager
def closing(server: DoomedServer) -> Iterator[None]:
    """Remove all of the server at the end; of a victim that still lives too, which would die while it is stopped."""
    try:
        yield
    except BaseException:
        server.kill9()
        raise
    finally:
        server.close()
