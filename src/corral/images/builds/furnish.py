"""What goes into the devbox of a build: the program, the plan, the context, and the images that are built upon.

Owns their places in there and the form of the plan. Each is written whole or not at all, and can be written again.
The layers of most bases are lent to the devbox, so that what goes in of them is a description; the others are sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from corral.core import errors
from corral.devboxes.service import Files
from corral.images.builds import log
from corral.images.builds.library import Image, Library
from corral.images.builds.model import CARRIED, archive_name
from corral.images.builds.tables import Job
from corral.images.builds.workshop import FOLDER, PARTS, PROGRAM, Workshop, account_of
from corral.runtime.contract import LENT
from corral.storage.service import Objects

#: Registries' hosts have no such ending: no Dockerfile gives an image this name by accident.
OWN: Final = "corral.invalid/base"

#: Layers of an image that is built: a box has some more, its host's and those of a later build.
MOST_LAYERS: Final = 60

#: Names of files here say which bases the disk has already; the program makes them.
LOADED: Final = "/var/lib/containers/corral-bases"

_CHUNK: Final = 1024 * 1024
_NAME: Final = "org.opencontainers.image.ref.name"
_LONG_AGO: Final = "1970-01-01T00:00:00Z"


class Contexts(Protocol):
    """Where the archives of contexts are."""

    async def open(self, account_id: str, object_id: str) -> AsyncIterator[bytes]:
        """The archive, to be read once. Raises errors.CorralError when it is not there."""


class StoredContexts:
    """Archives that are stored objects."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def open(self, account_id: str, object_id: str) -> AsyncIterator[bytes]:
        """See `Contexts`."""
        return aiter((await self._objects.open(account_id, object_id)).content)


@dataclass(slots=True)
class _Given:
    """The bases of one build by their digests, as the plan has them, and the layers that need not come out again."""

    bases: dict[str, dict[str, Any]] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)


