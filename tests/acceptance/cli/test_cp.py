"""`corral devbox cp`: what is copied arrives as it was, or not at all."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from tests.harness.cli import Cli


def digest(cli: Cli, box: str, path: str) -> str:
    return cli.out("devbox", "exec", box, "--", f"sha256sum {path}").split()[0]


def test_a_file_goes_in_and_comes_back_byte_for_byte(cli: Cli, box: str) -> None:
    content = os.urandom(3_000_000)
    (cli.folder / "in").write_bytes(content)
    cli.out("devbox", "cp", "in", f"{box}:deep/er/in")
    assert digest(cli, box, "deep/er/in") == hashlib.sha256(content).hexdigest()
    cli.out("devbox", "cp", f"{box}:~/deep/er/in", "out")
    assert (cli.folder / "out").read_bytes() == content


def test_an_empty_file_and_an_odd_name_are_files_like_others(cli: Cli, box: str) -> None:
    name = "a 'quoted' ü $name"
    (cli.folder / name).touch()
    cli.out("devbox", "cp", name, f"{box}:{name}")
    cli.out("devbox", "cp", f"{box}:{name}", "back")
    assert (cli.folder / "back").read_bytes() == b""


def test_a_folder_that_exists_takes_the_copy_in(cli: Cli, box: str) -> None:
    (cli.folder / "file").write_text("one\n")
    cli.out("devbox", "exec", box, "--", "mkdir target")
    cli.out("devbox", "cp", "file", f"{box}:target")
    cli.out("devbox", "cp", "file", f"{box}:new/")
    assert cli.out("devbox", "exec", box, "--", "cat target/file new/file") == "one\none\n"
    (cli.folder / "here").mkdir()
    cli.out("devbox", "cp", f"{box}:target/file", "here")
    assert (cli.folder / "here" / "file").read_text() == "one\n"


def make_folder(root: Path) -> None:
    (root / "deep" / "er").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "deep" / "er" / "data").write_bytes(os.urandom(1_500_000))
    (root / "run").write_text("#!/bin/sh\necho ran\n")
    (root / "run").chmod(0o755)
    (root / "link").symlink_to("deep/er/data")


def test_a_folder_goes_in_and_comes_back_with_all_that_is_in_it(cli: Cli, box: str) -> None:
    make_folder(cli.folder / "project")
    cli.out("devbox", "cp", "project", f"{box}:copy")
    told = cli.out("devbox", "exec", box, "--", "./copy/run; readlink copy/link; find copy -type d | sort")
    assert told.splitlines() == ["ran", "deep/er/data", "copy", "copy/deep", "copy/deep/er", "copy/empty"]
    cli.out("devbox", "cp", f"{box}:copy", "back")
    original = (cli.folder / "project" / "deep" / "er" / "data").read_bytes()
    assert (cli.folder / "back" / "link").read_bytes() == original
    assert (cli.folder / "back" / "run").stat().st_mode & 0o777 == 0o755
    assert (cli.folder / "back" / "empty").is_dir()
    assert cli.out("devbox", "exec", box, "--", "ls -A | grep corral; true") == ""


def test_a_folder_goes_into_a_folder_that_exists_by_its_own_name(cli: Cli, box: str) -> None:
    make_folder(cli.folder / "project")
    cli.out("devbox", "cp", "project", f"{box}:~")
    assert cli.out("devbox", "exec", box, "--", "./project/run") == "ran\n"
    (cli.folder / "here").mkdir()
    cli.out("devbox", "cp", f"{box}:project", "here")
    assert (cli.folder / "here" / "project" / "run").exists()


def _peak_kib(pid: int) -> int:
    """The largest resident size that the program has had; 0 before it has begun and after it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        if not Path(f"/proc/{pid}/exe").readlink().name.startswith("python"):
            return 0
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def test_a_large_copy_does_not_grow_the_client(cli: Cli, box: str) -> None:
    size = 400 * 1024**2
    with (cli.folder / "large").open("wb") as file:
        file.truncate(size)
    for sides in (("large", f"{box}:large"), (f"{box}:large", "back")):
        with cli.start("devbox", "cp", *sides) as process:
            # Not ru_maxrss: what it says of a child begins with the size of the process that started it.
            peak_kib = 0
            while process.poll() is None:
                peak_kib = max(peak_kib, _peak_kib(process.pid))
                time.sleep(0.01)
        assert process.returncode == 0
        assert 0 < peak_kib < 100 * 1024
    assert (cli.folder / "back").stat().st_size == size


def test_standard_input_and_output_are_files_too(cli: Cli, box: str) -> None:
    content = os.urandom(2_000_000)
    done = cli.run("devbox", "cp", "-", f"{box}:data", stdin=content)
    assert (done.returncode, done.stdout) == (0, b"")
    assert cli.run("devbox", "cp", f"{box}:data", "-").stdout == content


def test_json_tells_how_much_was_moved(cli: Cli, box: str) -> None:
    (cli.folder / "in").write_bytes(b"x" * 12345)
    assert cli.json("devbox", "cp", "in", f"{box}:in") == {"source": "in", "target": f"{box}:in", "bytes": 12345}


@pytest.mark.parametrize(
    ("source", "target", "code", "told"),
    [
        ("no-such-file", "BOX:x", 1, "cannot copy no-such-file: no such file or folder"),
        ("BOX:no-such-file", "x", 1, "no such file"),
        ("BOX:no-such-file", "-", 1, "no such file"),
        ("here", "there", 2, "one of SRC and DST must be ID:path"),
        ("BOX:a", "BOX:b", 2, "one of SRC and DST must be ID:path"),
        ("-", "BOX:folder/", 2, "a file name is needed"),
        ("no-such-devbox:x", "x", 1, "no-such-devbox"),
    ],
)
def test_a_copy_that_cannot_be_made_says_why(
    cli: Cli, shared_box: str, source: str, target: str, code: int, told: str
) -> None:
    sides = [side.replace("BOX", shared_box) for side in (source, target)]
    done = cli.run("devbox", "cp", *sides, stdin=b"")
    assert (done.returncode, done.stdout) == (code, b"")
    assert done.stderr.startswith(b"corral: cannot ")
    assert told.lower() in done.stderr.decode().lower()
    assert list(cli.folder.iterdir()) == []


def test_a_slow_copy_shows_its_progress_on_a_terminal(cli: Cli, box: str) -> None:
    with (cli.folder / "large").open("wb") as file:
        file.truncate(3 * 1024**3 // 2)
    screen = cli.terminal("devbox", "cp", f"{cli.folder}/large", f"{box}:large", cols=120)
    screen.expect(rb"large .*/1\.6 GB", timeout=60)
    screen.sendintr()
    screen.expect_exact(b"", timeout=1)
    screen.read()
    screen.close()
    assert screen.exitstatus == 130
