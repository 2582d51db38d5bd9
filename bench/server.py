"""Corral under test: the server as a process of its own, driven over HTTP by a plain client.

The client is aiohttp because it shares the cores with what it measures: in a burst of 100, httpx took 0.5 to 1.5 s of
CPU time, aiohttp 0.1 s.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from bench.measures import Adapter

CORRAL = Path(sys.executable).parent / "corral"
CHUNK = 1 << 20


def free_port() -> int:
    """A TCP port of the loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Corral(Adapter):
    """A fresh server on a fresh data folder, under one API key. `warm` boxes are prepared ahead."""

    name = "corral"

    def __init__(self, *, warm: int = 0) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="corral-bench-"))
        self._warm = warm
        self._env = os.environ | {"CORRAL_DATA": str(self._folder / "data"), "CORRAL_WARM_BOXES": str(warm)}
        self._port = free_port()

    @property
    def data(self) -> Path:
        """The server's data folder."""
        return self._folder / "data"

    async def start(self) -> None:
        """Start the server and return when it can make boxes. Raises RuntimeError with the end of its log."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=180)
        self.http = aiohttp.ClientSession(f"http://127.0.0.1:{self._port}", connector=connector, timeout=timeout)
        await self._serve(0.1)
        self.http.headers["authorization"] = f"Bearer {(self.data / 'api-key').read_text().strip()}"

    async def restart(self, *, kill: bool) -> float:
        """End the server by SIGTERM or SIGKILL and start the next; seconds from its start until it can make boxes."""
        self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        await self._process.wait()
        start = time.perf_counter()
        await self._serve(0.02)
        return time.perf_counter() - start

    async def _serve(self, pause_s: float) -> None:
        log = (self._folder / "log").open("ab")
        self._process = await asyncio.create_subprocess_exec(
            CORRAL, "serve", "--listen", f"127.0.0.1:{self._port}", env=self._env, stdout=log, stderr=log
        )
        log.close()
        deadline = time.monotonic() + 120
        while self._process.returncode is None and not await self._healthy():
            if time.monotonic() > deadline:
                self._process.kill()
                await self._process.wait()
            await asyncio.sleep(pause_s)
        if self._process.returncode is not None:
            raise RuntimeError(f"cannot start corral: {(self._folder / 'log').read_text()[-2000:]}")

    async def _healthy(self) -> bool:
        try:
            async with self.http.get("/healthz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def get(self, path: str) -> dict[str, Any]:
        """The answer. Raises RuntimeError unless it is 200."""
        async with self.http.get(path) as answer:
            return await _checked(answer)

    async def post(self, path: str, body: object) -> dict[str, Any]:
        """The answer. Raises RuntimeError unless it is 200."""
        async with self.http.post(path, json=body) as answer:
            return await _checked(answer)

    async def create(self, **wish: object) -> str:
        view = await self.post("/v1/devboxes/create_and_await_running", wish)
        if view["status"] != "running":
            await self.reaches(str(view["id"]), "running")
        return str(view["id"])

    async def reaches(self, box: str, status: str) -> None:
        """Return once the devbox is in this status. Raises RuntimeError when it is not within minutes."""
        wait = {"statuses": [status, "failure"], "timeout_seconds": 30}
        for _ in range(10):
            async with self.http.post(f"/v1/devboxes/{box}/wait_for_status", json=wait) as answer:
                if answer.status != 408 and (await _checked(answer))["status"] == status:
                    return
        raise RuntimeError(f"cannot use devbox {box}: it is not {status}")

    async def run(self, box: str, command: str) -> str:
        view = await self.post(f"/v1/devboxes/{box}/execute_sync", {"command": command})
        if view["exit_status"]:
            raise RuntimeError(f"cannot run {command!r}: exit {view['exit_status']}: {view['stderr']}")
        return str(view["stdout"])

    async def destroy(self, box: str) -> None:
        await self.post(f"/v1/devboxes/{box}/shutdown", {})

    async def close(self) -> None:
        await self.http.close()
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- what only a server has

    def memory(self) -> int:
        """Resident bytes of the server process."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def files(self) -> int:
        """How many files the server process has open."""
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def cpu_s(self) -> float:
        """Processor seconds of the server process so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK")

    async def settle(self) -> None:
        await self.settle_to(0)

    async def settle_to(self, boxes: int) -> None:
        """As `settle`, with so many boxes that stay."""
        for _ in range(6000):
            left = len(list((self.data / "boxes").iterdir()))
            if left <= boxes and len(list((self.data / "prepared").iterdir())) == self._warm:
                return
            await asyncio.sleep(0.02)
        raise RuntimeError("cannot measure on: boxes are left, or not prepared, after two minutes")

    async def warm_claims(self, rounds: int) -> list[float]:
        """Milliseconds from the create request to the answer that the devbox runs, with prepared boxes there."""
        times: list[float] = []
        for counted in range(-1, rounds):
            await self.settle()
            await asyncio.sleep(0.2)  # the newest prepared box starts its guest
            start = time.perf_counter()
            box = await self.create()
            if counted >= 0:
                times.append((time.perf_counter() - start) * 1e3)
            await self.destroy(box)
        return times

    async def transfer(self, size: int) -> dict[str, float]:
        """Upload, then download `size` bytes; MB/s each, and the server's growth in MiB at its highest."""
        box = await self.create()
        before = self.memory()
        watch = _Peak(self)
        async with watch:
            start = time.perf_counter()
            await self._upload(box, size)
            up = size / 1e6 / (time.perf_counter() - start)
            start = time.perf_counter()
            received = await self._download(box)
            down = size / 1e6 / (time.perf_counter() - start)
        if received != size:
            raise RuntimeError(f"cannot download the file whole: {received} of {size} bytes")
        await self.destroy(box)
        return {"upload_mb_s": up, "download_mb_s": down, "growth_mib": (watch.peak - before) / (1 << 20)}

    async def _upload(self, box: str, size: int) -> None:
        boundary = "corral-bench"
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="path"\r\n\r\n/home/user/big\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="big"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        block = os.urandom(CHUNK)

        async def body() -> AsyncIterator[bytes]:
            yield head
            for _ in range(size // CHUNK):
                yield block
            yield tail

        headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
        headers["content-length"] = str(len(head) + size + len(tail))
        async with self.http.post(f"/v1/devboxes/{box}/upload_file", data=body(), headers=headers) as answer:
            await _checked(answer)

    async def _download(self, box: str) -> int:
        url = f"/v1/devboxes/{box}/download_file"
        received = 0
        async with self.http.post(url, json={"path": "/home/user/big"}) as answer:
            answer.raise_for_status()
            async for chunk in answer.content.iter_any():
                received += len(chunk)
        return received


class _Peak:
    """Samples the server's memory every 20 ms for the length of the block."""

    def __init__(self, server: Corral) -> None:
        self._server = server
        self.peak = 0

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._sample())

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _sample(self) -> None:
        while True:
            self.peak = max(self.peak, self._server.memory())
            await asyncio.sleep(0.02)


async def _checked(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    if answer.status != 200:
        raise RuntimeError(f"cannot {answer.method} {answer.url.path}: {(await answer.text())[:500]}")
    view: dict[str, Any] = await answer.json()
    return view
