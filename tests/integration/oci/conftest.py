"""Real boxes of the stock image on this host, in a data folder of the test's own, and what they leave behind."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from corral.images.service import Images
from corral.runtime.contract import Box, BoxSpec, ExecResult, ExecSpec, Limits, Stream
from corral.runtime.oci.driver import OciRuntime
from corral.runtime.oci.settings import OciSettings, Places

IMAGES = Path(os.environ.get("CORRAL_IMAGES", "/var/lib/corral/images"))
GUEST = Path(os.environ.get("CORRAL_GUEST", Path(__file__).parents[3] / "guest" / "dist" / "corral-guest"))


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    result: ExecResult
    stdout: str
    stderr: str

    @property
    def code(self) -> int:
        return self.result.exit_code


class Bench:
    """A started driver, and short ways to make boxes and run commands."""

    def __init__(self, settings: OciSettings) -> None:
        self.settings = settings
        self.runtime = OciRuntime(settings)
        self.places = Places(settings.data.resolve(), settings.run)
        self._image = Images(IMAGES).resolve()
        self._numbers = itertools.count(1)

    def spec(self, box: str, limits: Limits | None = None) -> BoxSpec:
        return BoxSpec(
            box, self._image.layers, f"{box}-host", limits or Limits(), user=self._image.user, env=self._image.env
        )

    async def box(self, box: str, limits: Limits | None = None) -> Box:
        return await self.runtime.create(self.spec(box, limits))

    async def sh(self, box: str, command: str, user: str | None = None) -> Ran:
        name = f"e{next(self._numbers)}-{os.getpid()}"
        await self.runtime.execute(box, ExecSpec(name, ("bash", "-c", command), user=user))
        result: ExecResult | None = None
        async for progress in self.runtime.follow(box, name):
            result = progress.result
        assert result is not None
        texts = [self.runtime.read_output(box, name, s, 0, 1 << 20).decode() for s in (Stream.STDOUT, Stream.STDERR)]
        return Ran(result, *texts)

    async def reopen(self, **changes: object) -> None:
        await self.runtime.close()
        self.settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        self.runtime = OciRuntime(self.settings)
        await self.runtime.start()

    async def clear(self) -> None:
        for box in await self.runtime.boxes():
            await self.runtime.destroy(box.id)


@pytest.fixture
def settings(tmp_path: Path) -> OciSettings:
    return OciSettings(data=tmp_path / "data", guest=GUEST, layer_roots=(IMAGES,), slots_ready=2)


@pytest.fixture
async def bench(settings: OciSettings) -> AsyncIterator[Bench]:
    made = Bench(settings)
    await made.runtime.start()
    try:
        yield made
    finally:
        await made.clear()
        await made.runtime.close()
