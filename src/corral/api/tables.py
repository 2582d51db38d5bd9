"""The table of answers that are kept for a while, so that a repeated request gets the first one's answer."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from corral.core.store import schema

REPLAYS: Final = sa.Table(
    "replays",
    schema.METADATA,
    sa.Column("digest", sa.LargeBinary, primary_key=True),  #: of account, method, path, request id and body
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False, index=True),
)
