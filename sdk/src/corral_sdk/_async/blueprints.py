"""Blueprints: images that devboxes begin as, built from a Dockerfile, commands and files."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from corral_sdk import _context, errors
from corral_sdk._async import concurrency
from corral_sdk._async.objects import AsyncObjects
from corral_sdk._async.transport import AsyncTransport, Call
from corral_sdk.models import BlueprintInfo, BuildLine

#: Between two looks at a build that goes on.
LOOK_S = 0.3

#: For how long the server keeps the context of a build.
CONTEXT_S = 24 * 3600.0


# Inside the class `list` is the method.
Lines = list[BuildLine]


class AsyncBlueprints:
    """The blueprints of the key's account."""

    def __init__(self, transport: AsyncTransport, objects: AsyncObjects) -> None:
        self._transport = transport
        self._objects = objects

    async def create(
        self,
        name: str,
        *,
        dockerfile: str | None = None,
        context: Path | None = None,
        base: str | None = None,
        build_args: Mapping[str, str] | None = None,
        setup: Sequence[str] = (),
        files: Mapping[str, str] | None = None,
        services: Sequence[Mapping[str, object]] = (),
        launch_parameters: Mapping[str, object] | None = None,
        metadata: Mapping[str, str] | None = None,
        wait: bool = True,
        timeout_s: float = 3600,
    ) -> BlueprintInfo:
        """Build a blueprint and, unless `wait` is False, return when it is built.

        Either `dockerfile` is a text, with `context` as the folder that it copies from, less what its .dockerignore
        names; or `base` the id or name of a blueprint; or neither, and it is built on the server's default image.
        Then `files` are written, paths to text, and the commands of `setup` run as the user, one step each.
        Raises Invalid, BuildFailed when a step failed, TimedOut.
        """
        body = _body(name, dockerfile, base, build_args, setup, files, services, launch_parameters, metadata)
        if context is not None:
            body["build_context"] = {"type": "object", "object_id": await self.send_context(context)}
        made = BlueprintInfo.from_wire(await self._transport.json(Call("POST", "/v1/blueprints", json=body)))
        return await self.wait(made.id, timeout_s=timeout_s) if wait else made

    async def send_context(self, folder: Path) -> str:
        """Store a folder as the context of builds, and return the id of the object."""
        with tempfile.TemporaryDirectory(prefix="corral-context-") as place:
            archive = Path(place) / "context.tar"
            with archive.open("wb") as file:
                file.writelines(_context.pack(folder))
            return (await self._objects.upload(archive, "context.tar", ttl_s=CONTEXT_S)).id

    async def preview(
        self,
        name: str,
        *,
        dockerfile: str | None = None,
        base: str | None = None,
        setup: Sequence[str] = (),
        files: Mapping[str, str] | None = None,
    ) -> str:
        """Return the Dockerfile that `create` would build."""
        body = _body(name, dockerfile, base, None, setup, files, (), None, None)
        return str((await self._transport.json(Call("POST", "/v1/blueprints/preview", json=body)))["dockerfile"])

    async def get(self, blueprint_id: str) -> BlueprintInfo:
        """Return a blueprint by its id, a deleted one too. Raises NotFound."""
        return BlueprintInfo.from_wire(await self._transport.json(Call("GET", _path(blueprint_id))))

    async def find(self, reference: str) -> BlueprintInfo:
        """Return a blueprint by its id, or the newest of this name. Raises NotFound."""
        if reference.startswith("bpt_"):
            return await self.get(reference)
        async for info in self.list(name=reference, page_size=1):
            return info
        raise errors.NotFound(f"cannot find blueprint {reference!r}: no blueprint has this id or name")

    async def list(
        self, *, name: str | None = None, status: str | None = None, page_size: int = 100
    ) -> AsyncIterator[BlueprintInfo]:
        """Yield blueprints that are not deleted, newest first: those with this name and status."""
        params = {"limit": str(page_size), "include_total_count": "false"}
        params |= {key: value for key, value in {"name": name, "status": status}.items() if value}
        async for wire in self._transport.pages(Call("GET", "/v1/blueprints", params=params), "blueprints"):
            yield BlueprintInfo.from_wire(wire)

    async def wait(self, blueprint_id: str, *, timeout_s: float = 3600) -> BlueprintInfo:
        """Return the blueprint once it is built. Raises BuildFailed, TimedOut."""
        end = time.monotonic() + timeout_s
        while True:
            info = await self.get(blueprint_id)
            if info.status == "failed":
                raise errors.BuildFailed(f"cannot build blueprint {info.name}: {info.message}", info.id)
            if info.has_ended:
                return info
            if time.monotonic() >= end:
                raise errors.TimedOut(f"cannot wait longer for blueprint {info.name}: it is {info.status}")
            await concurrency.sleep(LOOK_S)

    async def logs(self, blueprint_id: str, *, after: int = 0) -> Lines:
        """Return the lines of the build's log so far that follow the one of this number."""
        call = Call("GET", f"{_path(blueprint_id)}/logs", params={"starting_after": str(after)})
        return [BuildLine.from_wire(wire) for wire in (await self._transport.json(call)).get("logs") or ()]

    async def follow(self, blueprint_id: str) -> AsyncIterator[BuildLine]:
        """Yield the lines of the build's log, each as it is written, until the build is over."""
        after = 0
        while True:
            ended = (await self.get(blueprint_id)).has_ended  # before the look: lines may come in between
            for line in await self.logs(blueprint_id, after=after):
                after = line.number
                yield line
            if ended:
                return
            await concurrency.sleep(LOOK_S)

    async def delete(self, blueprint_id: str) -> None:
        """Delete a blueprint. Devboxes that began as it go on. Raises NotFound, WrongState while it has snapshots."""
        await self._transport.json(Call("POST", f"{_path(blueprint_id)}/delete", json={}))


def _body(
    name: str,
    dockerfile: str | None,
    base: str | None,
    build_args: Mapping[str, str] | None,
    setup: Sequence[str],
    files: Mapping[str, str] | None,
    services: Sequence[Mapping[str, object]],
    launch_parameters: Mapping[str, object] | None,
    metadata: Mapping[str, str] | None,
) -> dict[str, object]:
    by_id = base is not None and base.startswith("bpt_")
    body: dict[str, object] = {
        "name": name,
        "dockerfile": dockerfile,
        "base_blueprint_id": base if by_id else None,
        "base_blueprint_name": None if by_id else base,
        "build_args": dict(build_args) if build_args else None,
        "system_setup_commands": list(setup) or None,
        "file_mounts": dict(files) if files else None,
        "services": [dict(service) for service in services] or None,
        "launch_parameters": dict(launch_parameters) if launch_parameters else None,
        "metadata": dict(metadata) if metadata else None,
    }
    return {key: value for key, value in body.items() if value is not None}


def _path(blueprint_id: str) -> str:
    if not blueprint_id or not all(char.isalnum() or char in "-_" for char in blueprint_id):
        raise errors.Invalid(f"cannot look up {blueprint_id!r}: an id has letters, digits, - and _ only")
    return f"/v1/blueprints/{blueprint_id}"
