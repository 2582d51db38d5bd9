"""The OpenAPI document: what FastAPI knows of the handlers, made true to what the gate does.

Owns the error answers, the security scheme, the routes that answer 501 and the upload form. Must not invent a route:
all of them come from the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from corral import __version__
from corral.api.routing import Intake, Later, Route, Row
from corral.http.model import ErrorView

_SCHEMA: Final = "#/components/schemas/ErrorView"

#: Statuses that any route with a key may answer.
_ALWAYS: Final = (400, 401, 403, 500)

_WORDS: Final = {
    400: "The request cannot be carried out as it is, or the object is in the wrong state.",
    401: "No key, or one that is unknown, expired or revoked.",
    403: "The key has no right to this.",
    404: "There is no such object.",
    408: "It has not happened yet: ask again.",
    409: "Something else is under way that must end first.",
    413: "Too large.",
    416: "The content has no such range.",
    429: "A limit of the host is reached.",
    500: "An error in Corral.",
    501: "This server does not offer it.",
    503: "The host cannot do this now.",
}

_BYTES: Final = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}
_FORM: Final = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["path", "file"],
                "properties": {
                    "path": {"type": "string", "description": "Comes before `file`."},
                    "file": {"type": "string", "format": "binary"},
                },
            }
        }
    },
}


def document(routes: Iterable[BaseRoute], rows: Iterable[Row]) -> dict[str, Any]:
    """The document for `rows`; `routes` are FastAPI's for those that have a handler."""
    spec = get_openapi(
        title="Corral",
        version=__version__,
        description="Devboxes: computers for agents. Terminals are WebSockets at "
        "`/v1/devboxes/{devbox_id}/executions/{execution_id}/attach`.",
        routes=[*routes],
    )
    schemas = spec.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["ErrorView"] = ErrorView.model_json_schema()
    spec["components"]["securitySchemes"] = {
        "bearerAuth": {"type": "http", "scheme": "bearer"},
        "tunnelToken": {
            "type": "apiKey",
            "in": "header",
            "name": "X-Runloop-Tunnel-Authorization",
            "description": "`Bearer <auth_token>`, at the host `13-<tunnel_key>.tunnel.<domain>`.",
        },
    }
    for row in rows:
        if row.method == "WEBSOCKET":
            continue
        operations = spec["paths"].setdefault(row.documented, {})
        if isinstance(row, Later):
            operations[row.method.lower()] = _later(row)
        else:
            _complete(operations[row.method.lower()], row)
    return spec


def _complete(operation: dict[str, Any], route: Route) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    body = (413,) if route.intake in {Intake.JSON, Intake.STREAM} else ()
    public = route.need.resource is None
    always = () if public else _ALWAYS
    responses.update(_errors({*always, *body, *route.errors} - ({503} if "/healthz" in route.path else set())))
    operation["security"] = [] if public else [{"tunnelToken" if route.tunnel else "bearerAuth": []}]
    if route.intake is Intake.STREAM:
        operation["requestBody"] = _FORM if route.method == "POST" else _BYTES
    for name in route.query:
        if name.endswith("["):
            operation.setdefault("parameters", []).append(_map_parameter(name))


def _map_parameter(name: str) -> dict[str, Any]:
    schema = {"type": "object", "additionalProperties": {"type": "string"}}
    return {
        "name": name.removesuffix("["),
        "in": "query",
        "style": "deepObject",
        "explode": True,
        "schema": schema,
    }


def operation_id(method: str, path: str) -> str:
    """One for each route, from its method and path."""
    return method.lower() + re.sub(r"[^a-z0-9]+", "_", path.lower()).rstrip("_")


def _later(row: Later) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": f"{row.does.capitalize()}: not offered by this server",
        "operationId": operation_id(row.method, row.documented),
        "responses": dict(_errors({401, 403, 501})),
        "security": [{"bearerAuth": []}],
    }
    names = re.findall(r"{(\w+)}", row.documented)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    return operation


def _errors(statuses: Iterable[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    for status in sorted(statuses):
        content = {"application/json": {"schema": {"$ref": _SCHEMA}}}
        yield str(status), {"description": _WORDS[status], "content": content}
