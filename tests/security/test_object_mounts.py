"""Objects whose content, name or place is meant to do harm, mounted into boxes."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator

import pytest

from corral_sdk import Corral, errors
from corral_sdk.models import DevboxInfo
from tests.harness.server import Server

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def corral(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corral]:
    with (
        Server(tmp_path_factory.mktemp("objects") / "data", runtime="oci") as server,
        Corral(server.url, server.key) as one,
    ):
        yield one


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def failed(corral: Corral, content: bytes, kind: str, path: str = "/home/user/in") -> DevboxInfo:
    """What is said of a devbox that could not mount this."""
    stored = corral.objects.upload(content, "hostile", content_type=kind)
    devbox = corral.devboxes.create(objects={path: stored.id}, wait=False)
    with pytest.raises(errors.Ended):
        devbox.wait()
    return devbox.refresh()


@pytest.mark.parametrize(
    ("content", "kind", "cause"),
    [
        (b"this is no archive" * 100, "tar", "This does not look like a tar archive"),
        (archive((member("a"), bytes(100_000)))[:50_000], "tar", "Unexpected EOF"),
        (b"\x1f\x8b this is no gzip", "gzip", "gzip: "),
        (archive((member("sda", tarfile.BLKTYPE), b"")), "tar", "sda: Cannot mknod"),
        (archive((member("../../../home/user/out"), b"x")), "tar", "Member name contains '..'"),
        (archive((member("a", tarfile.SYMTYPE, "/etc"), b""), (member("a/b"), b"x")), "tar", "a/b: Cannot open"),
    ],
    ids=["no archive", "cut off", "no gzip", "a device", "a path that leads out", "a link that leads out"],
)
def test_what_cannot_be_unpacked_fails_its_devbox_with_the_cause(
    corral: Corral, content: bytes, kind: str, cause: str
) -> None:
    info = failed(corral, content, kind)
    assert info.reason == "launch_failed"
    assert "unpacking of object obj_" in info.message
    assert cause in info.message


def test_a_place_that_cannot_be_written_fails_its_devbox_with_the_cause(corral: Corral) -> None:
    info = failed(corral, b"text", "text", "/proc/version")
    assert info.reason == "launch_failed"
    assert "cannot mount object obj_" in info.message


def test_a_name_is_no_command_and_a_path_stays_in_its_directory(corral: Corral) -> None:
    rooted = archive((member("/home/user/rooted"), b"rooted"))
    stored = corral.objects.upload(rooted, "x'; touch /home/user/ran; '.tar")
    single = corral.objects.upload(gzip.compress(b"single"), "../$(touch ran).gz")
    places = {"/home/user/in/a $(touch ran)": stored.id, "~/one`touch ran`": single.id}
    devbox = corral.devboxes.create(objects=places)
    shown = devbox.exec("find ~/* -type f | sort").stdout
    devbox.shutdown()
    assert shown.splitlines() == [
        "/home/user/in/a $(touch ran)/home/user/rooted",
        "/home/user/one`touch ran`/$(touch ran)",
    ]  # fmt: skip
