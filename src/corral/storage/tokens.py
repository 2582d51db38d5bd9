"""Tokens in the addresses at which content is sent and fetched without an API key, and what they are signed with.

Owns the key, which lies in the data folder, and the name of this server in a shared object store. Signing is
itsdangerous' (HMAC-SHA-256).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from itsdangerous import BadSignature, URLSafeSerializer

from corral.core import errors, wholefile
from corral.core.clock import Clock
from corral.core.ids import Ids

Act = Literal["upload", "download"]

_KEY: Final = re.compile(r"ok_[0-9A-Za-z]{43}")
_LEAST_KEY: Final = 32
_NODE: Final = re.compile(r"node_[0-9A-Za-z]{21}")


class Tokens:
    """Makes and reads them. Each is for one act on one object until one moment."""

    def __init__(self, key: str, clock: Clock) -> None:
        self._clock = clock
        self._signers = {act: _signer(key, act) for act in ("upload", "download")}

    def make(self, act: Act, object_id: str, seconds: float) -> str:
        """A token that holds for `seconds`."""
        return str(self._signers[act].dumps([object_id, self._clock.now_ms() + round(seconds * 1000)]))

    def check(self, act: Act, object_id: str, token: str) -> None:
        """Raise errors.Forbidden unless the token lets its bearer do this now."""
        try:
            named, until_ms = self._signers[act].loads(token)
        except (BadSignature, ValueError, TypeError):
            raise errors.Forbidden(f"cannot {act} object: the token of this address is not valid") from None
        if named != object_id:
            raise errors.Forbidden(f"cannot {act} object: the token of this address is for another object")
        if until_ms <= self._clock.now_ms():
            raise errors.Forbidden(f"cannot {act} object: this address has expired; ask for another")


def load_key(data: Path, ids: Ids) -> str:
    """The key in the data folder, made at the first call, mode 0600. Raises errors.Unavailable."""
    return _load(data / "object-key", _KEY, lambda: ids.secret("ok"))


def load_remote_key(data: Path, given: Path | None, ids: Ids) -> str:
    """The secret of remote copies: in the file that is given, or in the data folder. Raises errors.Unavailable."""
    if given is None:
        return _load(data / "remote-key", _KEY, lambda: ids.secret("ok"))
    try:
        key = given.read_text().strip()
    except OSError as error:
        raise errors.Unavailable(
            f"cannot use {given}: {error.strerror}", remedy="set CORRAL_REMOTE_KEY to a file with the key"
        ) from error
    if len(key) < _LEAST_KEY:
        raise errors.Unavailable(
            f"cannot use {given}: the key has under {_LEAST_KEY} characters", remedy="copy another server's remote-key"
        )
    return key


def load_node(data: Path, ids: Ids) -> str:
    """What this server is called in an object store that it may share. Raises errors.Unavailable."""
    return _load(data / "node-id", _NODE, lambda: ids.new("node"))


def _load(path: Path, form: re.Pattern[str], make: Callable[[], str]) -> str:
    try:
        if not path.exists():
            wholefile.write(path, make().encode() + b"\n")
        text = path.read_text().strip()
    except OSError as error:
        raise errors.Unavailable(
            f"cannot use {path}: {error.strerror}", remedy="let the server write its data folder"
        ) from error
    if not form.fullmatch(text):
        raise errors.Unavailable(f"cannot use {path}: it does not hold what belongs there", remedy="remove that file")
    return text


def _signer(key: str, act: str) -> URLSafeSerializer:
    options = {"digest_method": hashlib.sha256, "key_derivation": "hmac"}
    return URLSafeSerializer(key, salt=f"corral.objects.{act}", signer_kwargs=options)