class Furnisher:
    """`furnish` may be called again after it was cut off anywhere, as long as the program has not started."""

    def __init__(self, workshop: Workshop, files: Files, library: Library, contexts: Contexts, scratch: Path) -> None:
        """`scratch` is a folder of the host for layouts on their way into devboxes."""
        self._workshop = workshop
        self._files = files
        self._library = library
        self._contexts = contexts
        self._scratch = scratch
        self.most_layers = MOST_LAYERS

    async def furnish(self, job: Job, before: str | None) -> frozenset[str]:
        """Put everything into the devbox, which runs; the layers that need not come out of it.

        `before` is the image of the build whose disk it began as. Raises errors.CorralError.
        """
        given = await self._bases(job)
        if before is not None:
            with contextlib.suppress(errors.NotFound):  # nothing wanted it any more: its layers may be gone
                given.known |= {layer.digest for layer in self._library.resolve(before).layers}
        plan = {
            "args": dict(job.plan.build_args),
            "target": job.plan.target,
            "carried": {image: archive_name(image) for image in job.plan.carried},
            "carried_in": CARRIED,
            "timeout_s": self._workshop.seconds(job),
            "bases": list(given.bases.values()),
            "lent": LENT,
            "known": sorted(digest.removeprefix("sha256:") for digest in given.known),
            "most_layers": self.most_layers - bool(job.plan.carried),
            "log_bytes": self._workshop.terms.log_bytes,
            "line_length": log.LINE_LENGTH,
        }
        for path in PARTS:
            await self._write(job, f"{PROGRAM}/{path.name}", path.read_bytes())
        await self._write(job, f"{FOLDER}/plan.json", json.dumps(plan).encode())
        await self._write(job, f"{FOLDER}/Dockerfile", job.plan.dockerfile.encode())
        for name, text in job.plan.files.items():
            await self._write(job, f"{FOLDER}/files/{name}", text.encode())
        if job.plan.context is not None:
            content = await self._contexts.open(job.build.account_id, job.plan.context.object_id)
            await self._upload(job, f"{FOLDER}/context.tar", content)
        return frozenset(given.known)

    async def _bases(self, job: Job) -> _Given:
        """Describe the bases of the build and the images that its disk has layers on; send what is not lent."""
        given = _Given()
        names: dict[str, list[str]] = {}
        for written, (image, _) in job.bases.items():
            names.setdefault(image, []).append(written)
        devbox = await self._workshop.look(job)
        lent = await self._listed(job, LENT) if devbox is not None and devbox.request.lent else set()
        missing: list[Image] = []
        for image in (*names, *(devbox.request.lent if devbox is not None else ())):
            try:
                info = self._library.resolve(image)
            except (errors.NotFound, errors.Unavailable):
                if image in names:
                    raise
                continue
            own = info.digest.removeprefix("sha256:")
            base = given.bases.get(own) or await self._lent(info, lent)
            if base is None and image in names:
                base = {"id": own, "names": []}
                missing.append(info)
            if base is not None:
                given.bases[own] = base
                base["names"] += [name for name in names.get(image, ()) if name not in base["names"]]
                given.known |= {layer.digest for layer in info.layers}
        if missing:
            loaded = await self._listed(job, LOADED) if job.begins_as is not None else set()
            await self._send(job, [info for info in missing if info.digest.removeprefix("sha256:") not in loaded])
        return given

    async def _lent(self, info: Image, lent: set[str]) -> dict[str, Any] | None:
        """What the program has to know of an image whose layers the devbox has; None of any other."""
        layers = [layer.digest.removeprefix("sha256:") for layer in info.layers]
        config = await self._library.plain(info.name) if lent.issuperset(layers) else None
        if config is None:
            return None
        told = json.dumps(_told(json.loads(config), len(layers)), sort_keys=True)
        return {"id": info.digest.removeprefix("sha256:"), "names": [], "config": told, "layers": layers}

    async def _listed(self, job: Job, folder: str) -> set[str]:
        """Names in a folder of the devbox. What an earlier build left there is its own account's trouble."""
        try:
            entries = await self._files.list(account_of(job.build.account_id), job.devbox_id or "", folder)
        except (errors.NotFound, errors.Invalid):
            return set()
        return {entry.path.rpartition("/")[2] for entry in entries}

    async def _send(self, job: Job, missing: Sequence[Image]) -> None:
        if not missing:
            return
        with scratch(self._scratch / job.build.id) as folder:
            entries: list[Mapping[str, Any]] = []
            for info in missing:
                await self._library.export_layout(info.name, folder)
                entries.append(_entry(folder, info))
            (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    await self._upload(job, f"{FOLDER}/bases/{path.relative_to(folder)}", _content(path))

    async def _write(self, job: Job, path: str, data: bytes) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(data), _CHUNK):
                yield data[start : start + _CHUNK]

        await self._upload(job, path, chunks())

    async def _upload(self, job: Job, path: str, chunks: AsyncIterator[bytes]) -> None:
        await self._files.upload(account_of(job.build.account_id), job.devbox_id or "", path, chunks)


def _entry(folder: Path, info: Image) -> Mapping[str, Any]:
    """The entry of an index for an image that was added to the layout last, under a name of our own."""
    index = json.loads((folder / "index.json").read_text())
    listed = next(one for one in index["manifests"] if one.get("annotations", {}).get(_NAME) == info.name)
    manifest = json.loads(_blob(folder, listed["digest"]).read_text())
    config = json.loads(_blob(folder, manifest["config"]["digest"]).read_text())
    told = _told(config, len(manifest["layers"]))
    if told != config:
        manifest["config"] |= _put(folder, told)
        listed |= _put(folder, manifest)
    own = f"{OWN}/{info.digest.removeprefix('sha256:')}:latest"
    return {**listed, "annotations": {_NAME: own}}


def _told(config: Mapping[str, Any], layers: int) -> Mapping[str, Any]:
    """The configuration with a history that tells of each layer.

    buildah finds no step of an earlier build again on a base that has none.
    """
    history = config.get("history")
    told = [one for one in history if not one.get("empty_layer")] if isinstance(history, list) else []
    if len(told) == layers:
        return config
    return {**config, "history": [{"created": _LONG_AGO, "created_by": "corral"} for _ in range(layers)]}


def _put(folder: Path, value: Mapping[str, Any]) -> dict[str, object]:
    content = json.dumps(value, sort_keys=True).encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    _blob(folder, digest).write_bytes(content)
    return {"digest": digest, "size": len(content)}


def _blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


async def _content(path: Path) -> AsyncIterator[bytes]:
    """A file in pieces, each read by a thread: it may have gigabytes."""
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, _CHUNK):
            yield piece


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """An empty folder of the host, gone at the end, and at the next try if there was none."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
