"""The digest of a context: the same for the same files, packed at another time."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from typing import Any

import pytest

from corral.images.blueprints.contexts import ObjectContexts


class _Opened:
    def __init__(self, pieces: list[bytes]) -> None:
        self.content = self._read(pieces)

    async def _read(self, pieces: list[bytes]) -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece


class _Objects:
    """Gives what it was told, in pieces of one size."""

    def __init__(self, content: bytes, piece: int) -> None:
        self._pieces = [content[at : at + piece] for at in range(0, len(content), piece)]

    async def open(self, _account_id: str, _object_id: str) -> _Opened:
        return _Opened(self._pieces)


async def digest(content: bytes, piece: int = 1 << 20) -> str:
    """Of this content, read in pieces of that size."""
    objects: Any = _Objects(content, piece)
    read = await ObjectContexts(objects).read("acc", "obj")
    assert read.size == len(content)
    return read.digest


@pytest.mark.parametrize("piece", [1, 3, 5, 8, 1 << 20])
async def test_the_time_of_packing_does_not_count(piece: int) -> None:
    early, late = (gzip.compress(b"files" * 99, mtime=at) for at in (1, 2))
    assert early != late
    assert await digest(early) == await digest(late, piece)


async def test_everything_else_does() -> None:
    packed = gzip.compress(b"files" * 99, mtime=0)
    others = [
        gzip.compress(b"others" * 99, mtime=0),
        packed[:-1],
        packed + b"\0",
        b"plain tar",
        b"plain tbr",
        b"pl",
        b"",
    ]
    digests = [await digest(content, 3) for content in (packed, *others)]
    assert len(set(digests)) == len(digests)
    assert await digest(b"abcd1234") != await digest(b"abcd5678")
