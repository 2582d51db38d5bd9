"""Images of others, taken in by real programs from everything that they come as, and given out again."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from corral.core import errors
from corral.core.clock import ManualClock
from corral.images import fsck
from corral.images.archives.transports import Registries
from corral.images.service import Images
from corral.runtime.contract import User
from tests.integration.images import archives
from tests.integration.images.archives import Entry, folder, tar

pytestmark = [pytest.mark.root]

#: A file capability as the kernel keeps it: cap_net_raw+ep.
CAPABILITY = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

BASE = tar(
    folder("./"),
    folder("etc/"),
    Entry("etc/passwd", b"root:x:0:0::/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\n"),
    Entry("etc/group", b"root:x:0:\nstaff:x:50:\n"),
    folder("old/"),
    Entry("old/one", b"1"),
    Entry("old/two", b"2"),
    folder("hidden/"),
    Entry("hidden/below", b"x"),
    Entry("ping", b"program", mode=0o4755, attributes={"security.capability": CAPABILITY, "user.note": "kept"}),
    Entry("pong", kind=tarfile.LNKTYPE, link="ping"),
    Entry("etc/mtab", kind=tarfile.SYMTYPE, link="/proc/mounts"),
    folder("tmp/", 0o1777),
    Entry("pipe", kind=tarfile.FIFOTYPE),
    Entry("odd\nname \\ \udcff", b"odd", owner=(1000, 1001)),
)
#: In halves, since no file names a registry's host.
HUB = f"{'docker'}.io"
TOP = tar(
    folder("old/"),
    Entry("old/.wh.one"),
    Entry("old/three", b"3"),
    folder("hidden/"),
    Entry("hidden/.wh..wh..opq"),
    Entry("hidden/above", b"y"),
    Entry(".wh..wh.plnk"),
)
SETTINGS = {
    "Env": ["PATH=/usr/bin", "EMPTY=", "broken"],
    "User": "ann:staff",
    "WorkingDir": "/srv",
    "Entrypoint": ["/init"],
    "Cmd": ["serve", "--now"],
    "Labels": {"maker": "me"},
    "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
}


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path / "images")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return archives.layout(
        tmp_path / "layout", [BASE, TOP], blobs={0: gzip.compress(BASE, mtime=0)}, settings=SETTINGS
    )


def sound(images: Images) -> bool:
    checked = fsck.check(images.store, repair=False)
    assert checked.findings == ()
    return checked.sound


async def test_what_a_configuration_says_is_known(images: Images, layout: Path) -> None:
    info = await images.import_layout(layout, "tool:1")
    assert (info.name, info.env) == ("tool:1", {"PATH": "/usr/bin", "EMPTY": ""})
    assert info.user == User("ann", 1000, 50, "/home/ann")
    assert (info.workdir, info.entrypoint, info.cmd) == ("/srv", ("/init",), ("serve", "--now"))
    assert (info.labels, info.exposed_ports) == ({"maker": "me"}, ("53/udp", "80/tcp"))
    assert [layer.digest for layer in info.layers] == [archives.digest(BASE), archives.digest(TOP)]
    assert all(layer.id_base == 0 for layer in info.layers)


async def test_a_tree_has_what_its_archive_says(images: Images, layout: Path) -> None:
    info = await images.import_layout(layout, "tool:1")
    base, top = (layer.path for layer in info.layers)
    ping = (base / "ping").stat()
    assert (stat.S_IMODE(ping.st_mode), ping.st_nlink, ping.st_mtime) == (0o4755, 2, 1_600_000_000)
    assert os.getxattr(base / "ping", "security.capability") == CAPABILITY.encode("latin-1")
    assert os.getxattr(base / "ping", "user.note") == b"kept"
    assert (base / "pong").stat().st_ino == ping.st_ino
    assert os.readlink(base / "etc/mtab") == "/proc/mounts"
    assert stat.S_IMODE((base / "tmp").stat().st_mode) == 0o1777
    odd = (base / "odd\nname \\ \udcff").stat()
    assert (odd.st_uid, odd.st_gid, odd.st_size) == (1000, 1001, 3)
    removed = (top / "old/one").lstat()
    assert stat.S_ISCHR(removed.st_mode)
    assert removed.st_rdev == 0
    assert os.getxattr(top / "hidden", "trusted.overlay.opaque") == b"y"
    assert {path.name for path in top.iterdir()} == {"old", "hidden"}
    assert sound(images)


async def test_an_overlay_shows_what_the_image_means(images: Images, layout: Path, tmp_path: Path) -> None:
    info = await images.import_layout(layout, "tool:1")
    lower = ":".join(str(layer.path) for layer in reversed(info.layers))
    (tmp_path / "root").mkdir()
    script = 'mount -t overlay overlay -o "lowerdir=$1" "$2" && cd "$2" && ls old hidden'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", lower, str(tmp_path / "root")],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stdout == "hidden:\nabove\n\nold:\nthree\ntwo\n"


async def test_layers_are_kept_once_whichever_images_use_them(images: Images, layout: Path, tmp_path: Path) -> None:
    await images.import_layout(layout, "tool:1")
    other = archives.layout(tmp_path / "other", [BASE, tar(Entry("else", b"z"))])
    info = await images.import_layout(other, "tool:2")
    assert info.layers[0] == images.resolve("tool:1").layers[0]
    assert len(list((images.store.root / "layers").iterdir())) == 3
    # A layer that is known needs no blob: its digest says all.
    (other / "blobs/sha256" / archives.digest(BASE).removeprefix("sha256:")).unlink()
    assert (await images.import_layout(other, "tool:3")).digest == info.digest


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
async def test_all_that_skopeo_writes_is_taken_in(images: Images, layout: Path, tmp_path: Path, form: str) -> None:
    target = tmp_path / "target"
    skopeo_form = f"{form}:{target}:tool:1"
    archives.skopeo(f"oci:{layout}:image", skopeo_form)
    info = await images.import_path(target, "tool:9")
    assert [layer.digest for layer in info.layers] == [archives.digest(BASE), archives.digest(TOP)]
    assert (info.workdir, info.env["PATH"]) == ("/srv", "/usr/bin")
    assert sound(images)


@pytest.mark.parametrize("packer", ["cat", "gzip", "zstd", "xz", "bzip2"])
async def test_a_root_tar_is_an_image_however_it_is_packed(images: Images, tmp_path: Path, packer: str) -> None:
    packed = subprocess.run([packer], input=BASE, capture_output=True, check=True).stdout
    path = tmp_path / "root.tar"
    path.write_bytes(packed)
    info = await images.import_path(path, "root")
    assert [layer.digest for layer in info.layers] == [archives.digest(BASE)]
    assert (info.user, info.env, info.workdir) == (User("root", 0, 0, "/root"), {}, "")


async def test_an_export_has_the_layers_byte_by_byte_and_is_cheap_twice(
    images: Images, layout: Path, tmp_path: Path
) -> None:
    info = await images.import_layout(layout, "tool:1")
    out = tmp_path / "out"
    await images.export_layout("tool:1", out)
    blobs = out / "blobs/sha256"
    for content in (BASE, TOP):
        assert (blobs / archives.digest(content).removeprefix("sha256:")).read_bytes() == content
    made = {path: path.stat().st_mtime_ns for path in blobs.iterdir() if path.stat().st_size > 5000}
    images.store.put_alias("same", "tool:1")
    await images.export_layout("same", out)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    again = await Images(tmp_path / "others").import_layout(out, "tool:1")
    assert (again.digest, again.env) == (info.digest, info.env)
    # Other programs can read it.
    archives.skopeo(f"oci:{out}:same", f"docker-archive:{tmp_path / 'docker.tar'}:same:1")


async def test_a_sparse_archive_is_given_back_too(images: Images, tmp_path: Path) -> None:
    hollow = tmp_path / "tree/hollow"
    hollow.parent.mkdir()
    with hollow.open("wb") as file:
        file.truncate(50 << 20)
        file.seek(20 << 20)
        file.write(b"in the middle")
    path = tmp_path / "sparse.tar"
    subprocess.run(["tar", "-C", hollow.parent, "-S", "-cf", path, "."], check=True)
    info = await images.import_path(path, "sparse")
    facts = images.store.facts(info.layers[0].digest)
    assert facts is not None
    assert facts.tar == "whole"
    assert (info.layers[0].path / "hollow").stat().st_blocks * 512 < 1 << 20
    await images.export_layout("sparse", tmp_path / "out")
    assert (tmp_path / "out/blobs/sha256" / info.layers[0].digest[7:]).read_bytes() == path.read_bytes()
    assert sound(images)


async def test_forty_layers_are_taken_in_and_too_many_are_refused(images: Images, tmp_path: Path) -> None:
    many = [tar(Entry(f"file-{number}", b"x")) for number in range(40)]
    info = await images.import_layout(archives.layout(tmp_path / "many", many), "many")
    assert len(info.layers) == 40
    empty = tar(Entry("same", b"x"))
    twice = await images.import_layout(archives.layout(tmp_path / "twice", [empty, many[0], empty]), "twice")
    assert [layer.digest for layer in twice.layers] == [archives.digest(many[0]), archives.digest(empty)]
    crowd = archives.layout(tmp_path / "crowd", [tar(Entry(f"file-{number}")) for number in range(97)])
    with pytest.raises(errors.Invalid, match="it has 97 layers; at most 96 are possible"):
        await images.import_layout(crowd, "crowd")


async def test_a_registry_is_pulled_from(tmp_path: Path, layout: Path) -> None:
    with archives.registry(tmp_path / "registry") as host:
        archives.skopeo("--dest-tls-verify=false", f"oci:{layout}:image", f"docker://{host}/team/tool:1")
        config = tmp_path / "registries.conf"
        config.write_text(
            f'unqualified-search-registries = []\n[[registry]]\nlocation = "{host}"\ninsecure = true\n'
            f'[[registry]]\nprefix = "example.test"\nlocation = "example.test"\nblocked = false\n'
            f'[[registry.mirror]]\nlocation = "{host}"\ninsecure = true\n'
        )
        images = Images(tmp_path / "images", registries=Registries(config))
        info = await images.pull(f"{host}/team/tool:1")
        assert info.name == f"{host}/team/tool:1"
        assert [layer.digest for layer in info.layers] == [archives.digest(BASE), archives.digest(TOP)]
        mirrored = await images.pull("example.test/team/tool:1", "tool")
        assert (mirrored.name, mirrored.digest) == ("tool", info.digest)
        with pytest.raises(errors.Unavailable, match=r"cannot pull .*/team/none:latest: .*manifest unknown"):
            await images.pull(f"{host}/team/none")
    with pytest.raises(errors.Unavailable, match="connection refused"):
        await images.pull(f"{host}/team/tool:1")
    assert sound(images)


async def test_a_pull_fetches_no_layer_that_is_here(tmp_path: Path, layout: Path) -> None:
    """The registry loses the base: what has it already can pull all the same, and nothing else."""
    more = archives.tar(Entry("more", b"more"))
    packed = gzip.compress(BASE, mtime=0)
    second = archives.layout(tmp_path / "second", [BASE, more], blobs={0: packed}, name="image")
    lie = archives.layout(tmp_path / "lie", [more + bytes(1024), TOP], blobs={0: packed}, name="image")
    with archives.registry(tmp_path / "registry") as host:
        for name, folder_ in (("first", layout), ("second", second), ("lie", lie)):
            archives.skopeo("--dest-tls-verify=false", f"oci:{folder_}:image", f"docker://{host}/{name}:1")
        config = tmp_path / "registries.conf"
        config.write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        images = Images(tmp_path / "images", registries=Registries(config))
        first = await images.pull(f"{host}/first:1")
        hexadecimal = archives.digest(packed).removeprefix("sha256:")
        (blob,) = (tmp_path / "registry").rglob(f"blobs/sha256/??/{hexadecimal}/data")
        blob.unlink()
        info = await images.pull(f"{host}/second:1")
        assert [layer.digest for layer in info.layers] == [archives.digest(BASE), archives.digest(more)]
        assert info.layers[0] == first.layers[0]
        with pytest.raises(errors.Unavailable):
            await Images(tmp_path / "others", registries=Registries(config)).pull(f"{host}/second:1")
        # One that gives a layer's archive for another's gets neither.
        with pytest.raises(errors.Invalid, match="cannot pull .* layer 1 of 2"):
            await images.pull(f"{host}/lie:1")
    assert sound(images)


async def test_a_name_that_is_not_here_is_asked_of_its_registry_and_then_meant_of_stock(
    tmp_path: Path, layout: Path
) -> None:
    config = tmp_path / "registries.conf"
    with archives.registry(tmp_path / "registry") as host:
        archives.skopeo("--dest-tls-verify=false", f"oci:{layout}:image", f"docker://{host}/library/debian:12")
        config.write_text(
            f'[[registry]]\nprefix = "{HUB}"\nlocation = "{host}"\ninsecure = true\n'
            f'[[registry]]\nlocation = "{host}"\ninsecure = true\n'
        )
        images = Images(tmp_path / "images", registries=Registries(config))
        answered = await images.obtain("debian:12")
        assert [layer.digest for layer in answered.layers] == [archives.digest(BASE), archives.digest(TOP)]
        stock = await images.import_layout(layout, "debian-12")
        assert (await images.obtain("debian:bookworm")).name == stock.name
        with pytest.raises(
            errors.NotFound, match=r"'python:3': it is not on this host.*; cannot pull python:3: .*unknown"
        ):
            await images.obtain("python:3")
        archives.skopeo("--dest-tls-verify=false", f"oci:{layout}:image", f"docker://{host}/library/python:3")
        with pytest.raises(errors.NotFound):
            await images.obtain("python:3")
    # What is here is not asked for again.
    assert (await images.obtain("debian:12")).digest == answered.digest


async def test_what_a_build_had_pulled_goes_unless_somebody_imports_it(tmp_path: Path, layout: Path) -> None:
    config, clock = tmp_path / "registries.conf", ManualClock()
    with archives.registry(tmp_path / "registry") as host:
        for name in ("one:1", "two:1"):
            archives.skopeo("--dest-tls-verify=false", f"oci:{layout}:image", f"docker://{host}/{name}")
        config.write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        images = Images(tmp_path / "images", registries=Registries(config), clock=clock)
        one, two = f"{host}/one:1", f"{host}/two:1"
        before = await images.obtain(one)
        await images.obtain(two)
        listed = {each["name"]: each for each in json.loads(corral(images.store.root, "list", "--json"))}
        assert listed[one]["last_build"] == "2023-11-14T22:13:20+00:00"
        await images.pull(two)
        assert corral(images.store.root, "list").count("2023-11-14\n") == 1
        await clock.advance(3601)
        collected = await images.collect(keep_s=3600)
        assert collected is not None
        assert (collected.names, collected.layers) == ((one,), ())
        assert images.names() == [two]
        listed = {each["name"]: each for each in json.loads(corral(images.store.root, "list", "--json"))}
        assert listed[two]["last_build"] is None
        assert "last build" not in corral(images.store.root, "list")
        # And comes again when it is needed.
        assert await images.obtain(one) == before
    assert sound(images)


def corral(root: Path, *argv: str, code: int = 0) -> str:
    """What `corral image …` prints."""
    program = Path(sys.executable).with_name("corral")
    done = subprocess.run([program, "image", *argv, "--images", str(root)], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout + (done.stderr if code else "")


def test_the_commands_take_in_name_give_out_and_remove(layout: Path, tmp_path: Path) -> None:
    root = tmp_path / "images"
    assert "image tool:1 imported in" in corral(root, "import", str(layout), "--name", "tool:1")
    assert "is tool:1 from now on" in corral(root, "alias", "ubuntu:24.04", "tool:1")
    listed = {each["name"]: each for each in json.loads(corral(root, "list", "--json"))}
    assert listed["ubuntu:24.04"]["alias_of"] == "tool:1"
    assert len(listed["tool:1"]["layers"]) == 2
    assert "-> tool:1" in corral(root, "list")
    corral(root, "export", "ubuntu:24.04", str(tmp_path / "tool.tar"))
    assert "image tool imported" in corral(root, "import", str(tmp_path / "tool.tar"))
    assert "2 layers and 3 names in" in corral(root, "fsck")
    assert "ubuntu:24.04 stands for it" in corral(root, "remove", "tool:1", code=1)
    corral(root, "remove", "ubuntu:24.04")
    assert "0 layers removed" in corral(root, "remove", "tool:1")
    assert "2 layers removed" in corral(root, "remove", "tool")
    assert corral(root, "gc") == "0 layers removed, 0 MB\n"
