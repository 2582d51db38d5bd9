"""A guest in namespaces of its own, and the files that an execution writes to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from corral.runtime.contract import ExecSpec, Progress, TerminalSize
from corral.runtime.guest import Following, GuestClient

ROOT = Path(__file__).parents[3]
GUEST = Path(os.environ.get("CORRAL_GUEST", ROOT / "guest" / "dist" / "corral-guest"))
ENCLOSURE = Path(__file__).with_name("enclosure.py")
#: Ids of no account on a host; as many as a box has.
BASE, COUNT = 900_000, 65_536


class Spool:
    """Three files of one execution."""

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = [folder / f"{name}.{part}" for part in ("stdout", "stderr", "status")]
        self.fds = tuple(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC) for path in self._paths)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = ()

    @property
    def stdout(self) -> bytes:
        return self._paths[0].read_bytes()

    @property
    def stderr(self) -> bytes:
        return self._paths[1].read_bytes()

    @property
    def status(self) -> dict[str, Any]:
        text = self._paths[2].read_text()
        assert text.endswith("\n")
        assert text.count("\n") == 1
        loaded: dict[str, Any] = json.loads(text)
        return loaded


class Done:
    """How a command went: the last progress, and what it wrote."""

    def __init__(self, last: Progress, spool: Spool) -> None:
        assert last.result is not None
        self.spool = spool
        self.progress = last
        self.result = last.result
        self.code = last.result.exit_code
        self.stdout = spool.stdout
        self.stderr = spool.stderr
        self.status = spool.status


class Box:
    """A guest that runs; `client` talks to it."""

    def __init__(self, folder: Path, program: tuple[str, ...] = (str(GUEST),)) -> None:
        self.folder = folder
        self._program = program
        self.path = folder / "guest.sock"
        self.client = GuestClient(self.path)
        self.pid = 0
        self._count = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        listener.listen(1024)
        ours, theirs = socket.socketpair()
        ours.settimeout(10)
        keep = {3: listener.fileno(), 4: theirs.fileno()}
        # A shell puts the descriptors where they belong; it is gone before the enclosure begins.
        command = " ".join(f"{place}<&{fd}" for place, fd in keep.items())
        self._process = subprocess.Popen(
            [
                "/bin/bash",
                "-c",
                f'exec "$@" {command}',
                "bash",
                sys.executable,
                "-S",
                str(ENCLOSURE),
                "4",
                *self._program,
            ],
            pass_fds=tuple(keep.values()),
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        listener.close()
        with ours:
            assert ours.recv(1) == b"u", "no user namespace"
            for kind in ("uid_map", "gid_map"):
                Path(f"/proc/{self._process.pid}/{kind}").write_text(f"0 {BASE} {COUNT}\n")
            ours.send(b"m")
            self.pid = int.from_bytes(ours.recv(4), "little")
        self._greet()

    def _greet(self) -> None:
        """Return when the guest answers."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(self.path))
            sock.sendall(struct.pack("<BI", 1, 14) + b'{"op":"hello"}')
            assert sock.recv(5)[0] == 2
            while sock.recv(1000):
                pass

    def descriptors(self) -> int:
        """How many descriptors the guest has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def threads(self) -> int:
        """How many threads the guest has."""
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def spool(self, name: str) -> Spool:
        return Spool(self.folder, name)

    def name(self) -> str:
        self._count += 1
        return f"x{self._count}"

    @contextlib.asynccontextmanager
    async def start_command(
        self,
        *argv: str,
        stdin: bool = False,
        terminal: TerminalSize | None = None,
        name: str | None = None,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        limit: int = 1 << 26,
    ) -> AsyncIterator[tuple[str, Following, Spool]]:
        spec = ExecSpec(
            id=name or self.name(),
            argv=argv,
            env=env or {},
            cwd=cwd,
            user=user,
            stdin=stdin,
            terminal=terminal,
            output_limit=limit,
        )
        spool = self.spool(spec.id)
        try:
            following = await self.client.execute(spec, spool.fds)  # type: ignore[arg-type] # three of them
        finally:
            spool.close()
        async with following:
            yield spec.id, following, spool

    async def run(self, *argv: str, **options: Any) -> Done:
        """Run a command to its end."""
        async with self.start_command(*argv, **options) as (_, following, spool):
            return Done(await last_of(following), spool)

    async def sh(self, script: str, **options: Any) -> Done:
        return await self.run("/bin/sh", "-c", script, **options)


async def last_of(following: Following) -> Progress:
    """Follow to the end."""
    last = None
    async for progress in following.events():
        last = progress
    assert last is not None
    return last


def cpu_ticks(pid: int) -> int:
    """Processor time of the guest, in ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def soon(condition: Callable[[], bool]) -> bool:
    """Say whether `condition` holds within two seconds."""
    for _ in range(100):
        if condition():
            return True
        await asyncio.sleep(0.02)
    return False


def build() -> None:
    """Make sure that there is a guest of the present sources, where they can be built."""
    if "CORRAL_GUEST" not in os.environ and shutil.which("cargo"):
        subprocess.run([ROOT / "guest" / "build.sh"], check=True, timeout=600)


@contextlib.contextmanager
def running(folder: Path, program: tuple[str, ...] = (str(GUEST),)) -> Iterator[Box]:
    """A box whose process 1 is `program`: the guest, or something that takes its place."""
    box = Box(folder, program)
    try:
        box.start()
        yield box
    finally:
        box.stop()
