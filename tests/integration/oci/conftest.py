"""Real boxes of the stock image on this host, in a data folder of the test's own, and what they leave behind."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from corral.images.service import Images
from corral.runtime.contract import Box, BoxSpec, ExecResult, ExecSpec, Limits, Stream
from corral.runtime.linux import mounts
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


def _of(target: str, places: Places) -> bool:
    return str(places.data) in target or target == str(places.memory)


def traces(places: Places) -> list[str]:
    """What is on the host of this data folder's boxes: mounts, loop devices, cgroups, links, processes, claims."""
    found = [f"mount {mount.target}" for mount in mounts.current() if _of(mount.target, places)]
    backings = Path("/sys/block").glob("loop*/loop/backing_file")
    found += [f"loop {backing}" for backing in backings if str(places.data) in backing.read_text()]
    # What is hidden below a mount of the host's, too.
    look = 'umount /sys/fs/cgroup/unified 2>/dev/null; find /sys/fs/cgroup -path "*/corral-$0/*"'
    hidden = subprocess.run(["unshare", "-m", "sh", "-c", look, places.instance], capture_output=True, text=True)
    found += [f"cgroup {line}" for line in hidden.stdout.splitlines()]
    found += [f"box {path}" for path in places.boxes.glob("*")]
    found += [f"bundle {path}" for path in places.bundles.glob("*")]
    for claim in (places.run / "blocks").glob("*"):
        if claim.read_text() == str(places.data):
            found.append(f"claim {claim}")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(places.data) in (process / "mountinfo").read_text() and process.name != str(os.getpid()):
                found.append(f"process {(process / 'cmdline').read_text()}")
        except OSError:
            continue
    return found
