"""Who is calling and what they may do."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Resource(enum.StrEnum):
    """What a key's rights are given for. The first eight are the dialect's, the others are Corral's own."""

    DEVBOXES = "devboxes"
    BLUEPRINTS = "blueprints"
    SNAPSHOTS = "snapshots"
    OBJECTS = "objects"
    ACCOUNT = "account"
    BENCHMARKS = "benchmarks"
    SCENARIOS = "scenarios"
    AGENTS = "agents"
    SECRETS = "secrets"
    NETWORK = "network"
    GATEWAYS = "gateways"
    AXONS = "axons"


class Scope(enum.IntEnum):
    """How much of a resource a key may use. Each level holds the ones below it."""

    NONE = 0
    READ = 1  #: look at it
    WRITE = 2  #: make, use, change and remove it
    ADMIN = 3  #: what touches other keys, or all accounts; never in a restricted key


@dataclass(frozen=True, slots=True)
class Need:
    """The right that a route asks for. `resource` None: anyone may call it, without a key."""

    resource: Resource | None
    scope: Scope = Scope.NONE


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key came with a request. `scopes` None is a full key; a resource that is not named in it is NONE."""

    account_id: str
    key_id: str
    scopes: Mapping[Resource, Scope] | None = None
    expires_at_ms: int | None = None

    def may(self, need: Need) -> bool:
        """Whether this key has the right that a route asks for."""
        if need.resource is None or self.scopes is None:
            return True
        return self.scopes.get(need.resource, Scope.NONE) >= need.scope


@dataclass(frozen=True, slots=True)
class Account:
    """An account. Time in Unix milliseconds."""

    id: str
    name: str
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A key that was made now. `secret` is known to nobody afterwards."""

    id: str
    name: str
    secret: str = field(repr=False)
    expires_at_ms: int | None
    scopes: Mapping[Resource, Scope] | None = None  #: None for a full key
