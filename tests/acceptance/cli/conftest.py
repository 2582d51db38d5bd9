"""One server for each runtime, the command line, and a devbox to work in."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.cli import Cli
from tests.harness.server import Server

RUNTIMES = ("fake", pytest.param("oci", marks=[pytest.mark.root, pytest.mark.image]))


@pytest.fixture(scope="session", params=RUNTIMES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp(f"cli-{request.param}") / "data", runtime=request.param) as running:
        yield running


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    return Cli(server, tmp_path)


@pytest.fixture(scope="session")
def shared_box(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A devbox for tests that leave nothing in it that could disturb others."""
    program = Cli(server, tmp_path_factory.mktemp("cli-box"))
    devbox_id = program.out("devbox", "create", "--name", "shared").strip()
    yield devbox_id
    program.out("devbox", "shutdown", devbox_id)


@pytest.fixture
def box(cli: Cli) -> Iterator[str]:
    """A devbox of the test's own."""
    devbox_id = cli.out("devbox", "create").strip()
    yield devbox_id
    done: subprocess.CompletedProcess[bytes] = cli.run("devbox", "shutdown", devbox_id)
    assert done.returncode == 0, done.stderr
