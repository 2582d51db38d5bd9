"""The library that is repaired: its source from the package registry, with one line changed for the worse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAME = "more-itertools"
VERSION = "11.2.1"
FILE = "more_itertools/more.py"
RIGHT = "padding = (fillvalue,) * (n - 1 if step >= n else step - 1)"
WRONG = "padding = (fillvalue,) * (step - 1)"
TESTS = "python3 -m unittest tests.test_more tests.test_recipes"


def fetch(folder: Path) -> Path:
    """Download and unpack the library's source distribution and return its folder. Raises RuntimeError."""
    pip = (
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
        "--dest",
        str(folder),
    )
    done = subprocess.run((*pip, f"{NAME}=={VERSION}"), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"cannot download {NAME}: {done.stderr.strip()[-500:]}")
    archive = next(folder.glob("*.tar.gz"))
    subprocess.run(("tar", "-x", "-f", archive, "-C", folder, "--no-same-owner"), check=True)
    return folder / archive.name.removesuffix(".tar.gz")


def put_bug_in(source: Path) -> None:
    """Change the one line. Raises RuntimeError when the library is not as expected."""
    path = source / FILE
    text = path.read_text()
    if text.count(RIGHT) != 1:
        raise RuntimeError(f"cannot put the bug into {FILE}: the line is not there")
    path.write_text(text.replace(RIGHT, WRONG))
