"""Puts the HTTP side together: handlers, table, FastAPI, gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from corral.api import later, openapi
from corral.api import routes as table
from corral.api.gate import Gate
from corral.api.health import HealthRoutes, Probe
from corral.api.replay import Replays
from corral.api.routing import Intake, Route, Table
from corral.core.clock import Clock
from corral.core.store.store import Store
from corral.devboxes import service
from corral.devboxes.execution_routes import ExecutionRoutes
from corral.devboxes.pty_routes import PtyRoutes
from corral.devboxes.routes import DevboxRoutes, FileRoutes
from corral.devboxes.ssh.routes import SshRoutes
from corral.http.hold import Drain
from corral.identity.routes import IdentityRoutes
from corral.identity.service import Identity
from corral.images.blueprints.routes import BlueprintRoutes
from corral.images.blueprints.service import Blueprints
from corral.images.remote import RemoteCopies
from corral.images.remote_routes import RemoteRoutes
from corral.images.snapshot_routes import SnapshotRoutes
from corral.images.snapshots import Snapshots
from corral.storage.routes import ObjectRoutes
from corral.storage.service import Objects


class _Inner(FastAPI):
    """FastAPI without its error pages: every failure reaches the gate as it was raised."""

    def build_middleware_stack(self) -> ASGIApp:
        return AsyncExitStackMiddleware(self.router)


def build(
    *,
    store: Store,
    clock: Clock,
    identity: Identity,
    devboxes: service.Devboxes,
    snapshots: Snapshots,
    blueprints: Blueprints,
    objects: Objects,
    remote: RemoteCopies,
    tails: service.LogTails,
    executions: service.Executions,
    files: service.Files,
    sessions: service.Sessions,
    tunnels: service.PtyTunnels,
    ssh_keys: service.SshKeys,
    health: Probe,
    architecture: str,
    url: str | None = None,
) -> Gate:
    """Return the ASGI application. `architecture` is the host's: `x86_64` or `arm64`.

    `url` is the address that clients reach it at; None: whatever each of them has.
    `health` says why no box can be created now. Serve it without lifespan; `Gate.close` ends it.
    """
    handlers = table.Handlers(
        health=HealthRoutes(health),
        identity=IdentityRoutes(identity),
        devboxes=DevboxRoutes(devboxes, tails, architecture=architecture),
        executions=ExecutionRoutes(executions, sessions),
        files=FileRoutes(files),
        snapshots=SnapshotRoutes(snapshots),
        blueprints=BlueprintRoutes(blueprints),
        objects=ObjectRoutes(objects, url=url),
        remote=RemoteRoutes(remote),
        ptys=PtyRoutes(devboxes, executions, sessions, tunnels),
        ssh=SshRoutes(ssh_keys),
    )
    offered = [*table.rows(handlers)]
    return Gate(*_compose(offered), identity, tunnels, Replays(store, clock), Drain())


def _compose(offered: Sequence[Route]) -> tuple[ASGIApp, Table]:
    """FastAPI for the routes that are offered, and the table with all of them and the document that describes it."""
    inner = _Inner(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    described: dict[str, Any] = {}

    async def document() -> Response:
        """This document."""
        return JSONResponse(described)

    rows = [*offered, Route("GET", "/openapi.json", document, table.PUBLIC, "show the API's description")]
    for route in rows:
        add(inner, route)
    full = Table([*rows, *later.rows()])
    described.update(openapi.document(inner.routes, full.rows))
    return inner, full


def add(inner: FastAPI, route: Route) -> None:
    """Give FastAPI a row of the table."""
    if route.intake is Intake.SOCKET:
        inner.add_api_websocket_route(route.path, route.handler)
        return
    answer = type("Answer", (Response,), {"media_type": route.media_type})
    inner.add_api_route(
        route.path,
        route.handler,
        methods=[route.method],
        response_model=dict[str, Any] if route.answers is dict else route.answers,
        response_model_exclude_none=True,
        response_class=JSONResponse if route.media_type == "application/json" else answer,
        summary=route.does[:1].upper() + route.does[1:],
        operation_id=openapi.operation_id(route.method, route.documented),
    )
