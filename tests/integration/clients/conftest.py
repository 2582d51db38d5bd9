"""One server a module, on the fake runtime and on the real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.server import Server

RUNTIMES = ["fake", pytest.param("oci", marks=[pytest.mark.root, pytest.mark.image])]


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("clients") / "data", runtime=runtime) as one:
        yield one
