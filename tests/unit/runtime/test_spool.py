"""The spool: what the guest writes is bounded, checked and kept; what the host says cannot be forged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from corral.runtime import spool as spool_module
from corral.runtime.contract import BadCommand, ExecResult, NoSuchExecution, Stream
from corral.runtime.spool import LOST, STREAM_CAP, Spool, parse_status, status_line


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def fill(spool: Spool, exec_id: str, *, out: bytes = b"", status: bytes = b"") -> None:
    with spool.open("box", exec_id) as fds:
        os.write(fds.stdout, out)
        os.write(fds.status, status)


def test_output_is_read_by_offset(spool: Spool) -> None:
    fill(spool, "e1", out=b"hello world")
    assert spool.read("box", "e1", Stream.STDOUT, 6, 3) == b"wor"
    assert spool.read("box", "e1", Stream.STDOUT, 11, 100) == b""
    assert spool.read("box", "e1", Stream.STDOUT, 5_000, 100) == b""
    assert spool.read("box", "e1", Stream.STDERR, 0, 100) == b""
    assert spool.size("box", "e1", Stream.STDOUT) == 11


def test_files_are_private_and_write_only(spool: Spool, tmp_path: Path) -> None:
    with spool.open("box", "e1") as fds:
        for fd in (fds.stdout, fds.stderr, fds.status):
            assert os.fstat(fd).st_mode & 0o777 == 0o600
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.read(fd, 1)
    assert (tmp_path / "spool" / "box").stat().st_mode & 0o777 == 0o700


def test_fds_are_closed_once(spool: Spool) -> None:
    fds = spool.open("box", "e1")
    held = fds.stdout
    fds.close()
    fds.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(held)


def test_an_id_is_opened_once(spool: Spool) -> None:
    fill(spool, "e1", out=b"first")
    with pytest.raises(FileExistsError):
        spool.open("box", "e1")
    assert spool.read("box", "e1", Stream.STDOUT, 0, 100) == b"first"


def test_a_failed_open_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    folder = tmp_path / "spool" / "box"
    folder.mkdir(parents=True)
    (folder / "e1.stderr").mkdir()
    with pytest.raises(OSError, match="exists"):
        spool.open("box", "e1")
    assert [path.name for path in folder.iterdir()] == ["e1.stderr"]


def test_a_discarded_id_can_be_opened_again(spool: Spool) -> None:
    fill(spool, "e1", out=b"first")
    spool.discard("box", "e1")
    assert not spool.known("box", "e1")
    fill(spool, "e1", out=b"second")
    assert spool.read("box", "e1", Stream.STDOUT, 0, 100) == b"second"


BAD_IDS = ["", "..", ".", "a/b", "../box", "a.b", "a\0b", "-a", "a\n", "é", "x" * 129]


@pytest.mark.parametrize("bad", BAD_IDS)
def test_an_id_that_is_no_name_reaches_no_file(spool: Spool, bad: str) -> None:
    fill(spool, "e1", out=b"kept")
    for box, exec_id in (("box", bad), (bad, "e1")):
        with pytest.raises(BadCommand):
            spool.open(box, exec_id)
        with pytest.raises(NoSuchExecution):
            spool.read(box, exec_id, Stream.STDOUT, 0, 10)
        assert not spool.known(box, exec_id)
        assert spool.size(box, exec_id, Stream.STDOUT) == 0
        assert spool.result(box, exec_id) is None
        spool.mark_lost(box, exec_id)
        spool.discard(box, exec_id)
    spool.forget(bad)
    assert spool.read("box", "e1", Stream.STDOUT, 0, 10) == b"kept"


def test_unknown_executions(spool: Spool) -> None:
    assert spool.result("box", "nope") is None
    assert spool.size("box", "nope", Stream.STDOUT) == 0
    with pytest.raises(NoSuchExecution, match="nope"):
        spool.read("box", "nope", Stream.STDOUT, 0, 10)
    spool.mark_lost("box", "nope")
    assert not spool.known("box", "nope")


def test_the_result_is_there_once_the_line_is_complete(spool: Spool) -> None:
    line = status_line(ExecResult(exit_code=3, stderr_cut=True), 10, 20)
    with spool.open("box", "e1") as fds:
        os.write(fds.status, line[:10])
        assert spool.result("box", "e1") is None
        os.write(fds.status, line[10:])
    assert spool.result("box", "e1") == ExecResult(exit_code=3, stderr_cut=True)


STATUS_LINES: list[tuple[bytes, ExecResult]] = [
    (b'{"exit_code": 0, "signal": null}', ExecResult(0)),
    (b'{"exit_code": 0}', ExecResult(0)),
    (b'{"exit_code": 300, "signal": null}', ExecResult(255)),
    (b'{"exit_code": -4, "signal": null}', ExecResult(0)),
    (b'{"exit_code": 0, "signal": 9}', ExecResult(137, signal=9)),
    (b'{"exit_code": 143, "signal": 15, "stdout_cut": true}', ExecResult(143, signal=15, stdout_cut=True)),
    (b'{"exit_code": 0, "stdout_cut": "yes", "stderr_cut": 1}', ExecResult(0)),
    (b'{"exit_code": 0, "lost": true}', ExecResult(0)),
    (b'{"exit_code": 0, "signal": 65}', LOST),
    (b'{"exit_code": 0, "signal": -1}', LOST),
    (b'{"exit_code": 0, "signal": "9"}', LOST),
    (b'{"exit_code": true}', LOST),
    (b'{"exit_code": 1.5}', LOST),
    (b'{"exit_code": null}', LOST),
    (b'{"exit_code": "0"}', LOST),
    (b'{"signal": 9}', LOST),
    (b"[0]", LOST),
    (b"", LOST),
    (b"\xff\xfe", LOST),
    (b"[" * 4096, LOST),
    (b'{"exit_code": ' + b"9" * 4000 + b"}", ExecResult(255)),
]


@pytest.mark.parametrize(("line", "result"), STATUS_LINES)
def test_a_hostile_status_line_is_checked(line: bytes, result: ExecResult) -> None:
    assert parse_status(line) == result


def test_an_endless_status_line_is_lost(spool: Spool) -> None:
    fill(spool, "e1", status=b" " * 100_000)
    assert spool.result("box", "e1") == LOST


def test_only_the_first_line_counts(spool: Spool) -> None:
    fill(spool, "e1", status=b'{"exit_code": 1}\n{"exit_code": 0}\n')
    assert spool.result("box", "e1") == ExecResult(1)


def test_the_host_can_mark_an_execution_lost_but_not_a_finished_one(spool: Spool) -> None:
    fill(spool, "running", out=b"so far")
    fill(spool, "done", status=status_line(ExecResult(0), 0, 0))
    fill(spool, "torn", status=b'{"exit_co')
    for exec_id in ("running", "done", "torn"):
        spool.mark_lost("box", exec_id)
        spool.mark_lost("box", exec_id)
    assert spool.result("box", "running") == LOST
    assert spool.result("box", "done") == ExecResult(0)
    assert spool.result("box", "torn") == LOST
    assert spool.read("box", "running", Stream.STDOUT, 0, 10) == b"so far"


def test_a_stretched_file_is_capped(spool: Spool) -> None:
    with spool.open("box", "e1") as fds:
        os.ftruncate(fds.stdout, STREAM_CAP * 4)
    assert spool.size("box", "e1", Stream.STDOUT) == STREAM_CAP
    assert spool.read("box", "e1", Stream.STDOUT, STREAM_CAP - 2, 100) == b"\0\0"
    assert spool.read("box", "e1", Stream.STDOUT, STREAM_CAP * 2, 100) == b""


def test_a_spool_file_that_is_a_symlink_is_not_followed(spool: Spool, tmp_path: Path) -> None:
    fill(spool, "e1")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    stream = tmp_path / "spool" / "box" / "e1.stdout"
    stream.unlink()
    stream.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        spool.read("box", "e1", Stream.STDOUT, 0, 10)


def test_boxes_and_executions_are_listed_and_forgotten(spool: Spool) -> None:
    assert spool.boxes() == []
    assert spool.executions("box") == []
    for exec_id in ("e2", "e1"):
        fill(spool, exec_id)
    spool.open("other", "x").close()
    assert spool.boxes() == ["box", "other"]
    assert spool.executions("box") == ["e1", "e2"]
    spool.forget("box")
    spool.forget("box")
    assert spool.boxes() == ["other"]
    assert not spool.known("box", "e1")


def test_a_new_spool_of_the_same_folder_knows_what_the_old_one_wrote(spool: Spool) -> None:
    fill(spool, "e1", out=b"x", status=status_line(ExecResult(7), 1, 0))
    again = spool_module.Spool(spool.root)
    assert again.result("box", "e1") == ExecResult(7)
    assert again.read("box", "e1", Stream.STDOUT, 0, 10) == b"x"


def test_the_status_line_says_the_sizes() -> None:
    fields = json.loads(status_line(ExecResult(0), 5, 6))
    assert (fields["stdout_bytes"], fields["stderr_bytes"]) == (5, 6)
