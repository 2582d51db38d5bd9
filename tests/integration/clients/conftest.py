"""One server a module, on the fake runtime and on the real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.server import Server, free_port

RUNTIMES = ["fake", pytest.param("oci", marks=[pytest.mark.root, pytest.mark.image])]


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"CORRAL_SSH_LISTEN": f"127.0.0.1:{free_port()}"}
    with Server(tmp_path_factory.mktemp("clients") / "data", runtime=runtime, env=env) as one:
        yield one
