from __future__ import annotations

import threading
from pathlib import Path

import pytest

from corral.core import wholefile


def test_it_takes_the_place_of_what_was_there_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    wholefile.write(path, b"first")
    assert path.stat().st_mode & 0o777 == 0o600
    wholefile.write(path, b"second", 0o755)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"second", 0o755)
    assert list(tmp_path.iterdir()) == [path]


def test_of_many_writers_each_writes_all_or_nothing(tmp_path: Path) -> None:
    path, failed = tmp_path / "file", []
    contents = [bytes([number]) * 300_000 for number in range(8)]

    def write(content: bytes) -> None:
        try:
            for _ in range(10):
                wholefile.write(path, content)
                assert path.read_bytes() in contents
        except Exception as error:  # noqa: BLE001 - told by the test's thread
            failed.append(error)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failed
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        wholefile.write(path, b"content")
    assert list(tmp_path.iterdir()) == [path]
