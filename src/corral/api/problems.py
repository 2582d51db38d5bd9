"""Errors as JSON: one shape for all of them, with the headers that clients act on.

Owns the words for refused bodies and parameters, and which answers are worth a retry. Must not log.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException

from corral.api.routing import MethodNotAllowed
from corral.core import errors

#: More than this many problems of one body help nobody.
_SHOWN: Final = 5

#: Status -> whether clients shall try again. Left out: 429 and 503, where they decide by themselves, and what they
#: never retry. Without the header they would retry every 409 and 501 five times.
_RETRY: Final[Mapping[int, bytes]] = {408: b"true", 409: b"false", 500: b"false", 501: b"false"}


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it is sent. `allow` are the methods that a 405 names."""

    status: int
    message: str
    kind: str
    allow: tuple[str, ...] = ()

    def body(self) -> bytes:
        """The JSON of it."""
        return json.dumps(
            {"code": self.status, "message": self.message, "kind": self.kind}, separators=(",", ":")
        ).encode()

    def headers(self, size: int) -> list[tuple[bytes, bytes]]:
        """Headers of its answer of `size` bytes."""
        allow = [(b"allow", ", ".join(self.allow).encode())] if self.allow else []
        return [*headers(self.status, size), *allow]


def internal(does: str) -> Problem:
    """What a client is told of a fault of Corral's own."""
    error = errors.Internal(f"cannot {does}: an error in Corral; its log has the details")
    return Problem(error.status, error.message, error.kind)


def of(error: Exception, does: str) -> Problem | None:
    """What a client is told of this error; None when it is none that was raised on purpose."""
    match error:
        case errors.CorralError():
            return Problem(error.status, error.message, error.kind)
        case RequestValidationError() | WebSocketRequestValidationError():
            return Problem(errors.Invalid.status, refused(does, error.errors()), errors.Invalid.kind)
        case MethodNotAllowed():
            allowed = ", ".join(error.allowed)
            return Problem(405, f"cannot {does}: this route takes {allowed}", "method-not-allowed", error.allowed)
        case HTTPException():
            return Problem(error.status_code, f"cannot {does}: {error.detail}", errors.Invalid.kind)
    return None


def headers(status: int, size: int) -> list[tuple[bytes, bytes]]:
    """Headers of a JSON answer of `size` bytes, and those that clients act on when it is an error."""
    found = [(b"content-type", b"application/json"), (b"content-length", str(size).encode())]
    if (retry := _RETRY.get(status)) is not None:
        found.append((b"x-should-retry", retry))
    if status == errors.Unauthenticated.status:
        found.append((b"www-authenticate", b"Bearer"))
    return found


def refused(does: str, problems: Sequence[Mapping[str, Any]]) -> str:
    """The message for what a schema refused: every field with what is wrong with it."""
    lines = list(dict.fromkeys(_line(problem) for problem in problems))
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"and {len(lines) - _SHOWN} more"]
    return f"cannot {does}: {'; '.join(lines)}"


def _line(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "json_invalid":
        return f"the body is not JSON: {problem['ctx']['error']}"
    where = _where(problem["loc"])
    return f"{where}: {_what(problem)}" if where else _what(problem)


def _where(loc: Iterable[str | int]) -> str:
    """`launch_parameters.launch_commands[2]`; the part of the request only when it is not the body."""
    first, *rest = [*loc] or [""]
    if first not in {"body", "query", "path"}:
        rest.insert(0, first)
    text = ""
    for step in rest:
        text += f"[{step}]" if isinstance(step, int) else f".{step[:100]}" if text else step[:100]
    return text


_WORDS: Final[Mapping[str, str]] = {
    "missing": "is missing",
    "extra_forbidden": "is not a field of this body",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "union_tag_not_found": "needs a type",
}


def _what(problem: Mapping[str, Any]) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in _WORDS:
        return _WORDS[kind]
    match kind:
        case "value_error":
            return str(context.get("error", problem["msg"]))
        case "string_pattern_mismatch":
            return f"is malformed: {_short(problem.get('input'))} does not match {context['pattern']}"
        case "string_too_long" | "too_long":
            return f"must have at most {context['max_length']} {_of(problem)}"
        case "string_too_short" | "too_short":
            return f"must have at least {context['min_length']} {_of(problem)}"
        case "literal_error" | "enum":
            return f"must be {context['expected']}, not {_short(problem.get('input'))}"
        case "union_tag_invalid":
            return f"type must be one of {context['expected_tags']}, not {_short(context['tag'])}"
        case "greater_than_equal" | "less_than_equal":
            bound = "at least" if kind == "greater_than_equal" else "at most"
            limit = context["ge" if "ge" in context else "le"]
            return f"must be {bound} {limit:g}, not {_short(problem.get('input'))}"
    text = str(problem["msg"])
    return text[:1].lower() + text[1:]


def _of(problem: Mapping[str, Any]) -> str:
    return "characters" if isinstance(problem.get("input"), str) else "entries"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "…"
