"""The runtimes that the contract's checks run against, each started once for all of them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from corral.images.service import Images
from corral.runtime.conformance import Bench, Hooks
from corral.runtime.contract import BoxSpec, Runtime
from corral.runtime.fake import DIFFERENCES, FakeHost, FakeRuntime
from corral.runtime.oci.driver import OciRuntime
from corral.runtime.oci.settings import OciSettings

IMAGES = Path(os.environ.get("CORRAL_IMAGES", "/var/lib/corral/images"))
GUEST = Path(os.environ.get("CORRAL_GUEST", Path(__file__).parents[2] / "guest" / "dist" / "corral-guest"))


@dataclass
class Stand:
    """A started runtime and what the checks need to know of it. A check may put a restarted one in its place."""

    runtime: Runtime
    factory: Callable[[str], BoxSpec]
    hooks: Hooks = field(default_factory=Hooks)
    differences: Mapping[str, str] = field(default_factory=dict)

    def bench(self) -> Bench:
        return Bench(self.runtime, self.factory, self.hooks)


def _restart(make: Callable[[], Runtime]) -> Callable[[Runtime], Awaitable[Runtime]]:
    async def reopen(old: Runtime) -> Runtime:
        await old.close()
        new = make()
        await new.start()
        return new

    return reopen


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fake(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    """The fake, on a host of its own."""
    with FakeHost(tmp_path_factory.mktemp("host")) as host:
        runtime = FakeRuntime(host)
        await runtime.start()
        hooks = Hooks(
            kill=lambda box: host.kill_box(box.id),
            stop=lambda box: host.stop_box(box.id),
            reopen=_restart(lambda: FakeRuntime(host)),
        )
        stand = Stand(runtime, lambda box: BoxSpec(box, (), "conformance"), hooks, DIFFERENCES)
        yield stand
        await stand.runtime.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[0, 4], ids=["made", "prepared"])
async def oci(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> AsyncIterator[Stand]:
    """The OCI driver with the stock image, in a data folder of its own, with boxes prepared ahead and without."""
    image = Images(IMAGES).resolve()
    data = tmp_path_factory.mktemp("data")
    settings = OciSettings(data=data, guest=GUEST, layer_roots=(IMAGES,), warm=request.param)

    def spec(box: str) -> BoxSpec:
        return BoxSpec(box, image.layers, "conformance", user=image.user, env=image.env)

    runtime = OciRuntime(settings)
    await runtime.start()
    stand = Stand(runtime, spec, Hooks(reopen=_restart(lambda: OciRuntime(settings))))
    yield stand
    for box in await stand.runtime.boxes():
        await stand.runtime.destroy(box.id)
    await stand.runtime.close()
