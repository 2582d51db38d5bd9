"""What a data folder's boxes have left on the host. Empty after the last box is gone and its server has stopped."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path

from corral.runtime.linux import mounts
from corral.runtime.network import blocks
from corral.runtime.oci.settings import Places


def _of(target: str, places: Places) -> bool:
    return str(places.data) in target or target == str(places.memory)


def traces(places: Places) -> list[str]:
    """What is on the host of this data folder's boxes: mounts, loop devices, cgroups, processes, claims, links.

    Links count when they belong to no claim, as those of a data folder that has given all back.
    """
    found = [f"mount {mount.target}" for mount in mounts.current() if _of(mount.target, places)]
    backings = Path("/sys/block").glob("loop*/loop/backing_file")
    found += [f"loop {backing}" for backing in backings if str(places.data) in backing.read_text()]
    # What is hidden below a mount of the host's, too.
    look = 'umount /sys/fs/cgroup/unified 2>/dev/null; find /sys/fs/cgroup -path "*/corral-$0/*"'
    hidden = subprocess.run(
        ["unshare", "-m", "sh", "-c", look, places.instance], capture_output=True, text=True, check=False
    )
    found += [f"cgroup {line}" for line in hidden.stdout.splitlines()]
    found += [f"box {path}" for path in places.boxes.glob("*")]
    found += [f"prepared box {path}" for path in places.prepared.glob("*")]
    found += [f"bundle {path}" for path in places.bundles.glob("*")]
    claims = {
        int(claim.name): claim.read_text() for claim in (places.run / "blocks").glob("*") if claim.name.isdigit()
    }
    found += [f"claim {block}" for block, owner in claims.items() if owner == str(places.data)]
    for link in Path("/sys/class/net").glob(f"{blocks.LINK_PREFIX}[0-9]*"):
        number = int(link.name.removeprefix(blocks.LINK_PREFIX))
        if number // blocks.SLOTS_PER_BLOCK not in claims:
            found.append(f"link {link.name}")
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout.split()
    found += [f"table {places.table}"] if places.table in tables else []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(places.data) in (process / "mountinfo").read_text() and process.name != str(os.getpid()):
                found.append(f"process {(process / 'cmdline').read_text()}")
        except OSError:
            continue
    return found


async def gone(places: Places, within_s: float = 5) -> list[str]:
    """What is left after a while: the kernel takes namespaces, links and control groups down in the background."""
    deadline = time.monotonic() + within_s
    while (left := await asyncio.to_thread(traces, places)) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return left
