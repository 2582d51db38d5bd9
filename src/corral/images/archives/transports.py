"""Where images come from, brought to an OCI layout by skopeo: registries, layouts, archives of Docker and of OCI.

Owns which kind of source something is, and skopeo's command lines and limits. Must not read a layer.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from corral.core import errors
from corral.images.archives import layout, sandbox
from corral.images.archives.model import Task

#: The name of the image in a layout that is made here.
NAME: Final = "image"

_POLICY: Final = Path("/etc/containers/policy.json")
_REGISTRIES: Final = ("/etc/containers/registries.conf", "/etc/containers/registries.conf.d")
_CONFIGURATION: Final = (*_REGISTRIES, "/etc/containers/certs.d")
_MARKS: Final = {layout.MARKER: "oci-archive", "manifest.json": "docker-archive"}
#: Seconds between two looks at how much was written.
_LOOK_S: Final = 0.2
#: What skopeo writes before what it has to say.
_LEVEL: Final = re.compile(r'^time="[^"]*" level=\w+ msg="(.*)"$')
_LONGEST: Final = 400


class Kind(enum.StrEnum):
    """What a source is, in the words of skopeo; a plain tar is nothing that skopeo would bring."""

    REGISTRY = "docker"
    LAYOUT = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"
    TAR = "tar"


@dataclass(frozen=True, slots=True)
class Registries:
    """How registries are reached. `config` is a registries.conf(5): mirrors, plain HTTP, what is blocked."""

    config: Path | None = None
    auth: Path | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where an image comes from: a reference for a registry, otherwise a path. `name` chooses among several."""

    kind: Kind
    place: str
    name: str | None = None

    @property
    def shown(self) -> str:
        """As a person would write it."""
        return self.place if self.kind is not Kind.REGISTRY else f"docker://{self.place}"


def local(path: Path, task: Task) -> Source:
    """What kind of source is at this path. Blocking. Raises errors.Invalid, errors.NotFound."""
    if path.is_dir():
        if (path / layout.MARKER).is_file():
            return Source(Kind.LAYOUT, str(path.absolute()))
        raise task.invalid(f"{path} is a folder, and no OCI layout: it has no {layout.MARKER}")
    if not path.is_file():
        raise errors.NotFound(f"{task.what}: there is no file {path}")
    return Source(_kind_of(path, task), str(path.absolute()))


