"""Request and response schemas of accounts and API keys."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from pydantic import Field

from corral.http.model import MAX_INTEGER, Body, Text, View
from corral.identity import model
from corral.identity.service import MAX_NAME


class CreateKeyBody(Body):
    """A name for people, and when the key ends (Unix milliseconds; never when left out)."""

    name: Annotated[Text, Field(max_length=MAX_NAME)] | None = None
    expires_at_ms: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None


class KeyView(View):
    """A new key. `key_secret` is shown this once."""

    id: str
    name: str
    key_secret: str
    expires_at_ms: int | None = None


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
