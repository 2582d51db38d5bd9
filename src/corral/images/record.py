"""What is known of an image, as it is kept: its configuration in the words of OCI, its layers, where it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from corral.runtime.contract import User


@dataclass(frozen=True)
class Manifest:
    """An image. `config` is the text of its OCI configuration, `layers` the digests of its layers' archives, from the
    lowest to the highest. `size` in bytes, `created_ms` in Unix milliseconds: when it came to this host.

    `user` is who commands run as. `recipe` and `packages` (name -> version) are of stock images. One that was `pulled`
    for a build goes by itself; all others, and those of before there was this field, are the operator's.
    """

    config: str
    layers: tuple[str, ...]
    created_ms: int
    size: int
    files: int
    origin: str
    user: User
    recipe: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    pulled: bool = False

    @cached_property
    def digest(self) -> str:
        """Digest of the configuration: the image's id, as other tools show it too."""
        return f"sha256:{hashlib.sha256(self.config.encode(errors='surrogateescape')).hexdigest()}"

    @property
    def distinct(self) -> tuple[str, ...]:
        """The layers without repetitions: of two the upper one covers all that the lower one shows."""
        return tuple(diff_id for number, diff_id in enumerate(self.layers) if diff_id not in self.layers[number + 1 :])

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What the configuration says of a command that runs in it."""
        found = json.loads(self.config).get("config")
        return found if isinstance(found, dict) else {}

    @property
    def env(self) -> dict[str, str]:
        """Variables of every command."""
        pairs = (entry.partition("=") for entry in _texts(self.settings.get("Env")))
        return {name: value for name, equals, value in pairs if name and equals}

    @property
    def workdir(self) -> str:
        """Where commands begin; "" when the image does not say."""
        return _text(self.settings.get("WorkingDir"))

    @property
    def entrypoint(self) -> tuple[str, ...]:
        """The program that `cmd` are the arguments of."""
        return _texts(self.settings.get("Entrypoint"))

    @property
    def cmd(self) -> tuple[str, ...]:
        """What the image runs by itself."""
        return _texts(self.settings.get("Cmd"))

    @property
    def labels(self) -> dict[str, str]:
        """What its maker says of it."""
        found = self.settings.get("Labels")
        return {str(name): _text(value) for name, value in found.items()} if isinstance(found, dict) else {}

    @property
    def exposed_ports(self) -> tuple[str, ...]:
        """Ports that its program listens on, as `80/tcp`."""
        found = self.settings.get("ExposedPorts")
        return tuple(sorted(map(str, found))) if isinstance(found, dict) else ()

    def to_json(self) -> str:
        """The text of a name's file."""
        facts = asdict(self)
        if not self.pulled:
            del facts["pulled"]  # so that versions which do not know it can read all that has not to do with it
        return json.dumps(facts, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what `to_json` wrote. Raises ValueError, TypeError, KeyError."""
        facts: dict[str, Any] = json.loads(text)
        return cls(**facts | {"user": User(**facts["user"]), "layers": tuple(facts["layers"])})


def with_user(manifest: Manifest, user: User) -> Manifest:
    """The same image, run as somebody else."""
    return replace(manifest, user=user)


def rfc3339(at: datetime) -> str:
    """A time as configurations have it."""
    return at.isoformat().replace("+00:00", "Z")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(entry for entry in value if isinstance(entry, str)) if isinstance(value, list) else ()