async def fetch(source: Source, target: Path, registries: Registries, task: Task, known: Iterable[str] = ()) -> None:
    """Have skopeo copy the image to a new layout `target`, as NAME. Raises what `task` says, errors.Unavailable.

    Blobs that come from a registry are checked against their digests as they come. Those that are `known` by theirs do
    not come: they are empty files in the layout.
    """
    reads, options = _settings(registries, remote=source.kind is Kind.REGISTRY)
    where = _address(source)
    if source.kind is not Kind.REGISTRY:
        reads.append(("/source", Path(source.place)))
    scratch = target.with_name(f"{target.name}.tmp")
    for folder in (target, scratch):
        folder.mkdir(mode=0o700)
    for digest in known:
        path = layout.blob_path(target, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    walls = sandbox.Walls(
        reads=tuple(reads),
        writes=(("/target", target), ("/scratch", scratch)),
        folder="/target",
        # A file of somebody else's is read as root reads it.
        capabilities=sandbox.READ,
        network=source.kind is Kind.REGISTRY,
        file_size=task.limits.size,
        env=(("TMPDIR", "/scratch"), *options.env),
    )
    argv = [
        "skopeo",
        *options.top,
        "copy",
        "--quiet",
        "--dest-oci-accept-uncompressed-layers",
        *options.copy,
        where,
        f"oci:/target:{NAME}",
    ]
    with tempfile.TemporaryFile() as complaints:
        code = await _watched(sandbox.confined(argv, walls), complaints, (target, scratch), task)
        if code:
            raise _failure(source, complaints, task)


@dataclass(frozen=True, slots=True)
class _Options:
    top: tuple[str, ...]
    copy: tuple[str, ...]
    env: tuple[tuple[str, str], ...]


def _settings(registries: Registries, *, remote: bool) -> tuple[list[tuple[str, Path]], _Options]:
    """Files that skopeo reads, and what it is told of them."""
    reads: list[tuple[str, Path]] = []
    top = ["--tmpdir=/scratch"]
    if _POLICY.is_file():
        reads.append((str(_POLICY), _POLICY))
    else:
        top.append("--insecure-policy")
    if not remote:
        return reads, _Options(tuple(top), (), ())
    own = () if registries.config is None else _REGISTRIES
    reads += [(path, Path(path)) for path in _CONFIGURATION if path not in own and Path(path).exists()]
    copy: list[str] = []
    env: list[tuple[str, str]] = []
    if registries.config is not None:
        reads.append((_REGISTRIES[0], registries.config))
    if registries.auth is not None:
        reads.append(("/auth.json", registries.auth))
        copy.append("--src-authfile=/auth.json")
    env += [(name, value) for name in ("http_proxy", "https_proxy", "no_proxy") if (value := os.environ.get(name))]
    return reads, _Options(tuple(top), tuple(copy), tuple(env))


def _address(source: Source) -> str:
    if source.kind is Kind.REGISTRY:
        return f"docker://{source.place}"
    return f"{source.kind}:/source" + (f":{source.name}" if source.name else "")


async def _watched(command: Sequence[str], complaints: IO[bytes], folders: Sequence[Path], task: Task) -> int:
    """The exit code. Raises errors.TooLarge once it has written too much, and what `task` says."""
    child = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=complaints
    )
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    return await child.wait()
            task.check()
            if (size := sum(map(_written, folders))) > task.limits.size:
                raise errors.TooLarge(f"{task.what}: {size >> 20} MiB came, more than {task.limits.size >> 20} MiB")
    finally:
        if child.returncode is None:
            sandbox.end(child.pid)
            await child.wait()


def _written(folder: Path) -> int:
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(f"{path}/{name}").st_blocks * 512
    return total


def _failure(source: Source, complaints: IO[bytes], task: Task) -> errors.CorralError:
    complaints.seek(0)
    lines = complaints.read(1 << 16).decode(errors="replace").strip().splitlines()
    cause = lines[-1] if lines else "skopeo was killed"
    if found := _LEVEL.match(cause):
        cause = found[1].replace('\\"', '"')
    if source.kind is Kind.REGISTRY:
        return errors.Unavailable(
            f"{task.what}: {cause[:_LONGEST]}",
            remedy="see the name, CORRAL_REGISTRIES and CORRAL_REGISTRY_AUTH, or import it from a file",
        )
    return task.invalid(cause[:_LONGEST])


def _kind_of(path: Path, task: Task) -> Kind:
    """What kind of archive a file is, by the names in it, as tar reads them."""
    walls = sandbox.Walls(reads=(("/source", path.absolute()),), capabilities=sandbox.READ)
    command = sandbox.confined(["tar", "--list", "--file=/source", "--quoting-style=escape"], walls)
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints)
        try:
            for number, line in enumerate(child.stdout or ()):
                if kind := _MARKS.get(line.decode(errors="replace").strip().removeprefix("./")):
                    return Kind(kind)
                if number > task.limits.files:
                    raise errors.TooLarge(f"{task.what}: more than {task.limits.files} files")
            code = child.wait(60)
        finally:
            if child.poll() is None:
                sandbox.end(child.pid)
            if child.stdout is not None:
                child.stdout.close()
            child.wait()
        complaints.seek(0)
        lines = [
            line for line in complaints.read(1 << 16).decode(errors="replace").splitlines() if "Removing" not in line
        ]
        if code and lines:
            raise task.invalid(lines[0][:_LONGEST])
    return Kind.TAR
