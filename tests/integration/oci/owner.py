"""A process that owns a driver and makes boxes until it is killed."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from corral.runtime.contract import ExecSpec
from corral.runtime.oci.settings import OciSettings
from tests.integration.oci.conftest import GUEST, IMAGES, Bench


async def main(data: Path, number: int, warm: int, *, go_on: bool) -> None:
    bench = Bench(OciSettings(data=data, guest=GUEST, layer_roots=(IMAGES,), warm=warm))
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("number", type=int)
    parser.add_argument("--warm", type=int, default=0)
    parser.add_argument("--go-on", action="store_true")
    given = parser.parse_args()
    asyncio.run(main(given.data, given.number, given.warm, go_on=given.go_on))
