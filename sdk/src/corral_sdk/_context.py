"""A folder as the context of a build: what of it is sent, by its .dockerignore."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pathspec.patterns.gitignore.basic import GitIgnoreBasicPattern

from corral_sdk import _tar, errors

IGNORE = ".dockerignore"

#: Sent whatever the patterns say: a build cannot do without them.
_ALWAYS = frozenset({IGNORE, "Dockerfile"})


def pack(folder: Path) -> Iterator[bytes]:
    """Yield a tar archive of the folder less what its .dockerignore names. Raises Invalid for what cannot be sent."""
    path = folder / IGNORE
    try:
        patterns = _patterns(path.read_text()) if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise errors.Invalid(f"cannot read {path}: {error}") from error
    if not folder.is_dir():
        raise errors.Invalid(f"cannot send {folder}: it is no folder")
    return _tar.pack(folder, ignoring(patterns))


def ignoring(patterns: list[str]) -> _tar.Skip:
    """What the patterns, as `_patterns` has them, leave out. The last one that matches decides.

    What matches a folder matches everything in it.
    """
    known = [GitIgnoreBasicPattern(pattern) for pattern in patterns]
    brings_back = any(not pattern.include for pattern in known)

    def skip(path: str, is_folder: bool) -> bool:  # noqa: FBT001 - the type of a callback
        if path in _ALWAYS:
            return False
        names = [path, *map(str, PurePosixPath(path).parents)][:-1]
        decides = (one for one in reversed(known) if any(one.match_file(name) is not None for name in names))
        last = next(decides, None)
        # Something in a folder that is left out may be brought back: it is walked, for what is in it.
        return last is not None and bool(last.include) and not (is_folder and brings_back)

    return skip


def _patterns(text: str) -> list[str]:
    """Docker's patterns are about paths from the top; those of pathspec are, with a slash before them."""
    found = []
    for line in text.splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            sign, name = ("!", pattern[1:].strip()) if pattern.startswith("!") else ("", pattern)
            found.append(f"{sign}/{posixpath.normpath(name).lstrip('/')}")
    return found
