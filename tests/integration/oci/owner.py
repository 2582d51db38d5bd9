"""A process that owns a driver and makes boxes until it is killed: `python owner.py <data> <number> [go on]`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from corral.runtime.contract import ExecSpec
from corral.runtime.oci.settings import OciSettings
from tests.integration.oci.conftest import GUEST, IMAGES, Bench


async def main(data: Path, number: int, *, go_on: bool) -> None:
    bench = Bench(OciSettings(data=data, guest=GUEST, layer_roots=(IMAGES,)))
    await bench.runtime.start()
    await asyncio.gather(*(bench.box(f"box{count}") for count in range(number)))
    await bench.runtime.execute("box0", ExecSpec("late", ("bash", "-c", "sleep 1; echo survived; exit 7")))
    print("ready", flush=True)
    count = number
    while go_on:
        await asyncio.gather(*(bench.box(f"box{count + more}") for more in range(4)))
        count += 4
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), go_on=len(sys.argv) > 3))
