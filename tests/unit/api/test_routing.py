"""The table: each route with its right, found by its path alone."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from corral.api import later, routes
from corral.api.health import HealthRoutes
from corral.api.routing import Intake, Later, MethodNotAllowed, Route, Table
from corral.core import errors
from corral.devboxes.execution_routes import ExecutionRoutes
from corral.devboxes.pty_routes import PtyRoutes
from corral.devboxes.routes import DevboxRoutes, FileRoutes
from corral.identity.model import Need, Resource, Scope
from corral.identity.routes import IdentityRoutes
from corral.storage.routes import ObjectRoutes

NEED = Need(Resource.DEVBOXES, Scope.READ)


async def handler() -> None:
    """A handler."""


def table(*paths: str) -> Table:
    return Table(Route(method, path, handler, NEED, "test") for method, path in (one.split() for one in paths))


def test_a_fixed_segment_wins_over_a_parameter() -> None:
    found = table("GET /v1/a/{id}", "GET /v1/a/list", "GET /v1/a/{id}/b")
    assert found.find("GET", "/v1/a/x").path == "/v1/a/{id}"
    assert found.find("GET", "/v1/a/list").path == "/v1/a/list"
    assert found.find("GET", "/v1/a/list/b").path == "/v1/a/{id}/b"


def test_a_method_of_the_parameter_is_found_beside_a_fixed_segment_that_has_others() -> None:
    found = table("POST /v1/a/{id}", "GET /v1/a/list")
    assert found.find("POST", "/v1/a/list").path == "/v1/a/{id}"


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/a", "/v1/a/", "/v1/a/x/", "/v1/a/x/c", "//v1/a/x", "/V1/a/x"])
def test_other_paths_are_not_found(path: str) -> None:
    with pytest.raises(errors.NotFound):
        table("GET /v1/a/{id}", "GET /v1/a/{id}/b").find("GET", path)


def test_a_parameter_of_several_segments_takes_what_is_between_its_neighbours() -> None:
    found = table("GET /v1/k/{key:path}/values", "GET /v1/k", "GET /v1/{id}")
    for path in ("/v1/k/a/values", "/v1/k/a/b/values", "/v1/k//a//values", "/v1/k/values/values"):
        assert found.find("GET", path).path == "/v1/k/{key:path}/values"
    for path in ("/v1/k/values", "/v1/k//values", "/v1/k//values/x", "/v1/k/a", "/v1/k/a/values/"):
        with pytest.raises(errors.NotFound):
            found.find("GET", path)


def test_another_method_names_those_that_are_there() -> None:
    with pytest.raises(MethodNotAllowed) as refused:
        table("GET /v1/a/{id}", "POST /v1/a/{id}").find("DELETE", "/v1/a/x")
    assert refused.value.allowed == ("GET", "POST")


def test_a_route_is_in_the_table_once() -> None:
    with pytest.raises(ValueError, match="GET /v1/a is in the table twice"):
        table("GET /v1/a", "GET /v1/a")


class Anything:
    """Stands for every class of handlers: any attribute is a handler."""

    def __getattr__(self, name: str) -> Any:
        return handler


def every_route() -> list[Route]:
    stand_in: Any = Anything()
    names = [field.name for field in dataclasses.fields(routes.Handlers)]
    return [*routes.rows(routes.Handlers(**dict.fromkeys(names, stand_in)))]


def test_every_route_asks_for_a_right_but_those_that_are_public() -> None:
    public = [route.path for route in every_route() if route.need.resource is None]
    assert public == [*["/v1/objects/{object_id}/content"] * 2, "/healthz"]  # the content takes a token of its own
    for route in every_route():
        assert route.path in public or route.need.scope > Scope.NONE, route.path


def test_routes_that_change_something_ask_for_more_than_reading() -> None:
    looks = {"wait for devbox", "wait for execution", "preview blueprint"}
    for route in every_route():
        if route.method == "POST" and route.does not in looks:
            assert route.need.scope >= Scope.WRITE, route.path
    for row in later.rows():
        assert row.need.scope == (Scope.READ if row.method == "GET" else Scope.WRITE)


def test_only_creating_calls_and_input_are_replayed() -> None:
    replayed = {route.path.rsplit("/", 1)[-1] for route in every_route() if route.replay}
    creating = {
        "devboxes",
        "create_and_await_running",
        "fork",
        "snapshot_disk",
        "snapshot_disk_async",
        "objects",
        "restore",
    }
    creating |= {"blueprints", "create_from_inspection"}
    assert replayed == {*creating, "send_std_in"}


def test_offered_routes_and_later_ones_do_not_overlap() -> None:
    rows = Table([*every_route(), *later.rows()]).rows
    assert sum(isinstance(row, Later) for row in rows) > 80


def test_only_transfers_leave_their_body_to_the_handler() -> None:
    assert {route.path.rsplit("/", 1)[-1] for route in every_route() if route.intake is Intake.STREAM} == {
        "upload_file",
        "content",
    }


def test_every_handler_says_what_it_does() -> None:
    for one in (DevboxRoutes, ExecutionRoutes, FileRoutes, ObjectRoutes, PtyRoutes, IdentityRoutes, HealthRoutes):
        for name, method in inspect.getmembers(one, inspect.isfunction):
            if not name.startswith("_"):
                assert method.__doc__, f"{one.__name__}.{name}"
