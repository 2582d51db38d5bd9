"""A server for the demo alone, on a fresh data folder that goes away with it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import httpx

CORRAL = Path(sys.executable).parent / "corral"
#: Two seconds are usual; an emulated processor took 75.
START_LIMIT_S = 300
STOP_LIMIT_S = 30


def free_port() -> int:
    """A TCP port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


class Server(AbstractContextManager["Server"]):
    """`corral serve` as a process. Boxes may reach `service_port` of the host, and nothing else of it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="corral-demo-"))
        self.url = f"http://127.0.0.1:{free_port()}"
        self.service_port = free_port()

    @property
    def key(self) -> str:
        """The API key that the server made at its first start."""
        return (self.folder / "data" / "api-key").read_text().strip()

    @property
    def log(self) -> str:
        """The end of what the server has printed."""
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def __enter__(self) -> Server:
        self._process = self._start()
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def _start(self) -> subprocess.Popen[bytes]:
        env = os.environ | {"CORRAL_HOST_SERVICES": str(self.service_port)}
        listen = self.url.removeprefix("http://")
        command = (CORRAL, "serve", "--listen", listen, "--data", self.folder / "data")
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _wait(self) -> None:
        limit = time.monotonic() + START_LIMIT_S
        while (code := self._process.poll()) is None and time.monotonic() < limit:
            try:
                if httpx.get(f"{self.url}/healthz").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        cause = f"it did not answer within {START_LIMIT_S} s" if code is None else f"it ended with exit code {code}"
        raise RuntimeError(f"cannot start corral: {cause}\n{self.log}")

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def leftovers(self) -> list[str]:
        """What of this server is on the machine after it has stopped: mounts, loop devices, processes, folders."""
        name = self.folder.name
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if name in line]
        backing = Path("/sys/block").glob("loop*/loop/backing_file")
        loops = [str(path.parent.parent) for path in backing if name in path.read_text()]
        return [*mounts, *loops, *_processes(name), *([str(self.folder)] if self.folder.exists() else [])]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        shutil.rmtree(self.folder)


def _processes(name: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if name in command:
            found.append(command.strip())
    return found
