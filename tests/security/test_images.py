"""Images that mean harm: each is refused with what is wrong named, and nothing of it is left."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.core import errors
from corral.images import fsck
from corral.images.archives import sandbox
from corral.images.archives.model import Limits
from corral.images.service import Images
from tests.integration.images import archives
from tests.integration.images.archives import Entry, folder, tar

pytestmark = [pytest.mark.root]

GOOD = tar(folder("./"), Entry("good", b"g"))
MIB = 1 << 20
SMALL = Limits(size=8 * MIB, files=200, layers=5, seconds=20)


@pytest.fixture
async def images(tmp_path: Path) -> Images:
    made = Images(tmp_path / "images", limits=SMALL)
    await made.import_layout(archives.layout(tmp_path / "good", [GOOD]), "good")
    return made


def untouched(images: Images, tmp_path: Path) -> None:
    """Nothing of what was refused is in the store, nor beside it."""
    assert images.names() == ["good"]
    assert len(list((images.store.root / "layers").iterdir())) == 1
    assert images.store.work_folders() == []
    assert fsck.check(images.store, repair=False).findings == ()
    assert not list(tmp_path.rglob("evil"))


def link(name: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(name, kind=tarfile.SYMTYPE, link=target)


def hard(name: str, target: str) -> Entry:
    """A hard link."""
    return Entry(name, kind=tarfile.LNKTYPE, link=target)


def device(kind: bytes, major: int, minor: int) -> Entry:
    """A device."""
    return Entry("dev/evil", kind=kind, device=(major, minor))


#: A tar that is refused, and what the refusal says.
TARS = {
    "a name that leads out": ([Entry("ok"), Entry("../evil")], r"layer 1 of 1: \.\./evil: Member name contains"),
    "a name with .. inside": ([Entry("a/../../evil")], r"a/\.\./\.\./evil: Member name contains '\.\.'"),
    "a file behind a link": ([link("door", "/etc"), Entry("door/evil")], r"door/evil: Cannot open"),
    "a file behind a link up": ([link("door", "../.."), Entry("door/evil")], r"door/evil: Cannot open"),
    "a hard link to the host": ([hard("evil", "/etc/shadow")], r"evil: Cannot hard link to"),
    "a hard link upwards": ([hard("evil", "../../../etc/shadow")], r"evil: Cannot hard link to"),
    "a character device": ([device(tarfile.CHRTYPE, 1, 3)], r"dev/evil: Cannot mknod: Operation not permitted"),
    "a block device": ([device(tarfile.BLKTYPE, 8, 0)], r"dev/evil: Cannot mknod: Operation not permitted"),
    "a removal of its own making": ([device(tarfile.CHRTYPE, 0, 0)], r"dev/evil: a device; layers have none"),
    "a removal of the parent": ([Entry("a/.wh...")], r"a/\.wh\.\.\.: named as a removal, which it cannot be"),
    "a removal of nothing": ([Entry(".wh.")], r"\.wh\.: named as a removal"),
    "a removal that is a folder": ([folder(".wh.evil")], r"\.wh\.evil: named as a removal"),
    "one name twice": ([Entry("evil", b"1"), Entry("evil", b"2")], r"duplicates of file paths not supported"),
    "too many files": ([Entry(f"f{n}") for n in range(300)], r"f200: more than 200 files"),
    "too long a path": ([folder("/".join(["d" * 200] * n)) for n in range(1, 30)], r"File name too long"),
}


@pytest.mark.parametrize("what", TARS)
async def test_a_tar_that_means_harm_is_refused_by_name(images: Images, tmp_path: Path, what: str) -> None:
    entries, cause = TARS[what]
    layout = archives.layout(tmp_path / "layout", [tar(*entries)])
    with pytest.raises(errors.CorralError, match=f"cannot import bad: .*{cause}"):
        await images.import_layout(layout, "bad")
    untouched(images, tmp_path)


async def test_marks_of_overlays_in_an_archive_mean_nothing(images: Images, tmp_path: Path) -> None:
    marks = {"trusted.overlay.opaque": "y", "trusted.overlay.redirect": "/etc", "user.note": "kept"}
    bad = tar(folder("./"), Entry("dir/", kind=tarfile.DIRTYPE, mode=0o755, attributes=marks))
    info = await images.import_layout(archives.layout(tmp_path / "layout", [bad]), "marked")
    assert os.listxattr(info.layers[0].path / "dir") == ["user.note"]


async def test_odd_names_are_names(images: Images, tmp_path: Path) -> None:
    odd = ["new\nline", "back\\slash", "-rf", "\udcff\udcfe", "$(touch evil)", "wh.", ".whatever", " "]
    layout = archives.layout(tmp_path / "layout", [tar(*(Entry(name, b"x") for name in odd))])
    info = await images.import_layout(layout, "odd")
    assert sorted(os.listdir(info.layers[0].path)) == sorted(odd)
    assert fsck.check(images.store, repair=False).sound


def truncated(layout: Path) -> None:
    """The blob ends in the middle."""
    blob = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(blob, blob.stat().st_size // 2)


def other(layout: Path) -> None:
    """The blob is a good one, but another one."""
    blob = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(tar(Entry("other", b"x" * 100)))


def linked(layout: Path) -> None:
    """The blob leads to a file of the host."""
    blob = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.unlink()
    blob.symlink_to("/etc/shadow")


def piped(layout: Path) -> None:
    """The blob never ends."""
    blob = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.unlink()
    os.mkfifo(blob)


def index(content: str) -> Callable[[Path], object]:
    """The index says something else."""
    return lambda layout: (layout / "index.json").write_text(content)


LAYOUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncated, r"layer 1 of 1: .*(EOF|end of)"),
    "another blob": (other, r"layer 1 of 1: its content has the digest sha256:\w+, not sha256"),
    "a link": (linked, r"blob \w+ cannot be read: Too many levels of symbolic links"),
    "a pipe": (piped, r"blob \w+ cannot be read: not an ordinary file"),
    "no JSON": (index("{"), r"index.json is not JSON"),
    "deep JSON": (index("[" * 100_000), r"index.json is not JSON"),
    "a list": (index("[]"), r"index.json is no JSON object"),
    "no images": (index('{"manifests": []}'), r"index.json lists no images"),
    "a digest that is a path": (
        index('{"manifests": [{"digest": "sha256:../../../../etc/shadow"}]}'), r"an image has no digest of SHA-256"),
    "a blob that is not there": (
        index(json.dumps({"manifests": [{"digest": "sha256:" + "0" * 64}]})), r"cannot be read: No such file"),
    "no index": (lambda layout: (layout / "index.json").unlink(), r"index.json cannot be read: No such file"),
    "a huge index": (lambda layout: os.truncate(layout / "index.json", 5 * MIB), r"index.json has more than 4 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("what", LAYOUTS)
async def test_a_layout_that_means_harm_is_refused(images: Images, tmp_path: Path, what: str) -> None:
    spoil, cause = LAYOUTS[what]
    layout = archives.layout(tmp_path / "layout", [tar(Entry("some", os.urandom(100_000)))])
    spoil(layout)
    with pytest.raises(errors.Invalid, match=f"cannot import bad: .*{cause}"):
        await images.import_layout(layout, "bad")
    untouched(images, tmp_path)


async def test_bombs_are_refused_before_they_fill_the_disk(images: Images, tmp_path: Path) -> None:
    bomb = tar(Entry("evil", bytes(64 * MIB)))
    layout = archives.layout(tmp_path / "layout", [bomb], blobs={0: gzip.compress(bomb)})
    with pytest.raises(errors.TooLarge, match="cannot import bomb: layer 1 of 1: more than 8 MiB unpacked"):
        await images.import_layout(layout, "bomb")
    untouched(images, tmp_path)


async def test_a_hollow_file_is_no_larger_than_the_limit_either(images: Images, tmp_path: Path) -> None:
    hollow = tmp_path / "tree"
    hollow.mkdir()
    with (hollow / "hollow").open("wb") as file:
        file.truncate(1 << 40)
    subprocess.run(["tar", "-C", hollow, "-S", "-cf", tmp_path / "hollow.tar", "."], check=True)
    with pytest.raises(errors.CorralError, match="cannot import"):
        await images.import_path(tmp_path / "hollow.tar", "hollow")
    untouched(images, tmp_path)


async def test_too_many_layers_are_refused(images: Images, tmp_path: Path) -> None:
    layout = archives.layout(tmp_path / "layout", [tar(Entry(f"f{n}")) for n in range(6)])
    with pytest.raises(errors.Invalid, match="it has 6 layers; at most 5 are possible"):
        await images.import_layout(layout, "bad")
    untouched(images, tmp_path)


def docker_archive(*entries: Entry) -> bytes:
    """An archive of Docker's with this one layer, whatever it is."""
    config = json.dumps(
        {"architecture": archives.MACHINE, "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    )
    manifest = json.dumps(
        [{"Config": "config.json", "RepoTags": ["x:1"], "Layers": [entry.name for entry in entries]}]
    )
    return tar(Entry("config.json", config.encode()), Entry("manifest.json", manifest.encode()), *entries)


@pytest.mark.parametrize(
    "entry",
    [
        link("layer.tar", "/etc/shadow"),
        Entry("../evil", b"x"),
        Entry("layer.tar", b"x" * 600),
    ],
    ids=["a link to the host", "a name that leads out", "no tar"],
)
async def test_an_archive_of_docker_that_means_harm_is_refused(images: Images, tmp_path: Path, entry: Entry) -> None:
    path = tmp_path / "docker.tar"
    path.write_bytes(docker_archive(entry))
    with pytest.raises(errors.Invalid, match="cannot import"):
        await images.import_path(path, "bad")
    untouched(images, tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"no tar at all" * 100, gzip.compress(GOOD)[:-20], b"\x28\xb5\x2f\xfd bad"],
    ids=["empty", "text", "cut", "bad zstd"],
)
async def test_a_file_that_is_no_archive_is_refused(images: Images, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.tar").write_bytes(content)
    with pytest.raises(errors.Invalid, match="cannot import"):
        await images.import_path(tmp_path / "file.tar", "bad")
    untouched(images, tmp_path)


async def test_what_takes_too_long_ends(tmp_path: Path) -> None:
    images = Images(tmp_path / "images", limits=Limits(seconds=0.0))
    began = time.monotonic()
    with pytest.raises(errors.TimedOut, match="cannot import slow: not done after 0 s"):
        await images.import_layout(archives.layout(tmp_path / "layout", [GOOD]), "slow")
    assert time.monotonic() - began < 5
    assert images.store.work_folders() == []


def test_unpackers_see_no_network_and_nothing_of_the_host(tmp_path: Path) -> None:
    """What the walls are: seen from inside, by a program that has been taken over."""
    (tmp_path / "tree").mkdir()
    walls = sandbox.Walls(writes=(("/tree", tmp_path / "tree"),), folder="/tree", capabilities=sandbox.UNPACK)
    script = """
        ls / | tr '\\n' ' '; echo
        tail -n +3 /proc/net/dev | cut -d: -f1
        grep -E '^(CapEff|NoNewPrivs)' /proc/self/status | cut -f2
        ls /proc | grep -c '^[0-9]'
        cat /etc/shadow 2>&1
        touch /usr/evil 2>&1
        mount -t tmpfs x /tree 2>&1
        env
    """
    done = subprocess.run(sandbox.confined(["sh", "-c", script], walls), capture_output=True, text=True, timeout=20)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["bin", "dev", "lib", "lib64", "proc", "sbin", "tmp", "tree", "usr"]
    assert lines[1].strip() == "lo"
    assert lines[2:4] == ["000000008000001b", "1"]  # chown, dac_override, fowner, fsetid, setfcap; and never more
    assert int(lines[4]) < 8
    assert "No such file" in lines[5]
    assert "Read-only file system" in lines[6]
    assert lines[7].startswith("mount: /tree: ")
    names = {line.partition("=")[0] for line in lines if re.match(r"\w+=", line)}
    assert names <= {"HOME", "LC_ALL", "PATH", "PWD", "TMPDIR", "OLDPWD", "SHLVL", "_"}


def test_bytes_of_a_tar_are_what_they_were(tmp_path: Path) -> None:
    """The helper that makes hostile tars makes good ones too: or the refusals above would prove nothing."""
    with tarfile.open(fileobj=io.BytesIO(GOOD)) as archive:
        assert archive.getnames() == [".", "good"]
