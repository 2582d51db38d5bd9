"""`corral serve` as a process of its own, with a fresh data folder and a free port.

Owns the process from start to end and what the data folder leaves on the host. Tests kill, stop and restart it here;
they never start the server in another way.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

CORRAL = Path(sys.executable).parent / "corral"
LOG_TAIL = 4000


class ServerFailed(Exception):
    """The server ended, or did not answer in time; the message ends with the tail of its log."""


def free_port() -> int:
    """Return a TCP port of the loopback on which nothing listens at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server on one data folder. Its port stays the same over restarts.

        with Server(tmp_path / "data", runtime="fake") as server:
            httpx.get(server.url + "/v1/devboxes", headers=server.headers)

    `runtime` is the value of CORRAL_RUNTIME; `env` is added to the server's environment. Everything that it prints
    is in `log_path`, over all restarts. Leaving the block shuts down every devbox, stops the server and removes
    the data folder.
    """

    def __init__(
        self, data: Path, *, runtime: str = "fake", env: Mapping[str, str] | None = None, port: int = 0
    ) -> None:
        self.data = data
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = data.parent / f"{data.name}.log"
        self._env = _clean_environment() | {"CORRAL_RUNTIME": runtime, "CORRAL_WARM_BOXES": "0"} | dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def key(self) -> str:
        """The first API key, as the server wrote it."""
        return self._env.get("CORRAL_API_KEY") or (self.data / "api-key").read_text().strip()

    @property
    def headers(self) -> dict[str, str]:
        """What a request must carry."""
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def client_env(self) -> dict[str, str]:
        """The environment in which the command line and the SDK find this server."""
        return {"CORRAL_URL": self.url, "CORRAL_API_KEY": self.key}

    @property
    def ssh_listen(self) -> str:
        """Where it listens for SSH, as HOST:PORT; empty when it does not."""
        return self._env.get("CORRAL_SSH_LISTEN", "")

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        return self._running().pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def command(self) -> list[str]:
        """What runs as the server."""
        return [str(CORRAL), "serve", "--listen", f"127.0.0.1:{self.port}", "--data", str(self.data)]

    def start(self, timeout: float = 60) -> None:
        """Start the process and return when /healthz answers 200. Raises ServerFailed."""
        if self.alive:
            message = "cannot start server: it runs already"
            raise ServerFailed(message)
        self.data.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=Path(__file__).parents[2],
            )
        try:
            self.wait_healthy(timeout)
        except BaseException:
            self.kill9()
            raise

    def wait_healthy(self, timeout: float = 60) -> None:
        """Return when /healthz answers 200. Raises ServerFailed after `timeout` s or when the process has ended."""
        deadline = time.monotonic() + timeout
        last = "nothing answered"
        while time.monotonic() < deadline:
            if (code := self._running().poll()) is not None:
                message = f"server ended with exit code {code}\n{self.log_tail()}"
                raise ServerFailed(message)
            try:
                answer = httpx.get(f"{self.url}/healthz", timeout=5)
                if answer.status_code == 200:
                    return
                last = f"{answer.status_code} {answer.text}"
            except httpx.TransportError as error:
                last = repr(error)
            time.sleep(0.05)
        message = f"server is not healthy after {timeout} s: {last}\n{self.log_tail()}"
        raise ServerFailed(message)

    def kill9(self) -> None:
        """Kill the server process with SIGKILL; boxes and their commands are left as they are."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)

    def stop(self, timeout: float = 30) -> int:
        """Send SIGTERM and return the exit code. Raises ServerFailed when it does not end in time (and kills it)."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill9()
            message = f"server did not end {timeout} s after SIGTERM\n{self.log_tail()}"
            raise ServerFailed(message) from None

    def restart(self, timeout: float = 60) -> None:
        """Stop it if it runs, and start it again on the same data folder and port."""
        if self.alive:
            self.stop()
        self.start(timeout)

    def close(self) -> None:
        """Shut down every devbox, stop the server, unmount what it mounted under the data folder and remove that."""
        try:
            if self._process is not None:
                if not self.alive:
                    self.start()
                self.shutdown_all()
                self.stop()
        finally:
            self.kill9()
            unmount_below(self.data)
            shutil.rmtree(self.data, ignore_errors=False)

    def shutdown_all(self, timeout: float = 60) -> None:
        """Shut down every live devbox of the first account and wait until none is left."""
        deadline = time.monotonic() + timeout
        with httpx.Client(base_url=self.url, headers=self.headers, timeout=30) as client:
            while alive := _live_devboxes(client):
                if time.monotonic() > deadline:
                    message = f"devboxes still live after {timeout} s: {alive}\n{self.log_tail()}"
                    raise ServerFailed(message)
                for devbox_id in alive:
                    client.post(f"/v1/devboxes/{devbox_id}/shutdown", json={}).raise_for_status()

    def log_tail(self, size: int = LOG_TAIL) -> str:
        """The end of what the server has printed."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_bytes()[-size:].decode(errors="replace")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            message = "server was not started"
            raise ServerFailed(message)
        return self._process


def _live_devboxes(client: httpx.Client) -> list[str]:
    live: list[str] = []
    query: dict[str, str] = {"limit": "1000"}
    while True:
        answer = client.get("/v1/devboxes", params=query)
        answer.raise_for_status()
        page = answer.json()
        items = page["devboxes"]
        live += [item["id"] for item in items if item["status"] not in {"shutdown", "failure"}]
        if not page["has_more"] or not items:
            return live
        query["starting_after"] = items[-1]["id"]


def _clean_environment() -> dict[str, str]:
    """This process's environment without anything that would steer the server or a client elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("CORRAL_", "RUNLOOP_"))} | {
        name: os.environ[name]
        for name in ("CORRAL_IMAGES", "CORRAL_GUEST", "CORRAL_OCI_RUNTIME")
        if name in os.environ
    }


def unmount_below(folder: Path) -> None:
    """Unmount every mount at or below `folder`, the deepest first, and free loop devices whose file is below it."""
    prefix = str(folder.resolve())
    for _ in range(8):  # mounts may be stacked on one another
        points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        below = sorted((p for p in points if p == prefix or p.startswith(prefix + "/")), key=len, reverse=True)
        if not below:
            break
        for point in below:
            subprocess.run(["umount", "-l", point], check=False, capture_output=True, timeout=30)
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            used = backing.read_text().strip()
        except OSError:  # freed since the glob: what was wanted
            continue
        if used.startswith(prefix + "/"):
            device = f"/dev/{backing.parent.parent.name}"
            subprocess.run(["losetup", "-d", device], check=False, capture_output=True, timeout=30)
