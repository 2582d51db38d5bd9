"""Request and response schemas of accounts and API keys."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field, Strict

from corral.core import errors
from corral.http.model import MAX_INTEGER, Body, Text, View
from corral.identity import model
from corral.identity.service import MAX_NAME


class CreateKeyBody(Body):
    """A name for people, and when the key ends (Unix milliseconds; never when left out)."""

    name: Annotated[Text, Field(max_length=MAX_NAME)] | None = None
    expires_at_ms: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None


class AccessLevel(enum.StrEnum):
    """How much of a resource; each holds the ones before it."""

    NONE = "ACCESS_LEVEL_NONE"
    READ = "ACCESS_LEVEL_READ"
    WRITE = "ACCESS_LEVEL_WRITE"


class ResourceType(enum.StrEnum):
    """The resources, under the names that the dialect gives them."""

    DEVBOXES = "RESOURCE_TYPE_DEVBOXES"
    BLUEPRINTS = "RESOURCE_TYPE_BLUEPRINTS"
    SNAPSHOTS = "RESOURCE_TYPE_SNAPSHOTS"
    OBJECTS = "RESOURCE_TYPE_OBJECTS"
    ACCOUNT = "RESOURCE_TYPE_ACCOUNT"
    BENCHMARKS = "RESOURCE_TYPE_BENCHMARKS"
    SCENARIOS = "RESOURCE_TYPE_SCENARIOS"
    AGENTS = "RESOURCE_TYPE_AGENTS"
    SECRETS = "RESOURCE_TYPE_SECRETS"
    NETWORK = "RESOURCE_TYPE_NETWORK"
    GATEWAYS = "RESOURCE_TYPE_GATEWAYS"
    AXONS = "RESOURCE_TYPE_AXONS"


class ScopeEntry(Body):
    """A right to one kind of resource."""

    resource_type: Annotated[ResourceType, Strict(strict=False)]
    access_level: Annotated[AccessLevel, Strict(strict=False)]


class CreateRestrictedKeyBody(CreateKeyBody):
    """As for a full key, and what it may do. What is not named it may not."""

    scopes: Annotated[list[ScopeEntry], Field(min_length=1, max_length=len(model.Resource))]


class ScopeEntryView(View):
    """A right to one kind of resource."""

    resource_type: str
    access_level: str


class KeyView(View):
    """A new key. `key_secret` is shown this once."""

    id: str
    name: str
    key_secret: str
    expires_at_ms: int | None = None


class RestrictedKeyView(KeyView):
    """A new key with what it may do."""

    scopes: list[ScopeEntryView]


class BillingView(View):
    """The dialect wants it; nobody is billed here."""

    account_billing_type: str = "UNRECOGNIZED"


class AccountView(View):
    """An account. Status, tier and billing are there for the dialect's clients."""

    id: str
    name: str
    account_status: str = "ACCOUNT_STATUS_ENABLED"
    billing: BillingView = BillingView()
    created_at: str
    tier: str = "UNRECOGNIZED"


def account_view(account: model.Account) -> AccountView:
    """The account as clients see it; its creation as ISO 8601 in UTC."""
    created = dt.datetime.fromtimestamp(account.created_at_ms / 1000, tz=dt.UTC)
    return AccountView(id=account.id, name=account.name, created_at=created.isoformat(timespec="milliseconds"))


def key_view(created: model.CreatedKey) -> KeyView:
    """The key with its secret."""
    return KeyView(id=created.id, name=created.name, key_secret=created.secret, expires_at_ms=created.expires_at_ms)


def scopes(entries: Sequence[ScopeEntry]) -> Mapping[model.Resource, model.Scope]:
    """What the entries allow. Raises errors.Invalid when a resource is named twice."""
    found = {model.Resource[one.resource_type.name]: model.Scope[one.access_level.name] for one in entries}
    if len(found) < len(entries):
        raise errors.Invalid("cannot create API key: scopes: a resource_type is there more than once")
    return found


def restricted_key_view(created: model.CreatedKey) -> RestrictedKeyView:
    """The key with its secret and its scopes."""
    shown = [
        ScopeEntryView(resource_type=f"RESOURCE_TYPE_{resource.name}", access_level=f"ACCESS_LEVEL_{scope.name}")
        for resource, scope in (created.scopes or {}).items()
    ]
    return RestrictedKeyView(**key_view(created).model_dump(), scopes=shown)
