"""Where contents of objects are: a folder of this host, or a bucket of an S3 server.

Owns keys, streaming and the words for what goes wrong there. Must not know accounts or rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, S3Store

from corral.core import errors, wholefile

if TYPE_CHECKING:
    from obstore.store import S3Config

MIB: Final = 1024 * 1024

#: Bytes of one part of an upload, and parts on their way at once. S3 takes no part under 5 MiB and 10,000 at most.
PART: Final = 8 * MIB
PARTS_AT_ONCE: Final = 1

#: Bytes of what is read in one piece.
PIECE: Final = MIB

#: An upload must leave so much free on the disk of a folder, and is looked at so often, in bytes.
LEAST_FREE: Final = 512 * MIB
LOOK_EVERY: Final = 64 * MIB

#: What obstore calls a file whose upload is not complete.
_STAGED: Final = re.compile(r"#\d+$")

#: What is done to objects that may not be there.
_MISSING_IS_FINE: Final = frozenset({"look at", "read", "move", "remove"})

_NO_SPACE: Final = "os error 28"


class Content:
    """The content of one key, open: its size in bytes, and its bytes, once."""

    def __init__(self, stream: AsyncIterator[bytes], size: int) -> None:
        self.size = size
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.pieces()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes."""
        with translated("read"):
            async for piece in self._stream:
                yield bytes(piece)


class ObjectStore:
    """Contents by key. A key is `/`-separated words of our own making, never text of a caller.

    All raise errors.Unavailable when the folder or the bucket does not do what it is asked for.
    """

    def __init__(self, store: LocalStore | S3Store, *, root: Path | None, called: str) -> None:
        self._store = store
        self.root = root  #: the folder, None for a bucket
        self.called = called  #: what messages name it

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """Store a stream under a key, replacing what is there once it is whole; return its size in bytes.

        What `chunks` raises is raised here, and nothing is kept then. Raises errors.Exhausted on a full disk.
        """
        counted = _Counted(chunks, self)
        with translated("store"):
            await obstore.put_async(
                self._store,
                key,
                counted.pieces(),
                use_multipart=True,
                chunk_size=PART,
                max_concurrency=PARTS_AT_ONCE,
            )
        return counted.size

    async def put_bytes(self, key: str, data: bytes) -> None:
        """Store something small."""
        with translated("store"):
            await obstore.put_async(self._store, key, data, use_multipart=False)

    async def size(self, key: str) -> int | None:
        """Bytes under the key; None when there is nothing."""
        with translated("look at"), contextlib.suppress(FileNotFoundError):
            return int((await obstore.head_async(self._store, key))["size"])
        return None

    async def read(self, key: str) -> Content | None:
        """What is under the key, open for reading; None when there is nothing."""
        with translated("read"), contextlib.suppress(FileNotFoundError):
            found = await obstore.get_async(self._store, key)
            stream = cast("AsyncIterator[bytes]", aiter(found.stream(min_chunk_size=PIECE)))
            return Content(stream, int(found.meta["size"]))
        return None

    async def read_bytes(self, key: str, most: int) -> bytes | None:
        """What is under the key, whole; None when there is nothing. Raises errors.TooLarge over `most` bytes."""
        content = await self.read(key)
        if content is None:
            return None
        if content.size > most:
            raise errors.TooLarge(f"cannot read from the object store: {key} has {content.size} bytes, over {most}")
        return b"".join([piece async for piece in content])

    async def move(self, source: str, target: str) -> bool:
        """Give content another key, replacing what is there, for good; False when there is none."""
        with translated("move"), contextlib.suppress(FileNotFoundError):
            await obstore.rename_async(self._store, source, target)
            if self.root is not None:
                for place in (self.root / target, (self.root / target).parent):
                    await asyncio.to_thread(wholefile.sync, place)
            return True
        return False

    async def remove(self, keys: Sequence[str]) -> None:
        """Remove what is under the keys, if anything."""
        with translated("remove"):
            for key in keys:
                with contextlib.suppress(FileNotFoundError):
                    await obstore.delete_async(self._store, key)

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        """Every key below `prefix`."""
        with translated("list"):
            async for batch in obstore.list(self._store, prefix, chunk_size=1000):
                for each in batch:
                    yield str(each["path"])

    async def sign(self, method: Literal["GET", "PUT"], key: str, seconds: float) -> str | None:
        """An address at which whoever has it may PUT or GET this key; None for a folder, which has none."""
        if not isinstance(self._store, S3Store):
            return None
        with translated("sign"):
            return str(await obstore.sign_async(self._store, method, key, timedelta(seconds=seconds)))

    def clear_staged(self) -> int:
        """Remove what uploads of an earlier server left half-made in a folder; a bucket has rules for that."""
        if self.root is None:
            return 0
        staged = [path for path in self.root.rglob("*#*") if _STAGED.search(path.name)]
        for path in staged:
            path.unlink(missing_ok=True)
        return len(staged)

    def require_room(self) -> None:
        """Raise errors.Exhausted when the folder's disk is nearly full."""
        if self.root is None:
            return
        free = shutil.disk_usage(self.root).free
        if free < LEAST_FREE:
            raise errors.Exhausted(f"cannot store object: only {free // MIB} MiB are free in {self.called}")


