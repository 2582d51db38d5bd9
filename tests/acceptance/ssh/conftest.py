"""One server for each runtime that listens for SSH, and a devbox that is entered."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.harness.openssh import OpenSsh
from tests.harness.server import Server, free_port

RUNTIMES = ("fake", pytest.param("oci", marks=[pytest.mark.root, pytest.mark.image]))


def new_devbox(server: Server) -> str:
    """The id of a devbox that runs."""
    path = f"{server.url}/v1/devboxes/create_and_await_running"
    view = httpx.post(path, json={}, headers=server.headers, timeout=60).raise_for_status().json()
    assert view["status"] == "running", view
    return str(view["id"])


@pytest.fixture(scope="session", params=RUNTIMES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"CORRAL_SSH_LISTEN": f"127.0.0.1:{free_port()}"}
    with Server(tmp_path_factory.mktemp(f"ssh-{request.param}") / "data", runtime=request.param, env=env) as running:
        yield running


@pytest.fixture(scope="session")
def shared(server: Server, tmp_path_factory: pytest.TempPathFactory) -> OpenSsh:
    """Into a devbox for tests that leave nothing in it that could disturb others."""
    return OpenSsh.into(server, new_devbox(server), tmp_path_factory.mktemp("shared"))


@pytest.fixture
def box(server: Server) -> str:
    """A devbox of the test's own."""
    return new_devbox(server)
