"""What a process 1 that is not ours can do with the files of an execution: only make its own output wrong."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.runtime.contract import ExecResult, ExecSpec, Stream
from corral.runtime.spool import LOST, STREAM_CAP, Spool
from tests.integration.guest import box as boxes

PROGRAM = Path(__file__).with_name("hostile_guest.py")


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[boxes.Box]:
    # Its text is an argument: the folder that it lies in is not in the box.
    with boxes.running(tmp_path, ("/usr/bin/python3", "-I", "-c", PROGRAM.read_text())) as started:
        yield started


async def take(hostile: boxes.Box, spool: Spool, deed: str) -> str:
    """Have a command done; return what was open that must not be."""
    with spool.open("box", deed) as fds:
        following = await hostile.client.execute(ExecSpec(deed, (deed,)), (fds.stdout, fds.stderr, fds.status))
    await following.close()
    return spool.read("box", deed, Stream.STDERR, 0, 1000).decode()


@pytest.mark.parametrize(
    ("deed", "size", "result"),
    [("grow", STREAM_CAP, LOST), ("shrink", 0, None), ("lie", 100, ExecResult(exit_code=0))],
)
async def test_the_descriptors_are_good_for_writing_and_the_reader_is_bounded(
    hostile: boxes.Box, tmp_path: Path, deed: str, size: int, result: ExecResult | None
) -> None:
    spool = Spool(tmp_path / "spool")
    assert await take(hostile, spool, deed) == "[]"
    began = time.monotonic()
    tracemalloc.start()
    try:
        assert spool.size("box", deed, Stream.STDOUT) == size
        assert len(spool.read("box", deed, Stream.STDOUT, 0, 1 << 16)) == min(size, 1 << 16)
        assert spool.read("box", deed, Stream.STDOUT, STREAM_CAP, 1 << 16) == b""
        assert spool.read("box", deed, Stream.STDOUT, 1 << 40, 1 << 16) == b""
        assert spool.result("box", deed) == result
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < 1
    # Only the files that were made, and all of them regular.
    names = {f"{deed}.{suffix}" for suffix in ("stdout", "stderr", "status")}
    assert {path.name for path in (spool.root / "box").iterdir() if path.is_file() and not path.is_symlink()} == names
    spool.forget("box")
    assert spool.boxes() == []
