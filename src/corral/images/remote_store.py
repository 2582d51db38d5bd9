"""Remote copies as they lie in the object store: a stream, and a signed manifest that tells what the stream is.

Owns keys, the manifest and its signature, and the check of every part of a stream before anybody is given it: what
comes back is fed to programs that run as root and believe it, so that nothing of it may be another's.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Literal

from itsdangerous import BadSignature, URLSafeSerializer
from pydantic import BaseModel, ConfigDict, ValidationError

from corral.core import errors
from corral.runtime.contract import SnapshotForm
from corral.storage.service import ObjectStore

#: Bytes of a stream that have one digest.
PART: Final = 4 * 1024 * 1024

#: Bytes of a manifest: 64 KiB, and 70 for each part of a stream of 512 GiB.
MOST: Final = 16 * 1024 * 1024


class Manifest(BaseModel):
    """What a stream is. `layers` are digests from the lowest to the highest; `digests` are SHA-256 in hex."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    id: str
    account_id: str
    devbox_id: str
    snapshot_id: str
    name: str | None
    form: SnapshotForm
    parent_id: str | None
    level: int
    layers: tuple[str, ...]
    env: Mapping[str, str]
    request: Mapping[str, Any]
    size: int
    created_at_ms: int
    stored: int = 0
    digests: tuple[str, ...] = ()


class RemoteStore:
    """Reads and writes them. `key` is the secret of all servers that believe one another's copies."""

    def __init__(self, contents: ObjectStore, key: str) -> None:
        self._contents = contents
        options = {"digest_method": hashlib.sha256, "key_derivation": "hmac"}
        self._signer = URLSafeSerializer(key, salt="corral.remote.manifest", signer_kwargs=options)

    async def write(self, manifest: Manifest, stream: AsyncIterator[bytes]) -> Manifest:
        """Store a stream and then, once it is whole, its manifest, with the digests. Replaces what is there.

        What `stream` raises is raised here, and the copy is not there then.
        """
        digests: list[str] = []
        stored = await self._contents.put(_key(manifest, "stream"), _digesting(stream, digests))
        whole = manifest.model_copy(update={"stored": stored, "digests": tuple(digests)})
        signed = self._signer.dumps(whole.model_dump(mode="json"))
        await self._contents.put_bytes(_key(manifest, "manifest"), _bytes(signed))
        return whole

    async def read(self, account_id: str, copy_id: str) -> Manifest | None:
        """The manifest of a copy; None when there is none. Raises errors.WrongState when it cannot be believed."""
        data = await self._contents.read_bytes(f"remote/{account_id}/{copy_id}/manifest", MOST)
        if data is None:
            return None
        try:
            manifest = Manifest.model_validate(self._signer.loads(data.decode("ascii", "replace")))
        except (BadSignature, ValidationError, ValueError):
            raise errors.WrongState(
                f"cannot use remote copy {copy_id}: its manifest is not signed with this server's remote key"
            ) from None
        if (manifest.account_id, manifest.id) != (account_id, copy_id):
            raise errors.WrongState(f"cannot use remote copy {copy_id}: its manifest is of another one")
        return manifest

    async def all(self, accounts: Sequence[str], most: int) -> list[Manifest]:
        """Manifests of all copies of these accounts that can be believed, newest first, at most `most`."""
        found: list[Manifest] = []
        for account_id in accounts:
            ids = sorted(
                {
                    key.split("/")[-2]
                    async for key in self._contents.keys(f"remote/{account_id}/")
                    if key.endswith("/manifest")
                }
            )
            for copy_id in ids[:most]:
                try:
                    manifest = await self.read(account_id, copy_id)
                except errors.WrongState:
                    continue  # it is another's, and `read` tells who asks for it by its id
                if manifest is not None:
                    found.append(manifest)
        return sorted(found, key=lambda one: (one.created_at_ms, one.id), reverse=True)[:most]

    async def stream(self, manifest: Manifest) -> AsyncIterator[bytes]:
        """The stream, part by part, each checked. Raises errors.WrongState at the first that is not what was sent."""
        content = await self._contents.read(_key(manifest, "stream"))
        if content is None:
            raise errors.NotFound(f"cannot use remote copy {manifest.id}: its stream is gone")
        number = 0
        async for part in _parts(content.pieces()):
            digest = await asyncio.to_thread(_digest, part)
            if number >= len(manifest.digests) or digest != manifest.digests[number]:
                raise errors.WrongState(f"cannot use remote copy {manifest.id}: part {number} is not what was sent")
            number += 1
            yield part
        if number != len(manifest.digests):
            raise errors.WrongState(f"cannot use remote copy {manifest.id}: its stream was cut")

    async def remove(self, account_id: str, copy_id: str) -> None:
        """Remove a copy, its manifest first."""
        place = f"remote/{account_id}/{copy_id}"
        await self._contents.remove([f"{place}/manifest", f"{place}/stream"])


def _key(manifest: Manifest, what: str) -> str:
    return f"remote/{manifest.account_id}/{manifest.id}/{what}"


def _bytes(signed: str | bytes) -> bytes:
    return signed if isinstance(signed, bytes) else signed.encode("ascii")


def _digest(part: bytes) -> str:
    return hashlib.sha256(part).hexdigest()


async def _digesting(stream: AsyncIterator[bytes], digests: list[str]) -> AsyncIterator[bytes]:
    async for part in _parts(stream):
        digests.append(await asyncio.to_thread(_digest, part))
        yield part


async def _parts(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of PART, the last one excepted."""
    held = bytearray()
    async for piece in stream:
        held += piece
        while len(held) >= PART:
            yield bytes(held[:PART])
            del held[:PART]
    if held:
        yield bytes(held)
