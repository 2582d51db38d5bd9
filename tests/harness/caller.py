"""Short calls of one server, which must succeed.

Owns nothing of the server: a test that wants to see a refusal makes its call itself.
"""

from __future__ import annotations

import time
from typing import Any

import httpx

from tests.harness.server import Server


class Caller:
    """`http` is for what has no method here; whoever makes one closes it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.http = httpx.Client(base_url=server.url, headers=server.headers, timeout=120)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.http.post(f"/v1/devboxes{path}", json=body)
        assert answer.status_code == 200, answer.text
        view: dict[str, Any] = answer.json()
        return view

    def create(self, **wish: Any) -> str:
        view = self.post("/create_and_await_running", **wish)
        assert view["status"] == "running", view
        return str(view["id"])

    def run(self, devbox_id: str, command: str) -> str:
        done = self.post(f"/{devbox_id}/execute_sync", command=command)
        assert done["exit_status"] == 0, done
        return str(done["stdout"])

    def snapshot(self, devbox_id: str) -> dict[str, Any]:
        return self.post(f"/{devbox_id}/snapshot_disk")

    def reach(self, devbox_id: str, *statuses: str) -> dict[str, Any]:
        """The devbox once it has one of these statuses, or has ended."""
        wait = {"statuses": [*statuses, "failure", "shutdown"], "timeout_seconds": 25}
        view = self.post(f"/{devbox_id}/wait_for_status", **wait)
        assert view["status"] in statuses, view
        return view

    def logged(self, devbox_id: str, words: str, within_s: float = 20) -> dict[str, Any]:
        """The line of its log that has these words, once there is one."""
        deadline = time.monotonic() + within_s
        while True:
            lines = self.http.get(f"/v1/devboxes/{devbox_id}/logs").json()["logs"]
            for line in lines:
                if words in (line.get("message") or ""):
                    return dict(line)
            assert time.monotonic() < deadline, lines
            time.sleep(0.1)
