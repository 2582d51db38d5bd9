"""A server of builds as a process of its own, and how tests talk to it.

The process is the whole daemon with real boxes; beside its API it answers, on a unix socket, what other parts of the
server ask of builds: a line of JSON for each question and for each answer.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uvloop

from corral import daemon
from corral.core import errors, events, log, settings
from corral.core.store.store import Store
from corral.daemon.base import Base
from corral.daemon.storage import Storage
from corral.devboxes.model import DevboxRequest, ExecutionStatus, Observed
from corral.images.builds import rows
from corral.images.builds.controller import BuildController
from corral.images.builds.furnish import Contexts
from corral.images.builds.model import BuildContext, BuildPlan
from corral.images.builds.service import Builds
from corral.images.builds.tables import BUILD_USES
from corral.images.builds.workshop import Workshop
from corral.runtime.contract import MIB, Limits, Stream
from tests.crash import victim
from tests.harness.server import Server

ACCOUNT = "acc_tests"
_SOCKET = "builds.sock"

#: The commit at which the server dies, and the event after whose commit it does.
DOOM = "DOOMED_AT"
DOOM_EVENT = "DOOMED_ON"

#: Layers of an image here: as many as the limit that the server has take half a minute to make.
MOST_LAYERS = 6


class BuildServer(Server):
    """`Server`, whose process answers what builds are asked. `images` is the folder of the image store."""

    def __init__(self, data: Path, images: Path, **env: str) -> None:
        super().__init__(data, runtime="oci", env={"CORRAL_IMAGES": str(images), **env})
        self.contexts = data.parent / "contexts"
        self.contexts.mkdir(exist_ok=True)

    def close(self) -> None:
        """As `Server.close`, once no build has a devbox."""
        if self._process is not None and self.alive:
            for build_id in self.ask("open"):
                self.ask("abandon", id=build_id)
            eventually(lambda: self.ask("boxes")[0] == [])
        super().close()

    def command(self) -> list[str]:
        """What is run in the place of `corral serve`."""
        return [sys.executable, "-m", "tests.harness.builds", f"127.0.0.1:{self.port}", str(self.data)]

    def doom(self, at: int | None) -> None:
        """Have the next process die at this commit; None for one that lives."""
        self._env.pop(DOOM, None)
        if at is not None:
            self._env[DOOM] = str(at)

    def doom_on(self, event: str | None) -> None:
        """Have the next process die once an event of this kind is committed; None for one that lives."""
        self._env.pop(DOOM_EVENT, None)
        if event is not None:
            self._env[DOOM_EVENT] = event

    def ask(self, verb: str, timeout: float = 120, **given: Any) -> Any:
        """The answer. Raises AssertionError with the message of what the server raises."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(self.data / _SOCKET))
            connection.sendall(json.dumps({"verb": verb, **given}).encode() + b"\n")
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline())
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def request(self, dockerfile: str, *, wanted_by: str = "test", context: Path | None = None, **given: Any) -> str:
        """Ask for a build; its id. `context` is an archive."""
        plan: dict[str, Any] = {"dockerfile": dockerfile, "wanted_by": wanted_by, **given}
        if context is not None:
            plan["context"] = described(context)
        return str(self.ask("request", plan=plan)["id"])

    def build(self, dockerfile: str, **given: Any) -> dict[str, Any]:
        """Ask for a build and wait for its end."""
        return self.wait(self.request(dockerfile, **given))

    def wait(self, build_id: str, timeout: float = 100) -> dict[str, Any]:
        """The build once it has ended."""
        found: dict[str, Any] = self.ask("wait", timeout=timeout + 10, id=build_id, timeout_s=timeout)
        return found

    def log(self, build_id: str, after: int = 0) -> list[str]:
        """The messages of its log."""
        return [line["message"] for line in self.ask("logs", id=build_id, after=after)]

    def run(self, image: str, command: str) -> str:
        """What the command prints in a devbox of the image, as its user."""
        ran = self.ask("run", image=image, command=command)
        assert ran["exit_code"] == 0, ran
        return str(ran["stdout"])

    def pack(self, name: str, files: Mapping[str, str]) -> Path:
        """An archive for a context."""
        folder = self.contexts / f"{name}.d"
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        archive = self.contexts / f"{name}.tar.gz"
        subprocess.run(["tar", "--create", "--gzip", f"--file={archive}", f"--directory={folder}", "."], check=True)
        shutil.rmtree(folder)
        return archive


def described(archive: Path) -> list[Any]:
    """A context as a plan has it."""
    return [archive.name, f"sha256:{_digest(archive)}", archive.stat().st_size]


def _digest(path: Path) -> str:
    return subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True).stdout.split()[0]


