"""One row of the route table, and the finding of a row by method and path.

Owns the match: segment by segment, fixed ones before `{parameters}`, in time that does not grow with the table. A
`{parameter:path}` takes one segment or more, so that a value may hold slashes, whether they came escaped or not.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from corral.core import errors
from corral.identity.model import Need

MIB: Final = 1024 * 1024


class Intake(enum.Enum):
    """How the body of a request comes in."""

    NONE = enum.auto()  #: there is none
    JSON = enum.auto()  #: read whole, up to the route's limit, before the handler is called
    STREAM = enum.auto()  #: left to the handler
    SOCKET = enum.auto()  #: a WebSocket


@dataclass(frozen=True, slots=True)
class Route:
    """A route that this server has. `does` is what it is about, as in `cannot <does>: <cause>`."""

    method: str
    path: str
    handler: Callable[..., Any]
    need: Need
    does: str
    intake: Intake = Intake.NONE
    body_limit: int = MIB
    replay: bool = False  #: a repeat with the same x-request-id gets the first answer
    query: tuple[str, ...] = ()  #: query parameters, beside the handler's, that end with a `[`: any key may follow
    answers: type[Any] | None = None  #: schema of the answer; None: the handler makes the response itself
    media_type: str = "application/json"
    tunnel: bool = False  #: is addressed by a tunnel's host and takes its token; no other route is
    errors: tuple[int, ...] = ()  #: statuses beside those that every route has

    @property
    def documented(self) -> str:
        """The path as the OpenAPI document names it."""
        return self.path.replace(":path}", "}")


@dataclass(frozen=True, slots=True)
class Later:
    """A route of the dialect that this server does not offer; it answers 501."""

    method: str
    path: str
    need: Need
    does: str

    @property
    def documented(self) -> str:
        """The path as the OpenAPI document names it."""
        return self.path.replace(":path}", "}")


Row = Route | Later


class _Node:
    __slots__ = ("fixed", "parameter", "rows", "several")

    def __init__(self) -> None:
        self.fixed: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.several: _Node | None = None
        self.rows: dict[str, Row] = {}


@dataclass(frozen=True, slots=True)
class MethodNotAllowed(Exception):
    """The path is known, but not with this method."""

    allowed: tuple[str, ...] = field(default=())


class Table:
    """All rows, for looking up."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = tuple(rows)
        self._root = _Node()
        for row in self.rows:
            node = self._root
            for segment in row.path.strip("/").split("/"):
                if segment.endswith(":path}"):
                    node.several = node.several or _Node()
                    node = node.several
                elif segment.startswith("{"):
                    node.parameter = node.parameter or _Node()
                    node = node.parameter
                else:
                    node = node.fixed.setdefault(segment, _Node())
            if row.method in node.rows:
                raise ValueError(f"{row.method} {row.path} is in the table twice")
            node.rows[row.method] = row

    def find(self, method: str, path: str) -> Row:
        """The row. Raises errors.NotFound for an unknown path, MethodNotAllowed for a method that it has not."""
        found = dict(self._rows(self._root, path.split("/")[1:], 0))
        if method in found:
            return found[method]
        if not found:
            raise errors.NotFound(f"cannot answer {method[:20]} {path[:200]}: there is no such route")
        raise MethodNotAllowed(tuple(sorted(found)))

    def _rows(self, node: _Node, segments: list[str], index: int) -> dict[str, Row]:
        """Rows of every method at this path. A fixed segment wins over a parameter, for the methods that it has."""
        if index == len(segments):
            return node.rows
        found: dict[str, Row] = {}
        if node.several is not None:
            for end in range(index + 1 if segments[index] else index + 2, len(segments) + 1):
                found.update(self._rows(node.several, segments, end))
        if node.parameter is not None and segments[index]:
            found.update(self._rows(node.parameter, segments, index + 1))
        if (fixed := node.fixed.get(segments[index])) is not None:
            found.update(self._rows(fixed, segments, index + 1))
        return found
