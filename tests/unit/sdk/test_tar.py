"""Folders travel as archives: nothing is lost on the way in, nothing lands elsewhere on the way out."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from corral_sdk import _tar, errors


def tree(folder: Path) -> dict[str, tuple[str, bytes | str, int]]:
    """Kind, content and mode of everything in a folder, by name."""
    found: dict[str, tuple[str, bytes | str, int]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        mode = path.lstat().st_mode & 0o777
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()), 0)
        elif path.is_dir():
            found[name] = ("folder", "", mode)
        else:
            found[name] = ("file", path.read_bytes(), mode)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    (root / "deep" / ("long" * 40) / "er").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "deep" / ("long" * 40) / "er" / "ü name").write_bytes(os.urandom(700_000))
    (root / "script").write_text("#!/bin/sh\n")
    (root / "script").chmod(0o755)
    (root / "nothing").touch()
    (root / "exact").write_bytes(b"x" * tarfile.BLOCKSIZE)
    (root / "link").symlink_to("script")
    (root / "dangling").symlink_to("/nowhere/at/all")
    os.link(root / "exact", root / "same")
    return root


def test_a_folder_is_unpacked_by_tar_as_it_was(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    archive = b"".join(_tar.pack(folder))
    subprocess.run(["tar", "-x", "--no-same-owner", "-C", target], input=archive, check=True)
    assert tree(target) == tree(folder)


def test_an_archive_of_tar_is_unpacked_here(folder: Path, tmp_path: Path) -> None:
    (folder / "dangling").unlink()  # absolute links are refused, see below
    archive = tmp_path / "archive"
    subprocess.run(["tar", "-c", "-f", archive, "-C", folder, "."], check=True)
    with archive.open("rb") as file:
        _tar.unpack(file, tmp_path / "target")
    assert tree(tmp_path / "target") == tree(folder)


def test_owners_of_this_machine_are_not_sent(folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(b"".join(_tar.pack(folder)))) as archive:
        assert {(info.uid, info.gid, info.uname, info.gname) for info in archive} == {(0, 0, "", "")}


def test_the_size_is_that_of_the_files(folder: Path) -> None:
    assert _tar.size_of(folder) == 700_000 + len("#!/bin/sh\n") + 2 * tarfile.BLOCKSIZE


def test_what_an_archive_cannot_hold_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
        with pytest.raises(errors.Invalid, match=r"socket: it is not a file, a folder or a link"):
            list(_tar.pack(tmp_path))


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 3 * _tar.CHUNK)
    chunks = _tar.pack(tmp_path)
    next(chunks)
    next(chunks)
    os.truncate(file, _tar.CHUNK)
    with pytest.raises(errors.Invalid, match="shorter"):
        list(chunks)


def hostile(*members: tuple[str, bytes, str]) -> io.BytesIO:
    """An archive of members, as name, kind and target of a link, as only an attacker makes it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            archive.addfile(info)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../escaped", tarfile.REGTYPE, ""),
        ("a/../../escaped", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, "../../etc"),
        ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("link", tarfile.LNKTYPE, "../outside"),
        ("device", tarfile.CHRTYPE, ""),
        ("pipe", tarfile.FIFOTYPE, ""),
    ],
)
def test_a_hostile_archive_is_refused(tmp_path: Path, name: str, kind: bytes, link: str) -> None:
    target = tmp_path / "in" / "target"
    target.mkdir(parents=True)
    (tmp_path / "in" / "outside").write_text("kept")
    with pytest.raises(errors.Invalid, match="cannot unpack archive of the devbox"):
        _tar.unpack(hostile((name, kind, link)), target)
    assert not (tmp_path / "in" / "escaped").exists()
    assert (tmp_path / "in" / "outside").read_text() == "kept"


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("way/escaped", tarfile.REGTYPE, ""),
        ("./way/../way/escaped", tarfile.REGTYPE, ""),
        ("way", tarfile.SYMTYPE, "elsewhere"),
        ("way", tarfile.REGTYPE, ""),
        ("copy", tarfile.LNKTYPE, "way/outside"),
        ("copy", tarfile.LNKTYPE, "way"),
    ],
)
def test_nothing_is_unpacked_through_a_link_of_the_archive(tmp_path: Path, name: str, kind: bytes, link: str) -> None:
    """The link itself stays inside; what it leads to could be made another thing by the next member."""
    archive = hostile(("way", tarfile.SYMTYPE, "folder"), (name, kind, link))
    (tmp_path / "folder").mkdir()
    with pytest.raises(errors.Invalid, match="leads through link 'way'"):
        _tar.unpack(archive, tmp_path)
    assert not list((tmp_path / "folder").iterdir())


def test_an_absolute_name_stays_inside(tmp_path: Path) -> None:
    _tar.unpack(hostile(("/tmp/corral-absolute-name", tarfile.REGTYPE, "")), tmp_path)
    assert (tmp_path / "tmp" / "corral-absolute-name").exists()
    assert not Path("/tmp/corral-absolute-name").exists()


def test_bytes_that_are_no_archive_are_a_bad_answer(tmp_path: Path) -> None:
    with pytest.raises(errors.BadAnswer):
        _tar.unpack(io.BytesIO(b"no archive at all" * 100), tmp_path)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("a b", "a b"),
        ("~", "/nobody"),
        ("~/a'b", "/nobody/a'b"),
        ("-rf", "./-rf"),
        ("$HOME; rm", "$HOME; rm"),
        ("", "."),
        ("~user", "~user"),
    ],
)
def test_a_path_reaches_a_command_as_one_word(path: str, words: str) -> None:
    command = ["sh", "-c", f"printf %s {_tar.shell_path(path)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"HOME": "/nobody"})
    assert done.stdout == words
