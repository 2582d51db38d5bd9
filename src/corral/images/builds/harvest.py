"""What comes out of the devbox of a build: its result, and the image as a layout for the image store.

Owns the checks of all that: whoever wrote the Dockerfile had the devbox to themselves. Every file has a bound and is
checked against its digest; no name from in there is a path of the host; no layer is taken that did not come out of
this devbox or was known to it, for whoever names another account's layer would get it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from corral.core import errors
from corral.devboxes.service import Files
from corral.images.builds.furnish import MOST_LAYERS, scratch
from corral.images.builds.library import Library
from corral.images.builds.model import ImageConfig
from corral.images.builds.tables import Job
from corral.images.builds.workshop import FOLDER, account_of

_OUT: Final = f"{FOLDER}/out"
_RESULT: Final = f"{FOLDER}/result.json"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)

#: Bytes of a result, a manifest or a configuration.
_SMALL: Final = 1024 * 1024
_SAID: Final = 4000
#: Images of builds are called so, and no Dockerfile can name them: they are their accounts'.
PREFIX: Final = "corral-build/"

_MARKER: Final = '{"imageLayoutVersion": "1.0.0"}'


@dataclass(frozen=True, slots=True)
class Result:
    """What the program says of its end. `stage` is what went wrong: base, context, build, image or disk."""

    ok: bool
    stage: str = ""
    message: str = ""
    code: int | None = None
    late: bool = False


def image_name(build_id: str) -> str:
    """What the image of a build is called on this host. Names of images have no capitals, ids do."""
    return f"{PREFIX}{hashlib.sha256(build_id.encode()).hexdigest()[:40]}"


class Harvester:
    """Each call may be repeated after it was cut off anywhere."""

    def __init__(self, files: Files, library: Library, folder: Path) -> None:
        """`folder` is one of the host, for layouts on their way out."""
        self._files = files
        self._library = library
        self._folder = folder

    async def result(self, job: Job) -> Result | None:
        """What the program wrote at its end; None when it was killed, or what it wrote is none."""
        try:
            said = json.loads(await self._small(job, _RESULT))
        except (errors.NotFound, errors.Invalid, errors.TooLarge, ValueError, RecursionError):
            return None
        if not isinstance(said, dict):
            return None
        code = said.get("code")
        return Result(
            ok=said.get("ok") is True,
            stage=str(said.get("stage", ""))[:_SAID],
            message=str(said.get("message", ""))[:_SAID],
            code=code if type(code) is int and 0 <= code <= 255 else None,
            late=said.get("late") is True,
        )

    async def take(self, job: Job, known: frozenset[str], most_bytes: int) -> ImageConfig:
        """Make the image one of this host, as `image_name`; what it says of itself.

        `known` are digests of layers that this host has and the devbox was told of. Raises errors.Invalid,
        errors.TooLarge when what is there is not what an image is.
        """
        with scratch(self._folder / job.build.id) as folder:
            (folder / "blobs" / "sha256").mkdir(parents=True)
            (folder / "oci-layout").write_text(_MARKER)
            config = await self._layout(job, folder, known, most_bytes)
            await self._library.import_layout(folder, image_name(job.build.id), owned=True)
        return config

    def drop(self, build_id: str) -> None:
        """Remove the image of a build. Idempotent."""
        self._library.forget(image_name(build_id))

    async def _layout(self, job: Job, folder: Path, known: frozenset[str], most_bytes: int) -> ImageConfig:
        index = _object(await self._small(job, f"{_OUT}/index.json"))
        listed = _list(index.get("manifests"))
        if len(listed) != 1:
            raise errors.Invalid(f"cannot take the image out: its layout lists {len(listed)} images")
        digest = _digest(listed[0])
        manifest_text = await self._blob(job, digest)
        manifest = _object(manifest_text)
        config_digest = _digest(manifest.get("config"))
        config_text = await self._blob(job, config_digest)
        for name, text in ((digest, manifest_text), (config_digest, config_text)):
            _path(folder, name).write_bytes(text)
        layers = [_digest(layer) for layer in _list(manifest.get("layers"))]
        config = _object(config_text)
        if _list(_object_of(config.get("rootfs")).get("diff_ids")) != layers:
            raise errors.Invalid("cannot take the image out: its layers are compressed, or not those of its manifest")
        if not 0 < len(layers) <= MOST_LAYERS:
            raise errors.Invalid(f"cannot take the image out: it has {len(layers)} layers, {MOST_LAYERS} are possible")
        left = most_bytes
        for layer in dict.fromkeys(layers):
            if layer not in known:
                left -= await self._layer(job, layer, _path(folder, layer), left)
        entry = {"mediaType": listed[0].get("mediaType"), "digest": digest, "size": len(manifest_text)}
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        return _config(_object_of(config.get("config")))

    async def _blob(self, job: Job, digest: str) -> bytes:
        text = await self._small(job, f"{_OUT}/blobs/sha256/{digest.removeprefix('sha256:')}")
        if f"sha256:{hashlib.sha256(text).hexdigest()}" != digest:
            raise errors.Invalid(f"cannot take the image out: blob {digest} is not what its name says")
        return text

    async def _layer(self, job: Job, digest: str, target: Path, most: int) -> int:
        """Fetch a layer; its size in bytes."""
        path = f"{_OUT}/blobs/sha256/{digest.removeprefix('sha256:')}"
        reader = await self._files.download(account_of(job.build.account_id), job.devbox_id or "", path)
        hashed, size = hashlib.sha256(), 0
        try:
            with target.open("wb") as file:
                async for chunk in reader:
                    size += len(chunk)
                    if size > most:
                        raise errors.TooLarge("cannot take the image out: its layers have more than its disk can hold")
                    hashed.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
        finally:
            await reader.close()
        if f"sha256:{hashed.hexdigest()}" != digest:
            raise errors.Invalid(f"cannot take the image out: layer {digest} is not what its name says")
        return size

    async def _small(self, job: Job, path: str) -> bytes:
        reader = await self._files.download(account_of(job.build.account_id), job.devbox_id or "", path)
        found = bytearray()
        try:
            async for chunk in reader:
                found += chunk
                if len(found) > _SMALL:
                    raise errors.TooLarge(f"cannot read {path}: it is over {_SMALL >> 20} MiB")
        finally:
            await reader.close()
        return bytes(found)


def _config(said: Mapping[str, Any]) -> ImageConfig:
    pairs = (text.partition("=") for text in _texts(said.get("Env")))
    ports = said.get("ExposedPorts")
    return ImageConfig(
        env={name: value for name, equals, value in pairs if name and equals},
        user=_text(said.get("User")),
        workdir=_text(said.get("WorkingDir")),
        entrypoint=_texts(said.get("Entrypoint")),
        cmd=_texts(said.get("Cmd")),
        exposed_ports=tuple(sorted(map(str, ports))) if isinstance(ports, dict) else (),
    )


def _path(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _digest(described: object) -> str:
    digest = described.get("digest") if isinstance(described, dict) else None
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise errors.Invalid(f"cannot take the image out: {str(digest)[:80]!r} is no digest")
    return digest


def _object(text: bytes) -> dict[str, Any]:
    try:
        return _object_of(json.loads(text))
    except (ValueError, RecursionError) as problem:
        raise errors.Invalid(f"cannot take the image out: {problem}") from None


def _object_of(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise errors.Invalid("cannot take the image out: its layout has a list or text where an object belongs")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise errors.Invalid("cannot take the image out: its layout has something else where a list belongs")
    return value


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()
