"""What of a folder is sent as the context of a build."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from corral_sdk import _context, errors


def sent(folder: Path) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(_context.pack(folder)))) as archive:
        return {member.name for member in archive if not member.isdir()}


EVERYTHING = {
    *("Dockerfile", "a.py", "a.pyc", "src/b.py", "src/b.pyc", "docs/#x"),
    *("node_modules/x/y", "node_modules/keep/z"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in EVERYTHING:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "left_out"),
    [
        ("", set()),
        ("# a comment\n\n  \n", set()),
        ("*.pyc", {"a.pyc"}),
        ("**/*.pyc\n", {"a.pyc", "src/b.pyc"}),
        ("node_modules", {"node_modules/x/y", "node_modules/keep/z"}),
        ("/node_modules/\r\n", {"node_modules/x/y", "node_modules/keep/z"}),
        ("node_modules\n!node_modules/keep", {"node_modules/x/y"}),
        ("!src\nsrc/*.py", {"src/b.py"}),
        ("./src/../a.*", {"a.py", "a.pyc"}),
        ("*\n!src", EVERYTHING - {"Dockerfile", "src/b.py", "src/b.pyc"}),
        ("docs/?x", {"docs/#x"}),
    ],
)
def test_patterns_are_dockers(folder: Path, patterns: str, left_out: set[str]) -> None:
    (folder / ".dockerignore").write_text(patterns)
    assert sent(folder) == (EVERYTHING | {".dockerignore"}) - left_out


def test_without_patterns_everything_is_sent(folder: Path) -> None:
    assert sent(folder) == EVERYTHING


def test_what_is_no_folder_is_refused(folder: Path) -> None:
    with pytest.raises(errors.Invalid, match="it is no folder"):
        _context.pack(folder / "a.py")
    (folder / ".dockerignore").write_bytes(b"\xff")
    with pytest.raises(errors.Invalid, match=r"cannot read .*\.dockerignore"):
        _context.pack(folder)
