"""Parameters that many routes take: pages, ids in paths, lines of output, filters by metadata."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Final, cast

import sqlalchemy as sa
from fastapi import Query
from starlette.requests import HTTPConnection, Request

from corral.core import errors

#: Where the gate leaves the id of the caller's account in a request's scope.
ACCOUNT: Final = "corral.account_id"

#: Where the gate leaves whose key came with a request.
CALLER: Final = "corral.caller"

#: Where the gate leaves the id of the devbox whose tunnel a request came through.
TUNNELLED: Final = "corral.tunnelled"

Limit = Annotated[int, Query(ge=1, le=5000, description="Items of one page.")]
StartingAfter = Annotated[str | None, Query(max_length=256, description="The id of the last item of the page before.")]
IncludeTotalCount = Annotated[bool, Query(description="False leaves total_count out, which is faster.")]
LastN = Annotated[int, Query(ge=1, le=100_000, description="Lines of each stream, counted from its end.")]

#: Values of one metadata key that a filter may name.
MOST_VALUES: Final = 100

_METADATA: Final = re.compile(r"metadata\[([^\[\]]+)\](\[in\])?")


#: Where the gate leaves what remembers the answer to a request, so that a repeat of it gets the same one.
KEEP: Final = "corral.keep"

#: Writes the JSON of an answer of 200 in the caller's transaction.
Keep = Callable[[sa.Connection, bytes], None]


def keep(request: Request) -> Keep | None:
    """For acts that must not happen twice even if the server dies right after them: called in their transaction.

    None when the request has no x-request-id.
    """
    return cast("Keep | None", request.scope.get(KEEP))


def account_id(connection: HTTPConnection) -> str:
    """The account of the key that came with the request."""
    return cast("str", connection.scope[ACCOUNT])


def tunnelled(connection: HTTPConnection) -> str:
    """The devbox of the tunnel through which the request came."""
    return cast("str", connection.scope[TUNNELLED])


def metadata_filter(request: Request) -> dict[str, str | list[str]]:
    """`metadata[key]=value`, and `metadata[key][in]=one,two`, of the query.

    Raises errors.Invalid for another form of it.
    """
    wanted: dict[str, str | list[str]] = {}
    for name, value in request.query_params.multi_items():
        if not name.startswith("metadata"):
            continue
        match = _METADATA.fullmatch(name)
        if match is None:
            raise errors.Invalid(
                f"cannot filter by metadata: {name[:100]}: write metadata[key]=value or metadata[key][in]=one,two"
            )
        key, several = match.groups()
        if key in wanted:
            raise errors.Invalid(f"cannot filter by metadata: {key[:100]}: is there twice")
        wanted[key] = value.split(",") if several else value
        if len(wanted[key]) > MOST_VALUES and several:
            raise errors.Invalid(f"cannot filter by metadata: {name[:100]}: must be at most {MOST_VALUES} values")
    return wanted
