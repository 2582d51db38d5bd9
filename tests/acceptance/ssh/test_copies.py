"""Files by scp, sftp and rsync."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.harness.openssh import OpenSsh


@pytest.mark.parametrize("protocol", ["-s", "-O"], ids=["sftp", "scp"])
def test_scp_copies_both_ways(shared: OpenSsh, tmp_path: Path, protocol: str) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "up").write_bytes(data)
    up = shared.tool("scp", protocol, str(tmp_path / "up"), "BOX:copied")
    assert up.returncode == 0, up.stderr
    down = shared.tool("scp", protocol, "BOX:copied", str(tmp_path / "down"))
    assert down.returncode == 0, down.stderr
    assert (tmp_path / "down").read_bytes() == data
    missing = shared.tool("scp", protocol, "BOX:no-such-file", str(tmp_path / "none"))
    assert missing.returncode != 0
    assert b"No such file" in missing.stderr


def test_sftp_works_on_the_devboxs_files(shared: OpenSsh, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"text")
    steps = ("mkdir folder", "cd folder", f"put {tmp_path}/up one", "rename one two", "chmod 600 two", "ls -l")
    batch = "\n".join([*steps, f"get two {tmp_path}/down", ""])
    done = shared.tool("sftp", "-b", "-", "BOX:", stdin=batch.encode())
    assert done.returncode == 0, done.stderr
    assert b"-rw-------" in done.stdout
    assert (tmp_path / "down").read_bytes() == b"text"
    assert shared.run("cat folder/two; rm -r folder").stdout == b"text"


def test_rsync_copies_a_tree_both_ways_and_only_what_has_changed(shared: OpenSsh, tmp_path: Path) -> None:
    source, back = tmp_path / "tree", tmp_path / "back"
    for number in range(40):
        (source / f"d{number % 5}").mkdir(parents=True, exist_ok=True)
        (source / f"d{number % 5}" / f"f{number}").write_bytes(os.urandom(20_000))
    assert shared.rsync("-a", f"{source}/", "BOX:tree/").returncode == 0
    (source / "d1" / "f1").write_bytes(b"changed")
    again = shared.rsync("-a", "--delete", "--stats", f"{source}/", "BOX:tree/")
    assert b"Number of regular files transferred: 1\n" in again.stdout, again
    assert shared.rsync("-a", "BOX:tree/", f"{back}/").returncode == 0
    paths = [one.relative_to(source) for one in source.rglob("*") if one.is_file()]
    assert len(paths) == 40
    assert all((back / path).read_bytes() == (source / path).read_bytes() for path in paths)