class Folder:
    """Contexts in a folder of the host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def open(self, account_id: str, object_id: str) -> Any:
        """The archive of this name, in pieces."""

        async def pieces() -> Any:
            with (self._folder / object_id).open("rb") as file:
                while piece := file.read(MIB):
                    yield piece

        assert account_id == ACCOUNT
        return pieces()


class BuildDaemon(daemon.Daemon):
    """The daemon, with a socket."""

    def make_store(self, database: sa.Engine, feed: events.Feed) -> Store:
        """One that dies at its n-th commit, or after one with an event, if the environment says so."""
        fatal = os.environ.get(DOOM_EVENT)
        feed.listen(lambda event: os.kill(os.getpid(), signal.SIGKILL) if event.kind == fatal else None)
        if DOOM not in os.environ:
            return super().make_store(database, feed)
        victim.Doomed.at = int(os.environ[DOOM])
        return victim.Doomed(database, feed)

    def make_contexts(self, _storage: Storage) -> Contexts:
        """Those of the test."""
        return Folder(self.settings.data.parent / "contexts")

    def make_builds(self, base: Base, *parts: Any) -> tuple[Builds, BuildController]:
        """Those of the daemon, known to the socket."""
        builds, controller = super().make_builds(base, *parts)
        controller._furnisher.most_layers = MOST_LAYERS
        self.parts = Parts(base.store, builds, controller._workshop)
        self.serving = asyncio.ensure_future(self.parts.serve(self.settings.data / _SOCKET))
        return builds, controller


class Parts:
    """Answers on the socket."""

    def __init__(self, store: Any, builds: Builds, workshop: Workshop) -> None:
        self._store = store
        self._builds = builds
        self._devboxes = workshop._devboxes
        self._executions = workshop._executions
        self._runtime = workshop._runtime

    async def serve(self, path: Path) -> None:
        """Until cancelled."""
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._answer, str(path))
        async with server:
            await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = json.loads(await reader.readline())
        do: Callable[..., Awaitable[Any]] = getattr(self, question.pop("verb"))
        try:
            answer = {"value": await do(**question)}
        except (errors.CorralError, TimeoutError) as problem:
            answer = {"error": f"{type(problem).__name__}: {problem}"}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        writer.close()

    async def request(self, plan: dict[str, Any]) -> Any:
        """Builds.request."""
        context = plan.pop("context", None)
        limits = plan.pop("limits", None)
        made = BuildPlan(
            account_id=ACCOUNT,
            context=BuildContext(*context) if context else None,
            limits=Limits(**limits) if limits else None,
            **plan,
        )
        return _plain(await self._store.write(lambda connection: self._builds.request(connection, made)))

    async def get(self, id: str) -> Any:  # noqa: A002 - the name on the wire
        """Builds.get."""
        return _plain(await self._store.read(lambda connection: self._builds.get(connection, ACCOUNT, id)))

    async def wait(self, id: str, timeout_s: float) -> Any:  # noqa: A002 - the name on the wire
        """Builds.wait."""
        return _plain(await self._builds.wait(ACCOUNT, id, timeout_s))

    async def logs(self, id: str, after: int) -> Any:  # noqa: A002 - the name on the wire
        """Builds.logs."""
        return [_plain(line) for line in await self._builds.logs(ACCOUNT, id, after=after)]

    async def release(self, id: str, wanted_by: str) -> None:  # noqa: A002 - the name on the wire
        """Builds.release."""
        await self._store.write(lambda connection: self._builds.release(connection, ACCOUNT, id, wanted_by))

    async def open(self) -> Any:
        """Builds that are not done with."""
        return await self._store.read(rows.to_do)

    async def abandon(self, id: str) -> None:  # noqa: A002 - the name on the wire
        """Nothing wants it any more."""

        def release(connection: sa.Connection) -> None:
            wanted = sa.select(BUILD_USES.c.wanted_by).where(BUILD_USES.c.build_id == id)
            for user in connection.execute(wanted).scalars().all():
                rows.release(connection, id, user, 0)

        await self._store.write(release)

    async def layers(self, name: str) -> list[str]:
        """Where the layers of an image are."""
        return [str(layer.path) for layer in self._builds._library.resolve(name).layers]

    async def is_here(self, name: str) -> bool:
        """Whether there is an image of this name."""
        return self._builds._is_here(name)

    async def boxes(self) -> Any:
        """Ids of all boxes of the host, and of all snapshots."""
        return [[box.id for box in await self._runtime.boxes()], await self._runtime.snapshots()]

    async def run(self, image: str, command: str, nested: bool = False) -> Any:
        """A command in a devbox of an image."""
        info = self._builds._library.resolve(image)
        request = DevboxRequest(image=image, user=info.user, env=info.env, nested=nested)  # type: ignore[attr-defined]
        devbox = await self._devboxes.create(ACCOUNT, request)
        await self._devboxes.wait(ACCOUNT, devbox.id, frozenset({Observed.RUNNING}), 60)
        execution = await self._executions.start(ACCOUNT, devbox.id, command)
        done = await self._executions.wait(
            ACCOUNT, devbox.id, execution.id, frozenset({ExecutionStatus.COMPLETED}), 60
        )
        told = [self._executions.tail(done, stream, 1000)[0] for stream in (Stream.STDOUT, Stream.STDERR)]
        await self._devboxes.shutdown(ACCOUNT, devbox.id)
        return {"exit_code": done.exit_code, "stdout": told[0], "stderr": told[1]}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(value)))


def eventually(holds: Callable[[], bool], within_s: float = 20) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it does not come to hold"
        time.sleep(0.05)


def main(listen: str, data: str) -> int:
    """Serve as `corral serve` does."""
    chosen = settings.load(os.environ, listen=listen, data=Path(data))
    log.configure(format=chosen.log_format, level=chosen.log_level)
    return uvloop.run(BuildDaemon(chosen).run())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
