"""Programs that run in a box: one makes a tree of everything that a disk can hold, one lists it. For box root."""

from __future__ import annotations

from pathlib import Path
from typing import Final

BUILD: Final = (Path(__file__).parent / "build.py").read_text()
LIST: Final = (Path(__file__).parent / "listing.py").read_text()
