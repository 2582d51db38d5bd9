"""What the kernel says of the host's memory. Standard library only."""

from __future__ import annotations

from pathlib import Path


def available_share(text: str | None = None) -> float:
    """The share of the host's memory that programs could still have, 0 to 1. `text` as of /proc/meminfo."""
    lines = (Path("/proc/meminfo").read_text() if text is None else text).splitlines()
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return sizes["MemAvailable"] / sizes["MemTotal"]