class _Counted:
    """A stream on its way in: as large pieces, counted, and ended when the disk becomes full."""

    def __init__(self, chunks: AsyncIterator[bytes], store: ObjectStore) -> None:
        self._chunks = chunks
        self._store = store
        self.size = 0

    async def pieces(self) -> AsyncIterator[bytes]:
        waiting: list[bytes] = []
        held = looked = 0
        self._store.require_room()
        async for chunk in self._chunks:
            waiting.append(chunk)
            held += len(chunk)
            self.size += len(chunk)
            if held >= PIECE:
                yield b"".join(waiting)
                waiting, held = [], 0
            if self.size - looked >= LOOK_EVERY:
                looked = self.size
                self._store.require_room()
        if waiting:
            yield b"".join(waiting)


def open_store(where: str, *, endpoint: str | None = None, region: str | None = None) -> ObjectStore:
    """The object store at `where`: the path of a folder, which is made, or `s3://BUCKET/PREFIX`.

    `endpoint` is the address of an S3 server that is not Amazon's. Credentials of a bucket come from the environment,
    as for other S3 clients. Raises errors.Invalid, errors.Unavailable.
    """
    if where.startswith("s3://"):
        bucket, _, prefix = where.removeprefix("s3://").partition("/")
        if not bucket:
            raise errors.Invalid(f"cannot read setting objects: {where!r} is not s3://BUCKET/PREFIX")
        given: S3Config = {"region": region or os.environ.get("AWS_REGION") or "us-east-1"}
        if endpoint is not None:
            given["endpoint"] = endpoint
        plain = (endpoint or "").startswith("http://")
        with translated("open"):
            store = S3Store(bucket, prefix=prefix or None, config=given, client_options={"allow_http": plain})
        return ObjectStore(store, root=None, called=where)
    if "://" in where:
        raise errors.Invalid(f"cannot read setting objects: {where!r} is neither a folder nor s3://BUCKET/PREFIX")
    root = Path(where).expanduser().absolute()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)
    except OSError as error:
        raise errors.Unavailable(
            f"cannot open object store {root}: {error.strerror}", remedy="let the server write there"
        ) from error
    return ObjectStore(LocalStore(root, mkdir=True), root=root, called=str(root))


@contextlib.contextmanager
def translated(verb: str) -> Iterator[None]:
    """The object store's refusals as errors of the server; what is missing stays a FileNotFoundError."""
    try:
        yield
    except FileNotFoundError as error:
        if verb in _MISSING_IS_FINE:
            raise
        raise errors.Unavailable(
            f"cannot {verb} object: the object store has no such bucket or folder: {_short(error)}",
            remedy="make it, or set CORRAL_OBJECTS to one that is there",
        ) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise errors.Unavailable(
            f"cannot {verb} object: the object store refuses: {_short(error)}", remedy="check its credentials"
        ) from error
    except (BaseError, OSError) as error:
        if _NO_SPACE in str(error):
            raise errors.Exhausted(f"cannot {verb} object: the object store's disk is full") from error
        raise errors.Unavailable(
            f"cannot {verb} object: the object store fails: {_short(error)}", remedy="try again later"
        ) from error


def _short(error: Exception) -> str:
    """The first line of what obstore says, which may go on with the whole state of its request."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
