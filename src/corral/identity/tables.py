"""Tables of accounts and API keys. A key is kept as its SHA-256; the key itself is nowhere."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from corral.core.store import schema

ACCOUNTS: Final = sa.Table(
    "accounts",
    schema.METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
)

API_KEYS: Final = sa.Table(
    "api_keys",
    schema.METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey(ACCOUNTS.c.id), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("scopes", sa.JSON(none_as_null=True)),  #: resource -> scope; NULL is a full key
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_at_ms", sa.BigInteger),
    sa.Column("revoked_at_ms", sa.BigInteger),
)
