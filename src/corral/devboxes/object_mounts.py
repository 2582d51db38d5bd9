"""Objects that are put into a box at its first start.

Owns what is written where, and the command that unpacks an archive. The host never looks into an archive: it goes
into the box as it is, and the box's own tools unpack it there, as the box's user.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from corral.core import errors
from corral.devboxes import faults
from corral.devboxes.faults import Refusal
from corral.devboxes.model import Devbox, ObjectMount
from corral.runtime.contract import FileProblem, Runtime
from corral.storage.model import ARCHIVES, ContentType
from corral.storage.service import Content, Objects

_PIECE: Final = 256 * 1024

#: Unpacks the archive `$a` into `$d`. What a compressed file is that holds no archive is called `$n` there.
_UNPACK: Final = 'tar --extract --file "$a" --directory "$d"'
_GUNZIP: Final = (
    'if [ "$(gzip -dc "$a" | head -c 262 | tail -c 5)" = ustar ]; then {unpack}; else gzip -dc "$a" > "$d/$n"; fi'
)
_WHOLE: Final = 'a={a} d={d} n={n}; {act}; code=$?; rm -f "$a"; exit $code'


class ObjectMounts:
    """Both calls tell why something cannot be mounted. Doing them again does no harm."""

    def __init__(self, runtime: Runtime, objects: Objects) -> None:
        self._runtime = runtime
        self._objects = objects

    async def write(self, devbox: Devbox) -> Refusal | None:
        """Write every object that is no archive, at the first start only."""
        if devbox.start != 0:
            return None
        for mount in devbox.request.object_mounts:
            problem = await self._write(devbox, mount, archive=False)
            if problem is not None:
                return problem
        return None

    async def stage(self, devbox: Devbox, mount: ObjectMount) -> str | Refusal:
        """Put an archive beside what it is unpacked into; return the command that does that, "" for no archive."""
        try:
            found = await self._objects.get(devbox.account_id, mount.object_id)
        except errors.NotFound as missing:
            return Refusal(f"cannot mount object {mount.object_id}: {missing.message}")
        if found.content_type not in ARCHIVES:
            return ""
        if problem := await self._write(devbox, mount, archive=True):
            return problem
        inner = posixpath.basename(found.name).removesuffix(".gz").strip(".") or "content"
        act = _GUNZIP.format(unpack=_UNPACK) if found.content_type is ContentType.GZIP else _UNPACK
        archive, directory = _quoted(_staged(mount)), _quoted(mount.path)
        return _WHOLE.format(a=archive, d=directory, n=shlex.quote(inner), act=act)

    async def _write(self, devbox: Devbox, mount: ObjectMount, *, archive: bool) -> Refusal | None:
        """Write the content if it is of this kind."""
        try:
            row = await self._objects.get(devbox.account_id, mount.object_id)
            if (row.content_type in ARCHIVES) is not archive:
                return None
            opened = await self._objects.open(devbox.account_id, mount.object_id)
            target = _staged(mount) if archive else mount.path
            await self._runtime.write_file(devbox.id, target, _pieces(opened.content))
        except errors.Unavailable:
            raise  # which is tried again, for as long as a launch may take
        except (FileProblem, errors.CorralError) as problem:
            why = faults.refusal(problem) if isinstance(problem, FileProblem) else Refusal(problem.message)
            return replace(why, message=f"cannot mount object {mount.object_id} at {mount.path}: {why.message}")
        return None


def _staged(mount: ObjectMount) -> str:
    """Where an archive is until it is unpacked: in the directory that it is unpacked into, so that this is made."""
    return posixpath.join(mount.path, f".{mount.object_id}")


def _quoted(path: str) -> str:
    """The path as a word of the box's shell, which begins in the home as paths of files do."""
    if path.startswith("/"):
        return shlex.quote(path)
    return '"$HOME"/' + shlex.quote(path.removeprefix("~/"))


async def _pieces(content: Content) -> AsyncIterator[bytes]:
    """The content in chunks as the runtime takes them."""
    async for part in content:
        for start in range(0, len(part), _PIECE):
            yield part[start : start + _PIECE]
