"""What comes out of the devbox of a build, when whoever wrote the Dockerfile chose every byte of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from corral.core import errors
from corral.devboxes.service import Files
from corral.images.builds.harvest import Harvester, image_name
from corral.images.builds.library import Image, Library
from corral.images.builds.model import Build, BuildPlan, BuildStatus
from corral.images.builds.tables import Job
from corral.images.builds.workshop import FOLDER

JOB = Job(
    Build("bld_Test", "acc", BuildStatus.BUILDING, 0), BuildPlan("acc", "", ""), {}, frozenset(), 1, "dbx", None, None,
    cleared=False, outcome=None,
)  # fmt: skip
LAYER = b"a layer"


class Reader:
    """A file in pieces."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._content), 1000):
            yield self._content[start : start + 1000]

    async def close(self) -> None:
        """There is nothing to close."""


@dataclass
class Disk:
    """The files of a devbox."""

    content: dict[str, bytes] = field(default_factory=dict)

    async def download(self, account_id: str, devbox_id: str, path: str) -> Reader:
        """As `Files.download`."""
        assert (account_id, devbox_id) == ("acc/builds", "dbx")
        if path not in self.content:
            raise errors.NotFound(f"cannot read {path}: there is none")
        return Reader(self.content[path])

    def put(self, value: object) -> dict[str, Any]:
        """A blob of the layout, and its descriptor."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        self.content[f"{FOLDER}/out/blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def lay_out(self, *layers: bytes, config: object = None, diff_ids: object = None) -> None:
        """An image with these layers."""
        listed = [self.put(layer) for layer in layers]
        ids = [layer["digest"] for layer in listed] if diff_ids is None else diff_ids
        text = {"config": config if config is not None else {}, "rootfs": {"diff_ids": ids}}
        self.index(self.put({"config": self.put(text), "layers": listed}))

    def index(self, *manifests: object) -> None:
        """The index of the layout."""
        self.content[f"{FOLDER}/out/index.json"] = json.dumps({"manifests": list(manifests)}).encode()


@dataclass
class Shelf:
    """Remembers what was given to the image store."""

    taken: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    async def import_layout(self, folder: Path, reference: str, *, owned: bool = False) -> Image:
        """As the image store's."""
        assert owned
        self.taken.append(reference)
        self.files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return cast("Image", None)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def harvester(disk: Disk, shelf: Shelf, tmp_path: Path) -> Harvester:
    return Harvester(cast("Files", disk), cast("Library", shelf), tmp_path / "out")


async def test_an_image_is_taken_with_what_it_says(harvester: Harvester, disk: Disk, shelf: Shelf) -> None:
    said = {
        "Env": ["A=b=c", "no", 7],
        "User": "app",
        "Cmd": ["x", 1],
        "Entrypoint": "text",
        "ExposedPorts": {"8/tcp": {}},
    }
    disk.lay_out(LAYER, config=said)
    config = await harvester.take(JOB, frozenset(), 100)
    assert (config.env, config.user, config.cmd, config.entrypoint) == ({"A": "b=c"}, "app", ("x",), ())
    assert config.exposed_ports == ("8/tcp",)
    assert shelf.taken == [image_name("bld_Test")]
    assert shelf.files[hashlib.sha256(LAYER).hexdigest()] == LAYER


async def test_a_layer_that_the_host_has_is_not_read(harvester: Harvester, disk: Disk, shelf: Shelf) -> None:
    disk.lay_out(LAYER)
    digest = hashlib.sha256(LAYER).hexdigest()
    disk.content[f"{FOLDER}/out/blobs/sha256/{digest}"] = b""
    await harvester.take(JOB, frozenset({f"sha256:{digest}"}), 100)
    assert digest not in shelf.files


async def test_a_layer_that_was_not_made_here_is_not_taken(harvester: Harvester, disk: Disk, shelf: Shelf) -> None:
    """Somebody who learned the digest of another account's layer names it, without having it."""
    disk.lay_out(LAYER)
    disk.content[f"{FOLDER}/out/blobs/sha256/{hashlib.sha256(LAYER).hexdigest()}"] = b""
    with pytest.raises(errors.Invalid, match="is not what its name says"):
        await harvester.take(JOB, frozenset(), 100)
    assert shelf.taken == []


LAYOUTS: dict[str, Any] = {
    "no-json": b"{",
    "deep": b"[" * 100_000,
    "list": b"[]",
    "nothing": b"{}",
    "number": b'{"manifests": 7}',
    "none": b'{"manifests": []}',
    "two": b'{"manifests": [{}, {}]}',
    "path": b'{"manifests": [{"digest": "sha256:../../../../etc/passwd"}]}',
    "other": b'{"manifests": [{"digest": "md5:00"}]}',
    "missing": b'{"manifests": [{"digest": "sha256:' + b"0" * 64 + b'"}]}',
}


@pytest.mark.parametrize("index", LAYOUTS.values(), ids=LAYOUTS.keys())
async def test_a_layout_that_is_none_is_refused(harvester: Harvester, disk: Disk, shelf: Shelf, index: bytes) -> None:
    disk.content[f"{FOLDER}/out/index.json"] = index
    with pytest.raises((errors.Invalid, errors.NotFound)):
        await harvester.take(JOB, frozenset(), 100)
    assert shelf.taken == []


@pytest.mark.parametrize("manifest", [{}, {"config": 7}, {"config": {"digest": None}, "layers": 1}, [], "text"])
async def test_a_manifest_that_is_none_is_refused(harvester: Harvester, disk: Disk, manifest: object) -> None:
    disk.index(disk.put(manifest))
    with pytest.raises(errors.Invalid):
        await harvester.take(JOB, frozenset(), 100)


async def test_layers_that_its_configuration_does_not_list_are_refused(harvester: Harvester, disk: Disk) -> None:
    for diff_ids in ([], ["sha256:" + "0" * 64], "text", [7]):
        disk.lay_out(LAYER, diff_ids=diff_ids)
        with pytest.raises(errors.Invalid):
            await harvester.take(JOB, frozenset(), 100)


async def test_what_is_too_large_is_refused(harvester: Harvester, disk: Disk, shelf: Shelf) -> None:
    disk.lay_out(b"x" * 60, b"y" * 60)
    with pytest.raises(errors.TooLarge, match="layers"):
        await harvester.take(JOB, frozenset(), 100)
    disk.content[f"{FOLDER}/out/index.json"] = b" " * (2 << 20)
    with pytest.raises(errors.TooLarge, match="over 1 MiB"):
        await harvester.take(JOB, frozenset(), 100)
    disk.lay_out(*[bytes([number]) for number in range(200)])
    with pytest.raises(errors.Invalid, match="200 layers"):
        await harvester.take(JOB, frozenset(), 1000)
    assert shelf.taken == []


@pytest.mark.parametrize("text", [b"", b"7", b"[]", b"\xff", b"[" * 100_000, b" " * (2 << 20)])
async def test_a_result_that_is_none_is_none(harvester: Harvester, disk: Disk, text: bytes) -> None:
    disk.content[f"{FOLDER}/result.json"] = text
    assert await harvester.result(JOB) is None


async def test_a_result_is_bounded(harvester: Harvester, disk: Disk) -> None:
    said = {"ok": "yes", "stage": 7, "message": "m" * 10_000, "code": 10**9, "late": 1}
    disk.content[f"{FOLDER}/result.json"] = json.dumps(said).encode()
    result = await harvester.result(JOB)
    assert result is not None
    assert not result.ok
    assert not result.late
    assert result.code is None
    assert len(result.message) == 4000
